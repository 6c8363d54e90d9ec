"""Real pipelines of diffusers with `RemoteAutoencoder` as their VAE give the pictures that the local VAE gives."""

import json
import threading

import diffusers
import numpy as np
import pytest
import remote_vae
import torch
from diffusers import AutoencoderKL, AutoencoderKLHunyuanVideo
from PIL import Image
from place import PHOTOGRAPH, ROOT
from remote_vae import RemoteAutoencoder
from standing_in import refusal
from tiny_pipelines import flux, hunyuan_video, run, stable_diffusion, stable_diffusion_xl

VAES = ROOT / "fixtures" / "vae"
FOLDERS = {"sd": VAES / "sd-like", "flux": VAES / "flux-like", "video": VAES / "video"}
PICTURE = Image.open(PHOTOGRAPH).convert("RGB").resize((64, 64))
MASK = Image.fromarray(np.pad(np.full((32, 32), 255, np.uint8), 16))


def local(name: str):
    kind = AutoencoderKLHunyuanVideo if name == "video" else AutoencoderKL
    variant = "fp16" if name == "flux" else None
    return kind.from_pretrained(FOLDERS[name], variant=variant, low_cpu_mem_usage=False).eval().requires_grad_(False)


PIPELINES = {
    "StableDiffusionPipeline": ("sd", stable_diffusion, {"height": 64, "width": 64, "num_images_per_prompt": 2}),
    "StableDiffusionImg2ImgPipeline": ("sd", stable_diffusion, {"image": PICTURE, "strength": 0.9}),
    "StableDiffusionInpaintPipeline": (
        "sd",
        stable_diffusion,
        {"image": PICTURE, "mask_image": MASK, "height": 64, "width": 64, "strength": 0.9},
    ),
    "StableDiffusionXLPipeline": ("sd", stable_diffusion_xl, {"height": 64, "width": 64}),
    "StableDiffusionXLImg2ImgPipeline": ("sd", stable_diffusion_xl, {"image": PICTURE, "strength": 0.9}),
    "FluxPipeline": ("flux", flux, {"height": 64, "width": 64}),
    "FluxImg2ImgPipeline": ("flux", flux, {"image": PICTURE, "height": 64, "width": 64, "strength": 0.9}),
    "HunyuanVideoPipeline": ("video", hunyuan_video, {"height": 32, "width": 48}),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_runs_unchanged(server, name):
    model, family, arguments = PIPELINES[name]
    kind = getattr(diffusers, name)
    expected, got = (
        run(family(kind, vae), family, **arguments) for vae in (local(model), RemoteAutoencoder(server.url, model))
    )
    expected, got = ((np.asarray(values) * 255).round() for values in (expected, got))
    assert got.shape == expected.shape and expected.std() > 4
    assert np.abs(got - expected).max() <= 1


def test_a_pipeline_on_disk_takes_it(server, tmp_path):
    """As `from_pretrained` checks what it is given."""
    pipeline = stable_diffusion(diffusers.StableDiffusionPipeline, local("sd"))
    expected = run(pipeline, stable_diffusion, height=64, width=64)
    pipeline.save_pretrained(tmp_path)
    vae = RemoteAutoencoder(server.url, "sd")
    nothing = dict.fromkeys(["text_encoder", "tokenizer", "safety_checker", "feature_extractor", "image_encoder"])
    loaded = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path, vae=vae, **nothing)
    assert loaded.vae is vae
    assert np.abs(run(loaded, stable_diffusion, height=64, width=64) - expected).max() <= 1.01 / 255
    # Another pipeline of the same components wants it by name, as it is no AutoencoderKL.
    assert diffusers.StableDiffusionImg2ImgPipeline.from_pipe(loaded, vae=vae).vae is vae
    loaded.to(torch.bfloat16)
    assert vae.dtype == torch.bfloat16 and vae.device == torch.device("cpu")
    loaded.vae.enable_slicing()
    loaded.vae.enable_tiling()
    assert vae.use_slicing and vae.use_tiling


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["sd", "flux", "video"])
def test_decode_and_encode(server, name, dtype):
    """Values, and types: those of what was given."""
    reference, vae = local(name), RemoteAutoencoder(f"{server.url}/{name}")
    generator = torch.Generator().manual_seed(0)
    shape = (2, reference.config.latent_channels, 2, 4, 6) if name == "video" else (2, reference.config.latent_channels, 4, 6)
    latents = torch.randn(shape, generator=generator).to(dtype)
    expected = reference.decode(latents.float()).sample
    sample = vae.decode(latents).sample
    assert sample.dtype == dtype and sample.device == latents.device
    assert torch.equal(vae.decode(latents, return_dict=False)[0], sample)
    assert_close(sample, expected, dtype)

    # Bright everywhere: no value tells that these are in [-1, 1].
    pixels = expected.clamp(-1, 1) / 4 + 0.5
    pixels = pixels.to(dtype)
    posterior = reference.encode(pixels.float()).latent_dist
    remote = vae.encode(pixels).latent_dist
    assert type(remote) is type(posterior) and remote.mean.dtype == dtype
    for got, wanted in [(remote.mode(), posterior.mode()), (remote.logvar, posterior.logvar)]:
        assert_close(got, wanted, dtype)
    if dtype == torch.float32:
        seeded = lambda: torch.Generator().manual_seed(3)
        assert_close(remote.sample(seeded()), posterior.sample(seeded()), dtype)
    assert torch.equal(vae.encode(pixels, return_dict=False)[0].mode(), remote.mode())
    vae.enable_slicing()
    assert_close(vae.decode(latents).sample, sample.float(), dtype)
    assert_close(vae(pixels).sample, vae.decode(remote.mode()).sample.float(), dtype)


def assert_close(got: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    """Within the rounding of their type, and 3e-4 for the engines' own."""
    assert got.shape == expected.shape
    bound = {torch.float32: 3e-4, torch.float16: 1.5e-3, torch.bfloat16: 1e-2}[dtype]
    error = ((got.float() - expected).abs() / expected.abs().clamp(min=1)).max().item()
    assert error <= bound, f"largest error {error:.2e}"


def test_tiles_and_frames_are_the_servers(server):
    vae, reference = RemoteAutoencoder(server.url, "sd"), local("sd")
    latents = torch.randn(1, 4, 72, 4, generator=torch.Generator().manual_seed(0))
    whole = vae.decode(latents).sample
    vae.enable_tiling()
    tiled = vae.decode(latents).sample
    reference.enable_tiling()
    assert not torch.equal(tiled, whole)
    assert_close(tiled, reference.decode(latents).sample, torch.float32)
    vae.disable_tiling()
    assert torch.equal(vae.decode(latents).sample, whole)
    with pytest.raises(remote_vae.InputError, match="sizes of tiles"):
        vae.enable_tiling(tile_sample_min_height=64)


@pytest.mark.parametrize("name", ["sd", "flux", "video"])
def test_the_configuration_is_the_models(server, name):
    reference, vae = local(name), RemoteAutoencoder(server.url, name)
    for key in ["latent_channels", "scaling_factor", "in_channels", "out_channels"]:
        assert vae.config[key] == pytest.approx(reference.config[key])
    for key in ["shift_factor", "latents_mean", "latents_std"]:
        assert vae.config[key] == pytest.approx(reference.config.get(key))
    assert len(vae.config.block_out_channels) == len(reference.config.block_out_channels)
    if name == "video":
        assert vae.temporal_compression_ratio == reference.temporal_compression_ratio == 4
        assert vae.spatial_compression_ratio == reference.spatial_compression_ratio == 8
    assert list(vae.parameters()) == [] and not vae.training
    assert vae.state_dict() == {}
    vae.requires_grad_(False).eval().to(torch.float16)
    assert vae.dtype == torch.float16


def test_offloading_moves_other_models_away(server):
    """What `enable_model_cpu_offload` hangs on a component is called before it works."""
    vae, calls = RemoteAutoencoder(server.url, "sd"), []

    class Hook:
        def pre_forward(self, module):
            calls.append(module)

    vae._hf_hook = Hook()
    vae.decode(torch.zeros(1, 4, 2, 2))
    vae.encode(torch.zeros(1, 3, 16, 16))
    assert calls in ([], [vae, vae])  # without accelerate, diffusers calls none
    assert bool(calls) == diffusers.utils.is_accelerate_available()


def answering(models: list[dict]) -> tuple[int, dict[str, str], bytes]:
    return 200, {"content-type": "application/json"}, json.dumps({"models": models}).encode()


# As families that are not served yet would be told.
FLUX2 = {
    "name": "flux2",
    "default": True,
    "class_name": "AutoencoderKLFlux2",
    "latent_channels": 32,
    "spatial_factor": 8,
    "temporal_factor": None,
    "scaling_factor": 1.0,
    "batch_norm": {"running_mean": [0.5] * 128, "running_var": [4.0] * 128, "eps": 1e-4},
}
WAN = {
    "name": "wan",
    "default": False,
    "class_name": "AutoencoderKLWan",
    "latent_channels": 16,
    "spatial_factor": 8,
    "temporal_factor": 4,
    "scaling_factor": 1.0,
    "latents_mean": [0.25] * 16,
    "latents_std": [2.0] * 16,
}


def test_families_to_come_have_what_their_pipelines_read(stand_in):
    server = stand_in(answering([FLUX2, WAN]))
    vae = RemoteAutoencoder(server.url)
    assert vae.bn.running_mean.view(1, -1, 1, 1).shape == (1, 128, 1, 1) and vae.bn.running_var[5] == 4.0
    assert vae.config.batch_norm_eps == 1e-4
    vae = RemoteAutoencoder(server.url, "wan")
    assert vae.config.z_dim == 16 and vae.config.scale_factor_temporal == 4 and vae.config.scale_factor_spatial == 8
    assert 2 ** len(vae.temperal_downsample) == 8 and sum(vae.temperal_downsample) == 2
    assert list(vae.config.latents_mean) == [0.25] * 16 and list(vae.config.latents_std) == [2.0] * 16
    # A picture as a video of one frame comes back as such, whichever of its shapes the server answers with.
    for shape in [[1, 3, 1, 8, 8], [1, 3, 8, 8]]:
        server.answers = [(200, {"shape": json.dumps(shape), "dtype": "float32"}, bytes(4 * 192))]
        assert vae.decode(torch.zeros(1, 16, 1, 1, 1)).sample.shape == (1, 3, 1, 8, 8)


def test_what_the_server_does_not_say_can_be_said(stand_in):
    vae = RemoteAutoencoder(stand_in(answering([WAN])).url, "wan", sample_size=64, scaling_factor=2.0)
    assert vae.config.sample_size == 64 and vae.config.scaling_factor == 2.0


def test_a_model_that_is_not_loaded_is_loaded(stand_in):
    lazy = {"name": "wan", "default": True}
    server = stand_in(answering([lazy]), refusal(422, "latents of shape [1, 1, 1, 1] do not fit"), answering([WAN]))
    assert RemoteAutoencoder(server.url + "/wan").config.z_dim == 16
    assert [request.method for request in server.received] == ["GET", "POST", "GET"]
    with pytest.raises(remote_vae.RefusedError, match="cannot be loaded"):
        RemoteAutoencoder(stand_in(answering([lazy]), refusal(500, "cannot be loaded")).url)
    with pytest.raises(remote_vae.AnswerError, match="does not say what its model 'wan' is"):
        RemoteAutoencoder(stand_in(answering([lazy]), refusal(422), answering([lazy])).url)


def test_a_model_that_is_not_there(server):
    with pytest.raises(remote_vae.InputError, match="no model 'sdxl'; it serves demo, sd, flux, video"):
        RemoteAutoencoder(server.url, "sdxl")


def test_several_servers_and_threads(server):
    vae = RemoteAutoencoder([server.url, server.url.replace("127.0.0.1", "localhost")], "sd")
    latents = torch.randn(1, 4, 4, 4)
    expected, results = vae.decode(latents).sample, []
    threads = [threading.Thread(target=lambda: results.append(vae.decode(latents).sample)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and all(torch.equal(one, expected) for one in results)
