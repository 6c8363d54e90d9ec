"""Each family at its real configuration: the installed diffusers client against the server, next to diffusers itself."""

import numpy as np
import pytest
import requests
import torch
from compare import assert_bytes, assert_floats, assert_jpeg_like_pillow, pixels
from diffusers.utils.remote_utils import remote_decode
from models import FLUX, REAL, SD_V1

DTYPES = [torch.float16, torch.bfloat16, torch.float32]

each_model = pytest.mark.parametrize("model", REAL, ids=lambda model: model.name)


def decode(server, model, latents, **options):
    """The client's call as its documentation shows it, with the factors of the model."""
    options = {"scaling_factor": model.scaling_factor, "shift_factor": model.shift_factor} | options
    return remote_decode(f"{server.url}/{model.name}", latents, **options)


@each_model
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_odd_sizes_in_every_input_type(server, model, dtype):
    latents = model.latents(1, 17, 31, dtype=dtype)
    got = decode(server, model, latents, output_type="pt", return_type="pt")
    assert_floats(got, model.decoded(model.unscaled(latents)))


@each_model
def test_a_batch_of_three(server, model):
    latents = model.latents(3, 9, 14, seed=1)
    reference = model.decoded(model.unscaled(latents))
    assert_floats(decode(server, model, latents, output_type="pt", return_type="pt"), reference)

    pictures = decode(server, model, latents, output_type="pt", partial_postprocess=True)
    assert [picture.size for picture in pictures] == [(14 * 8, 9 * 8)] * 3
    assert_bytes(np.stack([np.asarray(picture) for picture in pictures]), reference)


@each_model
def test_pictures(server, model):
    """The 8-bit tensor, the PNG and the JPEG of one decode."""
    latents = model.latents(1, 17, 31)
    tensor = decode(server, model, latents, output_type="pt", return_type="pt", partial_postprocess=True)
    assert_bytes(tensor.numpy(), model.decoded(model.unscaled(latents)))

    png = decode(server, model, latents, image_format="png")
    assert png.format == "png"
    assert np.array_equal(np.asarray(png), tensor[0].numpy())

    # The client hands out decoded pixels only, so the file itself is fetched without it.
    query = {"shape": list(latents.shape), "dtype": "float16", "scaling_factor": model.scaling_factor}
    if model.shift_factor is not None:
        query["shift_factor"] = model.shift_factor
    headers = {"Content-Type": "tensor/binary", "Accept": "image/jpeg"}
    url = f"{server.url}/{model.name}"
    answer = requests.post(url, params=query, headers=headers, data=latents.numpy().tobytes(), timeout=120)
    assert answer.status_code == 200, answer.text
    assert_jpeg_like_pillow(answer.content, np.asarray(png))
    jpeg = decode(server, model, latents, image_format="jpg")
    assert jpeg.format == "jpeg"
    assert np.array_equal(np.asarray(jpeg), pixels(answer.content, "JPEG"))


@each_model
def test_factors_of_the_configuration_and_none(server, model):
    """`do_scaling=True` alone uses the model's own factors; without it and without factors nothing is scaled."""
    latents = model.latents(1, 5, 6, seed=2)
    pt = {"output_type": "pt", "return_type": "pt"}
    url = f"{server.url}/{model.name}"
    own = remote_decode(url, latents, **pt)
    assert_floats(own, model.decoded(model.unscaled(latents)))
    assert torch.equal(own, decode(server, model, latents, **pt))

    # What the caller scaled in float32 and sends as it is.
    ready = model.unscaled(latents)
    assert_floats(remote_decode(url, ready, do_scaling=False, **pt), model.decoded(ready))


@each_model
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (7, 2)])
def test_tiny_latents(server, model, height, width):
    latents = model.latents(1, height, width, seed=3)
    got = decode(server, model, latents, output_type="pt", return_type="pt")
    reference = model.decoded(model.unscaled(latents))
    assert_floats(got, reference)


def test_512_by_512(server):
    latents = SD_V1.latents(1, 64, 64, seed=4)
    got = decode(server, SD_V1, latents, output_type="pt", return_type="pt")
    assert_floats(got, SD_V1.decoded(SD_V1.unscaled(latents)))


def test_the_first_model_is_the_default(server):
    latents = SD_V1.latents(1, 3, 4, seed=5)
    pt = {"output_type": "pt", "return_type": "pt", "scaling_factor": SD_V1.scaling_factor}
    named = remote_decode(f"{server.url}/sd-v1", latents, **pt)
    for path in ("", "/", "/predict", "/predict/", "/sd-v1/", "/sd-v1/predict", "/sd-v1/predict/", "/?model=sd-v1"):
        assert torch.equal(remote_decode(server.url + path, latents, **pt), named), path


def packed(latents: torch.Tensor) -> torch.Tensor:
    """`FluxPipeline._pack_latents`: [B, C, h, w] to [B, h/2 * w/2, 4C]."""
    batch, channels, height, width = latents.shape
    blocks = latents.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return blocks.reshape(batch, height // 2 * (width // 2), channels * 4)


def test_packing_is_what_the_flux_pipeline_does():
    from diffusers import FluxPipeline

    latents = FLUX.latents(2, 6, 10)
    assert torch.equal(packed(latents), FluxPipeline._pack_latents(latents, 2, 16, 6, 10))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("batch", [1, 2])
def test_packed_flux_latents(server, batch, dtype):
    latents = FLUX.latents(batch, 10, 14, dtype=dtype, seed=6)
    pt = {"output_type": "pt", "return_type": "pt"}
    got = decode(server, FLUX, packed(latents), height=80, width=112, **pt)
    assert_floats(got, FLUX.decoded(FLUX.unscaled(latents)))
    assert torch.equal(got, decode(server, FLUX, latents, **pt)), "packed and unpacked latents are the same picture"


def test_packed_sizes_round_down_to_sixteen(server):
    """Flux pipelines make 2 * (pixels // 16) latents of a size that 16 does not divide."""
    latents = FLUX.latents(1, 4, 6, seed=7)
    got = decode(server, FLUX, packed(latents), height=47, width=63, image_format="png")
    assert got.size == (48, 32)


def test_unpacked_latents_ignore_height_and_width(server):
    latents = FLUX.latents(1, 5, 7, seed=8)
    pt = {"output_type": "pt", "return_type": "pt"}
    plain = decode(server, FLUX, latents, **pt)
    assert torch.equal(decode(server, FLUX, latents, height=1, width=99999, **pt), plain)
