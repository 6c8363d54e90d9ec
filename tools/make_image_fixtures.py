#!/usr/bin/env python3
"""Writes fixtures/images: picture files of every kind that `media` reads, each with the pixels that Pillow sees in it.

`NAME.EXT` is a file and `NAME.EXT.rgb` what `ImageOps.exif_transpose(Image.open(file)).convert("RGB")` holds, as raw
bytes; its size is in `manifest.json`. `resize` in the manifest lists what Pillow's Lanczos filter makes of the pixels in
fixtures/jpeg, `nearest` which values PyTorch's `interpolate` takes, and `similarity` how alike scikit-image finds pictures.

The picture is a piece of scikit-image's `astronaut` (NASA, public domain), of an awkward size. Kinds of PNG that Pillow
cannot write are put together here by hand.
"""

import io
import json
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image, ImageOps
from skimage import data, metrics

ROOT = Path(__file__).resolve().parent.parent / "fixtures"
OUT = ROOT / "images"
WIDTH, HEIGHT = 45, 37


def png(color_type: int, bits: int, samples: np.ndarray, *, transparent: bytes = b"", interlaced: bool = False) -> bytes:
    """A PNG file of `samples` [height, width, channels], made by hand (PNG specification, 3rd edition)."""
    height, width, _ = samples.shape

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    def rows(part: np.ndarray) -> bytes:
        if 0 in part.shape:
            return b""
        if bits < 8:
            every_bit = np.unpackbits(part[..., 0][..., None].astype(np.uint8), axis=-1)[..., -bits:]
            packed = np.packbits(every_bit.reshape(part.shape[0], -1), axis=-1)
            return b"".join(b"\0" + row.tobytes() for row in packed)
        return b"".join(b"\0" + row.astype(">u2" if bits == 16 else "u1").tobytes() for row in part)

    adam7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    passes = [samples[y::dy, x::dx] for y, x, dy, dx in adam7] if interlaced else [samples]
    head = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, int(interlaced))
    body = zlib.compress(b"".join(map(rows, passes)), 9)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + (chunk(b"tRNS", transparent) if transparent else b"")
        + chunk(b"IDAT", body)
        + chunk(b"IEND", b"")
    )


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def files() -> dict[str, bytes]:
    pixels = np.ascontiguousarray(data.astronaut()[60 : 60 + HEIGHT, 180 : 180 + WIDTH])
    photo = Image.fromarray(pixels)
    grey = photo.convert("L")
    noise = np.random.default_rng(0).integers(0, 65536, (HEIGHT, WIDTH, 4))
    clear = photo.copy()
    clear.putalpha(Image.fromarray((noise[..., 0] >> 8).astype(np.uint8)))
    palette = photo.quantize(13)
    made = {
        "rgb.png": saved(photo, "PNG"),
        "rgba.png": saved(clear, "PNG"),
        "grey.png": saved(grey, "PNG"),
        "grey-alpha.png": saved(clear.convert("LA"), "PNG"),
        "one-bit.png": saved(photo.convert("1"), "PNG"),
        "palette.png": saved(palette, "PNG"),
        "palette-transparent.png": saved(palette, "PNG", transparency=3),
        "grey-2.png": png(0, 2, noise[..., :1] >> 14),
        "grey-4.png": png(0, 4, noise[..., :1] >> 12),
        # Half of the values are below 256, where Pillow's mode I;16 keeps them.
        "grey-16.png": png(0, 16, noise[..., :1] >> (8 * (noise[..., 1:2] & 1))),
        "rgb-16.png": png(2, 16, noise[..., :3]),
        "grey-alpha-16.png": png(4, 16, noise[..., :2]),
        "rgba-16.png": png(6, 16, noise),
        "rgb-transparent.png": png(2, 8, pixels, transparent=struct.pack(">3H", *map(int, pixels[3, 4]))),
        "interlaced.png": png(2, 8, pixels, interlaced=True),
        "orientation-6.png": saved(photo, "PNG", exif=orientation(6)),
        "420.jpg": saved(photo, "JPEG", quality=75),
        "422.jpg": saved(photo, "JPEG", quality=90, subsampling="4:2:2"),
        "444.jpg": saved(photo, "JPEG", quality=95, subsampling="4:4:4"),
        "progressive.jpg": saved(photo, "JPEG", quality=80, progressive=True, optimize=True),
        "restarts.jpg": saved(photo, "JPEG", quality=75, restart_marker_blocks=2),
        "grey.jpg": saved(grey, "JPEG", quality=85),
        "cmyk.jpg": saved(photo.convert("CMYK"), "JPEG", quality=95),
        "rgb.jpg": saved(photo, "JPEG", quality=90, keep_rgb=True),
        "lossy.webp": saved(photo, "WEBP", quality=80),
        "lossy-10.webp": saved(photo, "WEBP", quality=10),
        "lossless.webp": saved(photo, "WEBP", lossless=True),
        "alpha.webp": saved(clear, "WEBP", quality=80),
        "alpha-lossless.webp": saved(clear, "WEBP", lossless=True, exact=True),
        "animated.webp": saved(photo, "WEBP", lossless=True, save_all=True, append_images=[ImageOps.flip(photo)]),
        "orientation-8.webp": saved(photo, "WEBP", lossless=True, exif=orientation(8)),
    }
    for value in range(1, 9):
        made[f"orientation-{value}.jpg"] = saved(photo, "JPEG", quality=75, exif=orientation(value))
    return made


def resized() -> list[dict[str, object]]:
    """What Lanczos makes of the pictures in fixtures/jpeg: to multiples of 8, far smaller, larger."""
    made = []
    for name in ("photo", "noise"):
        pixels = np.frombuffer((ROOT / "jpeg" / f"{name}.72x53.rgb").read_bytes(), np.uint8).reshape(53, 72, 3)
        for width, height in [(72, 48), (64, 53), (64, 48), (16, 8), (1, 1), (100, 81)]:
            out = Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)
            file = f"{name}.{width}x{height}.rgb"
            (OUT / file).write_bytes(out.tobytes())
            made.append({"from": f"jpeg/{name}.72x53.rgb", "width": width, "height": height, "file": file})
    return made


def nearest() -> list[dict[str, object]]:
    made = []
    for before, after in [(9, 8), (15, 8), (61, 56), (513, 512), (1023, 1016), (7, 7), (3, 8)]:
        values = torch.arange(before, dtype=torch.float32)[None, None]
        taken = torch.nn.functional.interpolate(values, size=after)[0, 0].int().tolist()
        made.append({"from": before, "to": after, "taken": taken})
    return made


def similarity() -> list[dict[str, object]]:
    """How alike scikit-image finds some of the pictures, by the definitions of Wang et al. (2004)."""
    made = []
    for one, other in [("rgb.png", "420.jpg"), ("rgb.png", "lossy-10.webp"), ("rgb.png", "rgb-16.png")]:
        first, second = (
            np.frombuffer((OUT / f"{name}.rgb").read_bytes(), np.uint8).reshape(HEIGHT, WIDTH, 3)
            for name in (one, other)
        )
        ssim = metrics.structural_similarity(
            first, second, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
        )
        psnr = metrics.peak_signal_noise_ratio(first, second, data_range=255)
        made.append({"one": f"{one}.rgb", "other": f"{other}.rgb", "psnr": psnr, "ssim": ssim})
    return made


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    sizes = {}
    for name, content in files().items():
        (OUT / name).write_bytes(content)
        with Image.open(io.BytesIO(content)) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
        (OUT / f"{name}.rgb").write_bytes(upright.tobytes())
        sizes[name] = list(upright.size)
    manifest = {
        "pillow": PIL.__version__,
        "files": sizes,
        "resize": resized(),
        "nearest": nearest(),
        "similarity": similarity(),
    }
    (OUT / "manifest.json").write_text(json.dumps(manifest) + "\n")
    print(f"{len(sizes)} files written with Pillow {PIL.__version__} to {OUT}")


if __name__ == "__main__":
    main()
