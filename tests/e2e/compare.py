"""How close is close enough. These bounds are the project's promise; nothing here may be loosened."""

import io

import numpy as np
import torch
from PIL import Image


def assert_telling(reference: torch.Tensor) -> None:
    """A reference that is mostly clipped or flat would let a wrong answer pass."""
    inside = (reference.abs() < 1).float().mean().item()
    assert inside > 0.5, f"only {inside:.0%} of the reference lies within (-1, 1)"
    assert reference.std().item() > 0.1, "the reference is nearly flat"


def assert_floats(got: torch.Tensor, reference: torch.Tensor) -> None:
    """Within 1.5e-3 * max(1, |x|) of diffusers' float32 after its rounding to float16."""
    assert got.dtype == torch.float16
    assert got.shape == reference.shape
    assert_telling(reference)
    expected = reference.half().float()
    error = ((got.float() - expected).abs() / expected.abs().clamp(min=1)).max().item()
    assert error <= 1.5e-3, f"largest error {error:.2e}"


def assert_latents(got: torch.Tensor, expected: torch.Tensor) -> None:
    """Encoded latents: within 3e-3 * max(1, |x|) of what diffusers encodes in float32."""
    assert got.shape == expected.shape
    assert expected.std().item() > 0.02, "the reference is nearly flat"
    error = ((got.float() - expected).abs() / expected.abs().clamp(min=1)).max().item()
    assert error <= 3e-3, f"largest error {error:.2e}"


def assert_standard_normal(noise: torch.Tensor) -> None:
    """Noise [draws, ...]: mean 0, variance 1 and the fourth moment of a normal distribution, for all values together and in
    each place over the draws, and nothing in common from one draw to the next or from one value to its neighbour. Bounds are
    five deviations of each estimate; of the worst of N places, what N normal values do not reach either."""
    count, draws = noise.numel(), noise.shape[0]
    noise = noise.double().flatten(1)
    places = noise.shape[1]
    worst = 5 + (2 * np.log(places)) ** 0.5
    for name, value, bound in [
        ("mean", noise.mean(), 5 / count**0.5),
        ("variance", noise.var() - 1, 5 * (2 / count) ** 0.5),
        ("fourth moment", (noise**4).mean() - 3, 5 * (96 / count) ** 0.5),
        ("mean of a place", noise.mean(0).abs().max(), worst / draws**0.5),
        ("variance of a place", (noise.var(0) - 1).abs().max(), worst * (2 / (draws - 1)) ** 0.5),
        ("product of two draws", (noise[1:] * noise[:-1]).mean(), 5 / (count - places) ** 0.5),
        ("product of neighbours", (noise[:, 1:] * noise[:, :-1]).mean(), 5 / (count - draws) ** 0.5),
    ]:
        assert abs(value.item()) < bound, f"{name}: {value.item():.3f} is not within {bound:.3f}"


def round8(reference: torch.Tensor) -> np.ndarray:
    """[B, 3, H, W] in [-1, 1] to the bytes that diffusers' image processor makes of it, [B, H, W, 3]."""
    unit = (reference.float() / 2 + 0.5).clamp(0, 1)
    return (unit.permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8)


def assert_bytes(got: np.ndarray, reference: torch.Tensor) -> None:
    """8-bit answers [B, H, W, 3] against diffusers' decode [B, 3, H, W]."""
    assert_telling(reference)
    assert_same_picture(got, round8(reference))


def assert_same_picture(got: np.ndarray, expected: np.ndarray) -> None:
    """Bytes within 1 of diffusers' and at least 98.5 % of them equal."""
    assert got.dtype == expected.dtype == np.uint8
    assert got.shape == expected.shape
    difference = np.abs(got.astype(int) - expected.astype(int))
    assert difference.max() <= 1, f"a value is {difference.max()} off"
    equal = (difference == 0).mean()
    assert equal >= 0.985, f"only {equal:.2%} of the values are equal"


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two 8-bit pictures, in dB; infinite when they are equal."""
    assert a.shape == b.shape
    mean_square = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return float("inf") if mean_square == 0 else 10 * np.log10(255**2 / mean_square)


def assert_frames(got: torch.Tensor, reference: torch.Tensor) -> None:
    """Frames [F, H, W, 3] of one video against diffusers' [1, 3, F, H, W]."""
    assert_bytes(got.numpy(), reference[0].transpose(0, 1))


def pixels(file: bytes, kind: str) -> np.ndarray:
    """A picture file as [H, W, 3]; `kind` is what it must be, PNG or JPEG."""
    picture = Image.open(io.BytesIO(file))
    assert picture.format == kind
    assert picture.mode == "RGB"
    return np.asarray(picture)


def assert_jpeg_like_pillow(jpeg: bytes, picture: np.ndarray) -> None:
    """The file that Pillow writes of the same pixels: within 36 dB of its picture and 15 % of its size."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="JPEG")
    ours, pillows = pixels(jpeg, "JPEG"), pixels(file.getvalue(), "JPEG")
    assert psnr(ours, pillows) >= 36
    assert 0.85 <= len(jpeg) / len(file.getvalue()) <= 1.15
