"""FLUX.2's autoencoder at its real width, and the tiny ones: what each pipeline hands over, sent by diffusers' own client."""

import functools
import io
import json

import diffusers
import numpy as np
import pytest
import requests
import torch
from compare import assert_bytes, assert_floats, assert_latents
from diffusers import Flux2Pipeline
from diffusers.utils.remote_utils import remote_decode
from models import FLUX, SDXL, Model
from PIL import Image
from place import ROOT
from service import serving

HEIGHT, WIDTH = 96, 144


class Flux2(Model):
    """Normalises patches by statistics of its weights, and has no factors."""

    @functools.cached_property
    def statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        bn = self.reference.bn
        deviation = torch.sqrt(bn.running_var + self.reference.config.batch_norm_eps)
        return bn.running_mean.view(1, -1, 1, 1), deviation.view(1, -1, 1, 1)

    def normalised(self) -> torch.Tensor:
        """Patches [1, 128, h, w] as the transformer leaves them, in bfloat16 as pipelines run."""
        shape = (1, 4 * self.latent_channels, HEIGHT // 16, WIDTH // 16)
        return torch.randn(shape, generator=torch.Generator().manual_seed(6)).bfloat16()

    def unscaled(self, latents: torch.Tensor) -> torch.Tensor:
        mean, deviation = self.statistics
        return Flux2Pipeline._unpatchify_latents(latents.float() * deviation + mean)


FLUX2 = Flux2("flux2", 32, 1.0, recipe=("flux2", "--seed", "5", "--dtype", "bfloat16"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> diffusers.AutoencoderTiny:
    """A tiny autoencoder whose pictures lie mostly in [-1, 1]."""
    model = diffusers.AutoencoderTiny.from_pretrained(ROOT / "fixtures" / "vae" / "tiny").requires_grad_(False)
    model.decoder.layers[-1].weight *= 0.15
    model.decoder.layers[-1].bias.fill_(0.5)
    model.folder = tmp_path_factory.mktemp("tiny")
    model.save_pretrained(model.folder)
    return model


@pytest.fixture(scope="module")
def service(tmp_path_factory, tiny):
    """FLUX.2's model, the same in the ways of other pipelines, and a tiny one that makes previews."""
    arguments = [
        f"--model=flux2={FLUX2.folder}",
        f"--model=fibo2={FLUX2.folder},pipeline=bria_fibo2",
        f"--model=sdxl={SDXL.folder}",
        f"--model=tiny={tiny.folder}",
        "--preview=sdxl=tiny",
        "--lazy",
    ]
    with serving(arguments, tmp_path_factory.mktemp("flux2") / "log") as service:
        yield service


@pytest.fixture(scope="module")
def expected() -> torch.Tensor:
    return FLUX2.decoded(FLUX2.unscaled(FLUX2.normalised()))


def decode(service, name: str, latents: torch.Tensor, **options) -> torch.Tensor:
    return remote_decode(f"{service.url}/{name}", latents, output_type="pt", return_type="pt", **options)


def tokens(patches: torch.Tensor) -> torch.Tensor:
    """As the transformer leaves them. diffusers' client sends other bytes of a tensor that is not contiguous."""
    return Flux2Pipeline._pack_latents(patches).contiguous()


# What pipelines hand over for a request: the latents, and what their users send with them.
LAYOUTS = {
    "Flux2Pipeline": (tokens, {"height": HEIGHT, "width": WIDTH}),
    "Flux2Pipeline, sizes that are rounded down": (
        tokens,
        {"height": HEIGHT + 15, "width": WIDTH + 9},
    ),
    "ComfyUI and ERNIE-Image, patches": (lambda x: x, {}),
    "patches with a size": (lambda x: x, {"height": HEIGHT, "width": WIDTH}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("do_scaling", [True, False])
def test_normalised_latents(service, expected, layout, do_scaling):
    arrange, size = LAYOUTS[layout]
    assert_floats(decode(service, "flux2", arrange(FLUX2.normalised()), do_scaling=do_scaling, **size), expected)


@pytest.mark.parametrize("do_scaling", [True, False])
def test_latents_as_the_model_takes_them(service, expected, do_scaling):
    """Flux2KleinPipeline and ComfyUI's VAE space."""
    latents = FLUX2.unscaled(FLUX2.normalised())
    assert_floats(decode(service, "flux2", latents, do_scaling=do_scaling), expected)
    # In another pipeline 32 channels are normalised, too.
    plain = Flux2Pipeline._unpatchify_latents(FLUX2.normalised())
    assert_floats(decode(service, "fibo2", plain, do_scaling=do_scaling), expected)


def test_a_picture(service, expected):
    packed = tokens(FLUX2.normalised())
    picture = remote_decode(f"{service.url}/flux2", packed, height=HEIGHT, width=WIDTH, image_format="png")
    assert picture.size == (WIDTH, HEIGHT)
    assert_bytes(np.asarray(picture)[None], expected)


def test_factors_are_left_out_of_account_and_that_is_said(service, expected):
    latents = FLUX2.normalised().half()
    query = {"shape": list(latents.shape), "dtype": "float16", "scaling_factor": 0.3611, "output_type": "pt"}
    headers = {"Content-Type": "tensor/binary", "Accept": "tensor/binary"}
    answer = requests.post(f"{service.url}/flux2", params=query, headers=headers, data=latents.numpy().tobytes(), timeout=300)
    assert "left out of account" in answer.headers["x-warning"]
    got = torch.from_numpy(np.frombuffer(answer.content, np.float16).copy()).reshape(json.loads(answer.headers["shape"]))
    assert_floats(got, FLUX2.decoded(FLUX2.unscaled(latents)))


def test_encode(service):
    """As Flux2Pipeline._encode_vae_image: patches that are normalised; without scaling what the encoder gives."""
    pixels = torch.rand(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(7)) * 2 - 1
    mode = FLUX2.posterior(pixels).mode()
    mean, deviation = FLUX2.statistics
    normalised = (Flux2Pipeline._patchify_latents(mode) - mean) / deviation
    for do_scaling, wanted in [(True, normalised), (False, mode)]:
        query = {"shape": list(pixels.shape), "dtype": "float32", "task": "encode", "sample_mode": "argmax"}
        query |= {"do_scaling": do_scaling, "out_dtype": "float32"}
        headers = {"Content-Type": "tensor/binary"}
        body = pixels.numpy().tobytes()
        answer = requests.post(f"{service.url}/flux2", params=query, headers=headers, data=body, timeout=300)
        assert answer.ok, answer.text
        shape = json.loads(answer.headers["shape"])
        got = torch.from_numpy(np.frombuffer(answer.content, answer.headers["dtype"]).copy()).reshape(shape)
        assert_latents(got, wanted)


def test_what_the_server_says_of_it(service):
    [found] = [model for model in requests.get(f"{service.url}/models", timeout=60).json()["models"] if model["name"] == "flux2"]
    assert (found["class_name"], found["latent_channels"], found["tokens"]) == ("AutoencoderKLFlux2", 32, "patches")
    assert found["scaling_factor"] is None and found["batch_norm"]["eps"] == pytest.approx(1e-4)
    np.testing.assert_allclose(found["batch_norm"]["running_mean"], FLUX2.reference.bn.running_mean.numpy(), rtol=1e-6)


def test_latents_of_other_models_are_refused(service):
    packed = torch.zeros(1, 24, 64)
    with pytest.raises(RuntimeError, match="128"):
        remote_decode(f"{service.url}/flux2", packed, height=64, width=96, output_type="pt", return_type="pt")
    latents = FLUX.latents(1, 4, 6)
    with pytest.raises(RuntimeError, match=r"\[B, 32, h, w\].*\[B, 128, h, w\]"):
        remote_decode(f"{service.url}/flux2", latents, output_type="pt", return_type="pt")


@pytest.mark.parametrize("options", [{"do_scaling": True}, {"scaling_factor": 0.13025}, {"do_scaling": False}], ids=str)
def test_a_tiny_autoencoder_takes_latents_as_the_pipeline_has_them(service, tiny, options):
    """Whatever factors a client sends, as those of SDXL do."""
    latents = SDXL.latents(1, 9, 12)
    assert_floats(decode(service, "tiny", latents, **options), tiny.decode(latents.float()).sample)


def test_a_preview_by_a_tiny_autoencoder(service, tiny):
    """The first part is what the tiny model makes of the latents as the pipeline has them, the second the picture."""
    latents = SDXL.latents(1, 9, 12)
    preview = tiny.decode(latents.float()).sample
    query = {"shape": list(latents.shape), "dtype": "float16", "scaling_factor": SDXL.scaling_factor}
    query |= {"preview": "tiny", "image_format": "png"}
    answer = requests.post(
        f"{service.url}/sdxl",
        params=query,
        headers={"Content-Type": "tensor/binary"},
        data=latents.numpy().tobytes(),
        timeout=300,
    )
    boundary = answer.headers["Content-Type"].split("boundary=")[1].encode()
    parts = answer.content.split(b"--" + boundary)[1:-1]
    pictures = [np.asarray(Image.open(io.BytesIO(part.split(b"\r\n\r\n", 1)[1]))) for part in parts]
    assert len(pictures) == 2
    assert_bytes(pictures[0][None], preview)
    assert_bytes(pictures[1][None], SDXL.decoded(SDXL.unscaled(latents)))
