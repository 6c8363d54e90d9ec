"""HunyuanVideo: the installed diffusers client against the server, next to diffusers itself."""

import re
import socket
import subprocess
import time

import mp4
import numpy as np
import player
import pytest
import requests
import torch
from compare import assert_floats, assert_frames, psnr, round8
from diffusers.utils.remote_utils import remote_decode
from diffusers.video_processor import VideoProcessor
from models import HUNYUAN_VIDEO, NARROW_VIDEO, VIDEO
from place import binary, clean_environment
from safetensors.torch import save_file

PT = {"output_type": "pt", "return_type": "pt"}
BYTES = PT | {"partial_postprocess": True}
MP4 = {"output_type": "mp4", "return_type": "mp4"}

each_model = pytest.mark.parametrize("model", VIDEO, ids=lambda model: model.name)
# Latent frames, height and width: one picture, one part, and four parts that are blended where they meet.
each_size = pytest.mark.parametrize("size", [(1, 5, 3), (3, 8, 8), (11, 2, 3)], ids=str)


def decode(server, model, latents, query: str = "", **options):
    return remote_decode(f"{server.url}/{model.name}{query}", latents, scaling_factor=model.scaling_factor, **options)


def smooth(model, frames: int, height: int, width: int) -> torch.Tensor:
    """Latents that change slowly from place to place and from frame to frame, as those of a film do."""
    corners = model.latents(1, 2, 2, 2, dtype=torch.float32, seed=9)
    return torch.nn.functional.interpolate(corners, (frames, height, width), mode="trilinear", align_corners=True).half()


@each_model
@each_size
def test_frames(videos, model, size):
    """As tensors, as bytes and as pictures."""
    latents = model.latents(1, *size)
    reference = model.decoded(model.unscaled(latents))
    assert reference.shape == (1, 3, 4 * (size[0] - 1) + 1, 8 * size[1], 8 * size[2])
    assert_floats(decode(videos, model, latents, **PT), reference)

    frames = decode(videos, model, latents, **BYTES)
    assert_frames(frames, reference)
    pictures = decode(videos, model, latents, output_type="pt", partial_postprocess=True)
    pictures = pictures if isinstance(pictures, list) else [pictures]
    assert all(np.array_equal(picture, frame) for picture, frame in zip(pictures, frames.numpy(), strict=True))

    unit = decode(videos, model, latents, output_type="pil", return_type="pt", processor=VideoProcessor())
    assert unit.dtype == torch.float16
    expected = (reference[0].transpose(0, 1) / 2 + 0.5).clamp(0, 1)
    assert unit.shape == expected.shape
    assert (unit.float() - expected).abs().max() <= 2e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_other_types_of_latents(videos, dtype):
    latents = NARROW_VIDEO.latents(1, 2, 3, 5, dtype=dtype, seed=1)
    assert_floats(decode(videos, NARROW_VIDEO, latents, **PT), NARROW_VIDEO.decoded(NARROW_VIDEO.unscaled(latents)))


def test_pictures_by_a_processor(videos):
    latents = NARROW_VIDEO.latents(1, 2, 3, 5, seed=1)
    pictures = decode(videos, NARROW_VIDEO, latents, output_type="pt", processor=VideoProcessor())
    exact = round8(NARROW_VIDEO.decoded(NARROW_VIDEO.unscaled(latents))[0].transpose(0, 1))
    got = np.stack([np.asarray(picture) for picture in pictures])
    assert got.shape == exact.shape
    # They come from float16, so more of them are rounded to the neighbour than of our own bytes.
    assert np.abs(got.astype(int) - exact).max() <= 1


def test_a_batch_of_videos(videos):
    latents = NARROW_VIDEO.latents(2, 2, 3, 4, seed=2)
    assert_floats(decode(videos, NARROW_VIDEO, latents, **PT), NARROW_VIDEO.decoded(NARROW_VIDEO.unscaled(latents)))


@each_model
def test_all_frames_in_one_pass(videos, model):
    latents = model.latents(1, 6, 3, 4, seed=3)
    whole = model.decoded(model.unscaled(latents), framewise=False)
    assert_floats(decode(videos, model, latents, "?framewise=false", **PT), whole)
    cut = decode(videos, model, latents, **PT).float()
    assert (cut - whole).abs().max() > 0.05, "cutting changes nothing, so this tests nothing"


@pytest.mark.parametrize("query", ["?tiling=true", "?tiling=true&framewise=false"])
def test_tiles(videos, query):
    """Tiles of 32 latents: two by two of them, the last ones small; in parts in time and in one."""
    latents = NARROW_VIDEO.latents(1, 5, 33, 35, seed=4)
    framewise = "framewise" not in query
    reference = NARROW_VIDEO.decoded(NARROW_VIDEO.unscaled(latents), tiling=True, framewise=framewise)
    assert_floats(decode(videos, NARROW_VIDEO, latents, query, **PT), reference)


def test_mp4(videos):
    model = HUNYUAN_VIDEO
    latents = smooth(model, 3, 8, 9)
    file = decode(videos, model, latents, **MP4)
    exact = round8(model.decoded(model.unscaled(latents))[0].transpose(0, 1))
    got = mp4.frames(file)
    assert got.shape == exact.shape == (9, 64, 72, 3)
    assert min(psnr(one, other) for one, other in zip(got, exact)) > 32


def test_options_of_mp4(videos):
    latents = smooth(NARROW_VIDEO, 6, 4, 5)
    slow = decode(videos, NARROW_VIDEO, latents, "?fps=8&quality=20", **MP4)
    fine = decode(videos, NARROW_VIDEO, latents, "?fps=24&quality=95", **MP4)
    assert len(mp4.frames(slow, fps=8)) == len(mp4.frames(fine, fps=24)) == 21
    assert len(slow) < len(fine)


def test_one_latent_frame_is_a_video_of_one_picture(videos):
    assert mp4.frames(decode(videos, HUNYUAN_VIDEO, smooth(HUNYUAN_VIDEO, 1, 3, 5), **MP4)).shape == (1, 24, 40, 3)


def test_the_command_line(videos, tmp_path):
    latents = smooth(NARROW_VIDEO, 2, 4, 5)
    save_file({"latents": latents}, tmp_path / "latents.safetensors")
    expected = decode(videos, NARROW_VIDEO, latents, **MP4)
    for name, where in [
        ("server", ["--endpoint", f"{videos.url}/{NARROW_VIDEO.name}"]),
        ("here", ["--model", str(NARROW_VIDEO.folder)]),
    ]:
        out = tmp_path / f"{name}.mp4"
        arguments = ["decode", tmp_path / "latents.safetensors", "-o", out, "--scaling-factor", "0.476986", *where]
        subprocess.run([binary(), *arguments], check=True, env=clean_environment(), timeout=120)
        assert out.read_bytes() == expected


def test_it_plays_in_a_browser(videos, browser):
    file = decode(videos, NARROW_VIDEO, smooth(NARROW_VIDEO, 6, 16, 24), **MP4)
    with player.opened(browser, file) as video:
        assert video.size == (192, 128)
        assert video.duration == pytest.approx(21 / 15, abs=1e-3)
        assert video.play() == pytest.approx(21 / 15, abs=0.05)
        frames = mp4.frames(file)
        for frame in (0, 7, 20):
            assert psnr(video.drawn((frame + 0.5) / 15), frames[frame]) > 32


def running_frames(server) -> tuple[int, int]:
    """Of the work that is being done, how many frames are done and how many there will be."""
    text = requests.get(f"{server.url}/metrics", timeout=10).text
    found = [re.search(rf"^remote_vae_{name} (\d+)$", text, re.M) for name in ("running_frames_done", "running_frames")]
    return tuple(int(match[1]) for match in found)


def until(condition, seconds: float) -> float:
    """Waits until it is true, for as long as it may take, and says how long it took."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, f"not so after {seconds} s"
        time.sleep(0.02)
    return time.monotonic() - start


def test_long_work_shows_its_progress_and_ends_when_its_client_leaves(videos):
    """At a real size, where a single layer takes seconds."""
    latents = HUNYUAN_VIDEO.latents(1, 3, 40, 64)
    body = latents.numpy().tobytes()
    head = f"POST /{HUNYUAN_VIDEO.name}?shape=[1,16,3,40,64]&dtype=float16&output_type=pt HTTP/1.1\r\nHost: test\r\n"
    head += f"Content-Type: tensor/binary\r\nContent-Length: {len(body)}\r\n\r\n"
    assert running_frames(videos) == (0, 0)
    before = len(videos.log.read_bytes())

    def log() -> str:
        """What the server has said since, without colours."""
        return re.sub("\x1b\\[[0-9;]*m", "", videos.log.read_bytes()[before:].decode())

    with socket.create_connection(("127.0.0.1", videos.port)) as client:
        client.sendall(head.encode() + body)
        until(lambda: running_frames(videos)[0] >= 1, 120)
        assert running_frames(videos)[1] == 9
        until(lambda: "working" in log(), 30)
        done = running_frames(videos)[0]
        assert done < 9, "it was over before anybody could leave"
    # A second or two; a busy machine may take longer to look.
    until(lambda: running_frames(videos) == (0, 0), 5)
    until(lambda: "the client left" in log(), 5)
    assert re.search(r"id=\S+ .*working done=\d frames=9$", log(), re.M), log()


def test_what_a_video_cannot_be(videos):
    latents = NARROW_VIDEO.latents(1, 2, 2, 2)
    with pytest.raises(RuntimeError, match="a video does not fit into a picture: use output_type=mp4 or pt"):
        decode(videos, NARROW_VIDEO, latents)
    with pytest.raises(RuntimeError, match="one by one"):
        decode(videos, NARROW_VIDEO, latents.expand(2, -1, -1, -1, -1).contiguous(), **MP4)
    with pytest.raises(RuntimeError, match=r"\[B, 16, f, h, w\]|expected"):
        decode(videos, NARROW_VIDEO, latents[:, :4, 0].contiguous(), **PT)


def test_one_frame_is_a_picture(videos):
    """With and without the axis of frames."""
    clip = NARROW_VIDEO.latents(1, 1, 2, 3)
    assert decode(videos, NARROW_VIDEO, clip).size == (24, 16)
    expected = decode(videos, NARROW_VIDEO, clip, **PT)
    assert expected.shape == (1, 3, 1, 16, 24)
    assert torch.equal(decode(videos, NARROW_VIDEO, clip[:, :, 0].contiguous(), **PT), expected)


def test_an_image_model_gives_no_video(videos):
    with pytest.raises(RuntimeError, match="needs a video model"):
        remote_decode(f"{videos.url}/demo", torch.zeros(1, 16, 2, 2), do_scaling=False, **MP4)
