"""HunyuanVideo's encoder: `remote_encode` of the installed client with videos, next to diffusers itself."""

import numpy as np
import pytest
import torch
from compare import assert_latents, assert_standard_normal
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.remote_utils import remote_encode
from models import NARROW_VIDEO, VIDEO
from PIL import Image
from place import PHOTOGRAPH
from safetensors.torch import load_file, save_file
from test_command_line import run

PROCESSOR = VaeImageProcessor(vae_scale_factor=8)

each_model = pytest.mark.parametrize("model", VIDEO, ids=lambda model: model.name)


def film(frames: int, height: int, width: int) -> torch.Tensor:
    """A video [1, 3, F, H, W] in [-1, 1]: a window that wanders over a photograph."""
    image = Image.open(PHOTOGRAPH).convert("RGB").resize((2 * width, 2 * height))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1
    corners = [(height * step // 32, width * step // 32) for step in range(frames)]
    return torch.stack([pixels[:, y : y + height, x : x + width] for y, x in corners], 1)[None].contiguous()


def encode(videos, model, video, query="sample_mode=argmax", **options):
    """The client's call as its documentation shows it; what it has no options for is in the URL."""
    options = {"scaling_factor": model.scaling_factor} | options
    return remote_encode(f"{videos.url}/{model.name}?{query}", video, **options)


@each_model
@pytest.mark.parametrize("frames", [1, 5, 9])
def test_a_video(videos, model, frames):
    video = film(frames, 40, 56)
    got = encode(videos, model, video)
    assert got.dtype == torch.float16
    assert list(got.shape) == [1, 16, (frames - 1) // 4 + 1, 5, 7]
    assert_latents(got, model.scaled(model.posterior(video).mode()))


def test_every_form_of_a_tensor(videos):
    """In [0, 1] and in [-1, 1], in every type, of two videos, and of sizes that are no whole latents."""
    model = NARROW_VIDEO
    video = film(5, 32, 40)
    expected = model.scaled(model.posterior(video).mode())
    assert_latents(encode(videos, model, video / 2 + 0.5), expected)
    assert_latents(encode(videos, model, ((video / 2 + 0.5) * 255).round().byte()), expected)
    for dtype in (torch.float16, torch.bfloat16):
        rounded = video.to(dtype)
        assert_latents(encode(videos, model, rounded), model.scaled(model.posterior(rounded).mode()))
    two = torch.cat([video, video.flip(-1)])
    assert_latents(encode(videos, model, two), model.scaled(model.posterior(two).mode()))
    assert_latents(encode(videos, model, video, scaling_factor=None), model.posterior(video).mode())

    odd = video[..., :27, :35].contiguous()
    frames = PROCESSOR.preprocess(odd[0].transpose(0, 1))
    whole = frames.transpose(0, 1)[None]
    assert whole.shape[-2:] == (24, 32)
    assert_latents(encode(videos, model, odd), model.scaled(model.posterior(whole).mode()))


@each_model
def test_a_picture_is_a_video_of_one_frame(videos, model):
    image = Image.open(PHOTOGRAPH).convert("RGB").resize((56, 40))
    expected = model.posterior(PROCESSOR.preprocess(image)[:, :, None]).mode()
    assert_latents(encode(videos, model, image), model.scaled(expected))


def test_a_few_frames_at_a_time(videos):
    """More than sixteen frames are cut and blended, as diffusers does by default; in one pass where that is asked for."""
    model = NARROW_VIDEO
    video = film(21, 16, 24)
    cut, whole = (model.scaled(model.posterior(video, framewise=framewise).mode()) for framewise in (True, False))
    assert_latents(encode(videos, model, video), cut)
    assert_latents(encode(videos, model, video, "sample_mode=argmax&framewise=false"), whole)
    assert (cut - whole).abs().max() > 0.02, "cutting changes nothing, so this tests nothing"


def test_tiles(videos):
    """Tiles of 256 pixels, two of them."""
    model = NARROW_VIDEO
    video = film(5, 40, 272)
    tiles, whole = (model.scaled(model.posterior(video, tiling=tiling).mode()) for tiling in (True, False))
    assert_latents(encode(videos, model, video, "sample_mode=argmax&tiling=true"), tiles)
    assert (tiles - whole).abs().max() > 0.02, "tiles change nothing, so this tests nothing"


@each_model
def test_seeds_repeat(videos, model):
    video = film(5, 24, 32)
    first, again, other = (encode(videos, model, video, f"seed={seed}") for seed in (7, 7, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_samples_have_the_mean_and_the_variance(videos):
    model = NARROW_VIDEO
    video = film(5, 32, 40)
    posterior = model.posterior(video)
    query = "seed={}&out_dtype=float32"
    samples = [encode(videos, model, video, query.format(seed), scaling_factor=None) for seed in range(64)]
    assert_standard_normal((torch.cat(samples) - posterior.mean) / posterior.std)


@pytest.mark.parametrize("where", ["server", "here"])
def test_the_command_line(videos, tmp_path, where):
    model = NARROW_VIDEO
    place = ["--endpoint", f"{videos.url}/{model.name}"] if where == "server" else ["--model", model.folder]
    video = film(21, 16, 272)
    save_file({"other": torch.zeros(2), "video": video}, tmp_path / "in.safetensors")
    np.save(tmp_path / "in.npy", video.numpy())
    flags = ["--sample-mode", "argmax", "--dtype", "float32", "--scaling-factor", model.scaling_factor, *place]

    def encoded(source: str, *more: str) -> torch.Tensor:
        run("encode", tmp_path / source, "-o", tmp_path / "out.safetensors", *flags, *more)
        return load_file(tmp_path / "out.safetensors")["latents"]

    cut = encoded("in.safetensors:video")
    assert_latents(cut, model.scaled(model.posterior(video).mode()))
    assert torch.equal(encoded("in.npy"), cut)
    whole = model.scaled(model.posterior(video, framewise=False).mode())
    assert_latents(encoded("in.npy", "--framewise", "false"), whole)
    tiles = model.scaled(model.posterior(video, tiling=True).mode())
    assert_latents(encoded("in.npy", "--tiling"), tiles)
    assert not torch.equal(cut, encoded("in.npy", "--tiling"))
