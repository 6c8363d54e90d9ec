"""The mp4 writer by itself, on pictures that move as films do. FFmpeg reads what it writes."""

import functools
import subprocess

import mp4
import numpy as np
import player
import pytest
from compare import psnr
from PIL import Image
from place import PHOTOGRAPH, binary


def encoded(frames: np.ndarray, *quality: int) -> bytes:
    _, height, width, _ = frames.shape
    # `./test` builds it together with the binary.
    program = binary().parent / "examples" / "mp4"
    assert program.exists(), f"{program} is missing; run `cargo build --release -p remote-vae-media --example mp4` first"
    command = [program, str(width), str(height), *map(str, quality)]
    return subprocess.run(command, input=frames.tobytes(), check=True, capture_output=True).stdout


@functools.cache
def film(zoom: float = 1, count: int = 31, size: tuple[int, int] = (256, 160)) -> np.ndarray:
    """A window that pans, zooms and turns over a photograph that is `zoom` times as large, [F, H, W, 3]."""
    picture = Image.open(PHOTOGRAPH).convert("RGB").resize((512, 512), Image.LANCZOS)
    frames = []
    for t in range(count):
        scale, angle = (1.6 - 0.012 * t) / zoom, np.radians(0.3 * t)
        a, b = scale * np.cos(angle), scale * np.sin(angle)
        move = (a, -b, 20 + 2.3 * t, b, a, 60 + 1.1 * t)
        frames.append(np.asarray(picture.transform(size, Image.AFFINE, move, Image.BICUBIC)))
    return np.stack(frames)


def worst(got: np.ndarray, frames: np.ndarray) -> float:
    """The PSNR of the worst frame. What was filled up at the right and at the bottom does not count."""
    count, height, width, _ = frames.shape
    assert len(got) == count
    return min(psnr(one, other) for one, other in zip(got[:, :height, :width], frames))


def test_a_film_looks_as_it_did():
    file = encoded(film())
    assert worst(mp4.frames(file), film()) > 32
    # As pictures one by one it would be several times as large.
    assert len(file) < film().size / 60


def test_quality_trades_size_for_likeness():
    files = [encoded(film(), quality) for quality in (20, 65, 90)]
    assert files[1] == encoded(film()), "65 is the default"
    sizes = [len(file) for file in files]
    assert sizes == sorted(sizes)
    likeness = [worst(mp4.frames(file), film()) for file in files]
    assert likeness == sorted(likeness)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (17, 15), (34, 50), (131, 97)], ids=str)
def test_every_size(size):
    # Enlarged, since what fits into so few pixels would have no smooth places otherwise.
    frames = np.ascontiguousarray(film(zoom=4)[:4, : size[1], : size[0]])
    got = mp4.frames(encoded(frames))
    assert got.shape[1:3] == tuple(side + side % 2 for side in reversed(size))
    assert worst(got, frames) > 32


def test_a_long_film_does_not_drift():
    """Longer than the longest stretch without a key frame, with a cut in it."""
    frames = np.concatenate([film(), film()[::-1]] * 6)[:, :64, :96]
    frames[200:] = frames[200:, :, ::-1]
    assert len(frames) > 300
    assert worst(mp4.frames(encoded(np.ascontiguousarray(frames))), frames) > 32


def test_what_cannot_be_compressed_is_still_a_video():
    """Noise has no neighbour that resembles it, and is what decoders of random latents give."""
    noise = np.random.default_rng(0).integers(0, 256, (9, 48, 80, 1)).astype(np.uint8).repeat(3, axis=3)
    assert worst(mp4.frames(encoded(noise)), noise) > 30


def test_plain_colours_keep_their_colour():
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0], [200, 120, 40]], np.uint8)
    frames = np.broadcast_to(colours[:, None, None], (len(colours), 32, 32, 3))
    got = mp4.frames(encoded(np.ascontiguousarray(frames), 90))
    difference = np.abs(got.astype(int) - frames)
    assert difference.max() <= 4, f"a colour is {difference.max()} off"


def test_a_browser_shows_each_frame_when_it_is_due(browser):
    with player.opened(browser, encoded(film())) as video:
        assert video.size == (256, 160)
        assert video.duration == pytest.approx(31 / 15, abs=1e-3)
        for frame in (0, 1, 17, 30, 5):
            picture = video.drawn((frame + 0.5) / 15)
            likeness = [psnr(picture, other) for other in film()]
            assert np.argmax(likeness) == frame
            assert likeness[frame] > 32
