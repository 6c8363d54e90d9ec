#!/usr/bin/env python3
"""Writes fixtures/images: picture files of every kind that `media` reads, each with the pixels that Pillow sees in it.

`NAME.EXT` is a file and `NAME.EXT.rgb` what `ImageOps.exif_transpose(Image.open(file)).convert("RGB")` holds, as raw
bytes; its size is in `manifest.json`. `NAME.EXT.alpha` is the fourth channel of `convert("RGBA")`, whose others are the same,
of the files that `transparent` in the manifest lists; all others are opaque. `resize` in the manifest lists what Pillow's
Lanczos filter makes of the pixels in fixtures/jpeg, `resize_rgba` what it makes of two of the files with alpha, `nearest` which values PyTorch's `interpolate` takes, and `similarity` how alike scikit-image finds pictures.

`cuts` says from which beginnings of each file Pillow reads a picture (ranges of their lengths, both ends included), and
`refused` which files it reads not at all.

The picture is a piece of scikit-image's `astronaut` (NASA, public domain), of an awkward size. Kinds of PNG that Pillow
cannot write are put together here by hand; kinds of JPEG by libjpeg-turbo's `cjpeg` and `jpegtran`, which must be on the path
(Debian: libjpeg-turbo-progs).
"""

import io
import json
import shutil
import struct
import subprocess
import sys
import warnings
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


def chunk(kind: bytes, content: bytes) -> bytes:
    """A part of a PNG file."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(
    color_type: int,
    bits: int,
    samples: np.ndarray,
    *,
    transparent: bytes = b"",
    interlaced: bool = False,
    before: bytes = b"",
    after: bytes = b"",
) -> bytes:
    """A PNG file of `samples` [height, width, channels], made by hand (PNG specification, 3rd edition).

    `before` and `after` are chunks before and after the pixels.
    """
    height, width, _ = samples.shape

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
        + before
        + (chunk(b"tRNS", transparent) if transparent else b"")
        + chunk(b"IDAT", body)
        + after
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


def photograph() -> Image.Image:
    pixels = data.astronaut()[60 : 60 + HEIGHT, 180 : 180 + WIDTH]
    return Image.fromarray(np.ascontiguousarray(pixels))


def little() -> Image.Image:
    """A corner of it, for files of which the pixels are not the point."""
    return photograph().crop((0, 0, 21, 13))


def by_libjpeg(tool: str, content: bytes, *options: str) -> bytes:
    return subprocess.run([tool, *options], input=content, check=True, stdout=subprocess.PIPE).stdout


def segment(marker: int, content: bytes) -> bytes:
    """A part of a JPEG file."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def with_segments(jpeg: bytes, *segments: bytes) -> bytes:
    """A JPEG file with `segments` at its beginning."""
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def adobe(jpeg: bytes, transform: int | None) -> bytes:
    """A JPEG file with another transform in its Adobe segment, or without that segment."""
    at = jpeg.index(b"\xff\xee\0\x0eAdobe")
    if transform is None:
        return jpeg[:at] + jpeg[at + 16 :]
    return jpeg[: at + 15] + bytes([transform]) + jpeg[at + 16 :]


def jpegs() -> dict[str, bytes]:
    """Kinds of JPEG beside those that Pillow writes every day."""
    photo = photograph()
    ppm = saved(photo, "PPM")
    plain = saved(photo, "JPEG", quality=75)
    inks = photo.convert("CMYK")
    # Black that is not one number times the others.
    inks.putdata([(*colours, 3 * index % 120) for index, (*colours, _) in enumerate(inks.get_flattened_data())])
    cmyk = saved(inks, "JPEG", quality=90)
    cmyk_420 = saved(inks, "JPEG", quality=90, subsampling="4:2:0")
    size = b"MM\0*" + struct.pack(">IHHHI4sI", 8, 1, 0xB000, 7, 4, b"0100", 0)
    return {
        "arithmetic.jpg": by_libjpeg("jpegtran", plain, "-arithmetic"),
        "arithmetic-progressive.jpg": by_libjpeg("jpegtran", plain, "-arithmetic", "-progressive"),
        "440.jpg": by_libjpeg("cjpeg", ppm, "-sample", "1x2"),
        "411.jpg": by_libjpeg("cjpeg", ppm, "-sample", "4x1"),
        "410.jpg": by_libjpeg("cjpeg", ppm, "-sample", "4x2"),
        "cmyk-black.jpg": cmyk,
        "cmyk-420.jpg": cmyk_420,
        "cmyk-progressive.jpg": saved(inks, "JPEG", quality=90, progressive=True),
        "cmyk-no-adobe.jpg": adobe(cmyk, None),
        "ycck.jpg": adobe(cmyk, 2),
        "ycck-420.jpg": adobe(cmyk_420, 2),
        "ycck-progressive.jpg": adobe(saved(inks, "JPEG", quality=90, progressive=True), 2),
        "ycck-arithmetic.jpg": by_libjpeg("jpegtran", adobe(cmyk, 2), "-arithmetic"),
        # What telephones make: a second picture, a film, or anything else after the end.
        "two-pictures.jpg": with_segments(plain, segment(0xE2, b"MPF\0" + size)) + plain,
        "tail.jpg": plain + b"\0" * 500 + b"MotionPhoto_Data",
        "filled.jpg": plain.replace(b"\xff\xda", b"\xff\xff\xff\xff\xda"),
    }


def refused() -> dict[str, bytes]:
    """Whole files that Pillow does not read."""
    plain = saved(little(), "JPEG", quality=75)
    frame = plain.index(b"\xff\xc0")
    return {
        "twelve-bits.jpg": plain[: frame + 4] + b"\x0c" + plain[frame + 5 :],
        "two-components.jpg": plain[: frame + 9] + b"\x02" + plain[frame + 10 :],
        "no-height.jpg": plain[: frame + 5] + b"\0\0" + plain[frame + 7 :],
        "no-end.jpg": plain[:-2],
    }


def xmp(value: int, *, element: bool = False) -> bytes:
    """A packet with an orientation."""
    said = f"><tiff:Orientation>{value}</tiff:Orientation></rdf:Description>"
    said = said if element else f' tiff:Orientation="{value}"/>'
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/"'
        f"{said}</rdf:RDF></x:xmpmeta>"
    ).encode()


def oriented() -> dict[str, bytes]:
    """Pictures that were taken with the camera on its side, by all the ways to say so, and some that contradict."""
    photo = little()
    pixels = np.asarray(photo)
    tiff = orientation(6).tobytes().removeprefix(b"Exif\0\0")
    other = orientation(3).tobytes().removeprefix(b"Exif\0\0")
    silent = Image.Exif()
    silent[0x010F] = "a camera"
    silent = silent.tobytes().removeprefix(b"Exif\0\0")
    # An orientation of no meaning is one all the same.
    nonsense = tiff.replace(struct.pack(">HHIH" if tiff[:2] == b"MM" else "<HHIH", 0x0112, 3, 1, 6),
                            struct.pack(">HHIH" if tiff[:2] == b"MM" else "<HHIH", 0x0112, 3, 1, 9))
    # After the orientation comes an entry whose value lies beyond the end.
    broken = b"MM\0*" + struct.pack(">IHHHIHHHHIII", 8, 2, 0x0112, 3, 1, 6, 0, 0x0131, 2, 40, 9999, 0)
    long = b"MM\0*" + struct.pack(">IHHHIII", 8, 1, 0x0112, 4, 1, 6, 0)

    def raw(content: bytes) -> bytes:
        digits = content.hex()
        lines = "\n".join(digits[at : at + 72] for at in range(0, len(digits), 72))
        return f"\nexif\n{len(content):8}\n{lines}\n".encode()

    def text(content: bytes, keyword: bytes = b"Raw profile type exif") -> bytes:
        return chunk(b"tEXt", keyword + b"\0" + content)

    def packed_text(content: bytes) -> bytes:
        return chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(content))

    def itxt(content: bytes, *, packed: bool = False) -> bytes:
        body = zlib.compress(content) if packed else content
        return chunk(b"iTXt", b"XML:com.adobe.xmp\0" + bytes([packed, 0]) + b"\0\0" + body)

    def picture(**chunks: bytes) -> bytes:
        return png(2, 8, pixels, **chunks)

    exif = lambda content: chunk(b"eXIf", content)  # noqa: E731
    named = b"Exif\0\0"
    ways = {
        "exif": picture(before=exif(tiff)),
        "exif-after": picture(after=exif(tiff)),
        "exif-named": picture(before=exif(named + tiff)),
        "exif-long": picture(before=exif(long)),
        "exif-broken": picture(before=exif(broken)),
        "raw-text": picture(before=text(raw(named + tiff))),
        "raw-packed": picture(before=packed_text(raw(named + tiff))),
        "raw-after": picture(after=packed_text(raw(named + tiff))),
        "raw-unnamed": picture(before=text(raw(tiff))),
        "raw-app1": picture(before=text(raw(named + tiff), b"Raw profile type APP1")),
        "raw-broken": picture(before=text(b"\nexif\n       4\nthis\n")),
        "xmp": picture(before=itxt(xmp(6))),
        "xmp-element": picture(before=itxt(xmp(6, element=True))),
        "xmp-packed": picture(before=itxt(xmp(6), packed=True)),
        "xmp-after": picture(after=itxt(xmp(6))),
        "xmp-text": picture(before=text(xmp(6), b"XML:com.adobe.xmp")),
        "exif-and-raw": picture(before=text(raw(named + other)) + exif(tiff)),
        "exif-and-later-raw": picture(before=exif(tiff), after=text(raw(named + other))),
        "raw-and-later-exif": picture(before=text(raw(named + other)), after=exif(tiff)),
        "exif-and-xmp": picture(before=exif(tiff) + itxt(xmp(3))),
        "silent-exif-and-raw": picture(before=exif(silent) + text(raw(named + tiff))),
        "silent-exif-and-xmp": picture(before=exif(silent) + itxt(xmp(6))),
        "nonsense-exif-and-xmp": picture(before=exif(nonsense) + itxt(xmp(6))),
        "raw-and-xmp": picture(before=text(raw(named + tiff)) + itxt(xmp(3))),
        "two-xmp": picture(before=itxt(xmp(3)) + itxt(xmp(6))),
        "xmp-nonsense": picture(before=itxt(xmp(9))),
    }
    made = {f"{name}.png": content for name, content in ways.items()}

    plain = saved(photo, "JPEG", quality=75)
    exif1 = lambda content: segment(0xE1, named + content)  # noqa: E731
    xmp1 = lambda content: segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + content)  # noqa: E731
    made |= {
        "xmp.jpg": with_segments(plain, xmp1(xmp(6))),
        "xmp-element.jpg": with_segments(plain, xmp1(xmp(6, element=True))),
        "exif-and-xmp.jpg": with_segments(plain, xmp1(xmp(3)), exif1(tiff)),
        "silent-exif-and-xmp.jpg": with_segments(plain, exif1(silent), xmp1(xmp(6))),
        "nonsense-exif-and-xmp.jpg": with_segments(plain, exif1(nonsense), xmp1(xmp(6))),
        "exif-in-two.jpg": with_segments(plain, exif1(tiff[:20]), exif1(tiff[20:])),
        "exif-twice-named.jpg": with_segments(plain, exif1(named + tiff)),
        "exif-broken.jpg": with_segments(plain, exif1(broken)),
    }

    lossless = {"lossless": True}
    silenced = bytearray(saved(photo, "WEBP", **lossless, exif=named + tiff))
    silenced[20] &= ~0x08  # The header does not say that there is EXIF data.
    made |= {
        "xmp.webp": saved(photo, "WEBP", **lossless, xmp=xmp(6)),
        "xmp-element.webp": saved(photo, "WEBP", **lossless, xmp=xmp(6, element=True)),
        "exif-and-xmp.webp": saved(photo, "WEBP", **lossless, exif=named + tiff, xmp=xmp(3)),
        "silent-exif-and-xmp.webp": saved(photo, "WEBP", **lossless, exif=named + silent, xmp=xmp(6)),
        "exif-silenced.webp": bytes(silenced),
        "tail.webp": saved(photo, "WEBP", **lossless) + b"and more",
    }
    return made


def pngs() -> dict[str, bytes]:
    """Kinds of PNG whose samples must not be taken for what they are not."""
    noise = np.random.default_rng(1).integers(0, 65536, (13, 21, 4))
    grey = noise[..., :1] >> (8 * (noise[..., 1:2] & 1))
    clear = struct.pack(">H", int(grey[3, 4, 0]))
    palette = chunk(b"PLTE", bytes(range(40, 70)))
    gamma = chunk(b"gAMA", struct.pack(">I", 100_000))
    return {
        "grey-16-transparent.png": png(0, 16, grey, transparent=clear),
        "grey-8-transparent.png": png(0, 8, grey >> 8, transparent=clear),
        "grey-2-transparent.png": png(0, 2, grey >> 14, transparent=b"\0\1"),
        "grey-1-transparent.png": png(0, 1, grey & 1, transparent=b"\0\1"),
        "rgb-16-transparent.png": png(2, 16, noise[..., :3], transparent=struct.pack(">3H", *map(int, noise[3, 4, :3]))),
        "grey-16-gamma.png": png(0, 16, grey, before=gamma),
        "rgb-8-gamma.png": png(2, 8, noise[..., :3] >> 8, before=gamma),
        "rgba-8-interlaced.png": png(6, 8, noise >> 8, interlaced=True),
        "grey-16-interlaced.png": png(0, 16, grey, interlaced=True),
        "grey-1-interlaced.png": png(0, 1, grey & 1, interlaced=True),
        # Ten colours, and indices up to 15 and 255.
        "palette-4-beyond.png": png(3, 4, noise[..., :1] & 15, before=palette),
        "palette-8-beyond.png": png(3, 8, noise[..., :1] >> 8, before=palette),
        "palette-2-interlaced.png": png(3, 2, noise[..., :1] & 3, before=palette, interlaced=True),
        "palette-1-transparent.png": png(3, 1, noise[..., :1] & 1, before=palette, transparent=b"\0"),
        "one-pixel-interlaced.png": png(2, 8, noise[:1, :1, :3] >> 8, interlaced=True),
        "one-column-interlaced.png": png(2, 8, noise[:, :1, :3] >> 8, interlaced=True),
        "one-row-interlaced.png": png(2, 8, noise[:1, :, :3] >> 8, interlaced=True),
        "animated.png": saved(little(), "PNG", save_all=True, append_images=[ImageOps.flip(little())]),
    }


def transparent() -> dict[str, bytes]:
    """Ways to say what is transparent, beside those of the kinds of PNG and WebP above."""
    noise = np.random.default_rng(2).integers(0, 256, (13, 21, 4))
    colours = chunk(b"PLTE", bytes(range(40, 70)))
    steps = bytes(range(0, 250, 25))
    clear = little().convert("RGBA")
    clear.putalpha(Image.fromarray(noise[..., 3].astype(np.uint8)))
    exif = orientation(6)
    return {
        "palette-8-steps.png": png(3, 8, noise[..., :1] % 10, before=colours, transparent=steps),
        # Fewer values than colours, and one that leaves all others opaque.
        "palette-8-few-steps.png": png(3, 8, noise[..., :1] % 10, before=colours, transparent=steps[:4]),
        "palette-8-one-of-ten.png": png(3, 8, noise[..., :1] % 10, before=colours, transparent=b"\xff\xff\0"),
        # Ten colours, and indices up to 255 and 15.
        "palette-8-beyond-steps.png": png(3, 8, noise[..., :1], before=colours, transparent=steps),
        "palette-4-steps.png": png(3, 4, noise[..., :1] & 15, before=colours, transparent=steps),
        "palette-2-steps.png": png(3, 2, noise[..., :1] & 3, before=colours, transparent=steps[:3], interlaced=True),
        "grey-4-transparent.png": png(0, 4, noise[..., :1] & 15, transparent=b"\0\x33"),
        "grey-1-black-transparent.png": png(0, 1, noise[..., :1] & 1, transparent=b"\0\0"),
        "grey-8-transparent-high.png": png(0, 8, noise[..., :1], transparent=b"\1" + bytes([int(noise[3, 4, 0])])),
        "rgb-8-transparent-high.png": png(2, 8, noise[..., :3], transparent=struct.pack(">3H", *(int(x) + 512 for x in noise[3, 4, :3]))),
        "grey-alpha-8-interlaced.png": png(4, 8, noise[..., :2], interlaced=True),
        "rgba-oriented.png": saved(clear, "PNG", exif=exif),
        "alpha-oriented.webp": saved(clear, "WEBP", lossless=True, exact=True, exif=exif),
        "alpha-10.webp": saved(clear, "WEBP", quality=10),
        # Alpha that says that nothing is transparent.
        "opaque.png": saved(little().convert("RGBA"), "PNG"),
    }


def cuts(content: bytes) -> list[list[int]]:
    """From which beginnings of a file Pillow reads a picture: ranges of their lengths."""

    def reads(beginning: bytes) -> bool:
        try:
            with Image.open(io.BytesIO(beginning)) as image:
                image.load()
                image.convert("RGB")
        # All that Pillow raises for files: OSError, SyntaxError, ValueError, EOFError, struct.error...
        except Exception:
            return False
        return True

    ranges: list[list[int]] = []
    for length in range(len(content) + 1):
        if reads(content[:length]):
            if ranges and ranges[-1][1] == length - 1:
                ranges[-1][1] = length
            else:
                ranges.append([length, length])
    return ranges


def files() -> dict[str, bytes]:
    photo = photograph()
    pixels = np.asarray(photo)
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
    return made | jpegs() | pngs() | oriented() | transparent()


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


def resized_rgba() -> list[dict[str, object]]:
    """The same of pictures with alpha, one of them with few values of it, 0 and 255 among them."""
    made = []
    for name in ("rgba.png", "rgba-16.png"):
        with Image.open(OUT / name) as image:
            pixels = np.array(image.convert("RGBA"))
        if name == "rgba-16.png":
            pixels[..., 3] = np.array([0, 0, 255, 1, 255, 128, 2, 254])[pixels[..., 3] // 32]
        (OUT / f"{name}.resized-from").write_bytes(pixels.tobytes())
        for width, height in [(40, 32), (45, 32), (40, 37), (7, 3), (1, 1), (91, 64)]:
            out = Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)
            file = f"{name}.{width}x{height}.rgba"
            (OUT / file).write_bytes(out.tobytes())
            made.append({"from": f"images/{name}.resized-from", "width": width, "height": height, "file": file})
    return made


def alpha(name: str, upright: Image.Image) -> bool:
    """Whether anything in a picture is transparent for Pillow; then its alpha is written."""
    rgba = np.asarray(upright.convert("RGBA"))
    if rgba[..., :3].tobytes() != (OUT / f"{name}.rgb").read_bytes():
        sys.exit(f"{name} has other colours with alpha")
    if (rgba[..., 3] == 255).all():
        return False
    (OUT / f"{name}.alpha").write_bytes(rgba[..., 3].tobytes())
    return True


def upright(content: bytes, name: str) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    try:
        return ImageOps.exif_transpose(image)
    except ValueError as error:
        # Pillow reads the picture and stumbles over what stands beside it.
        print(f"{name}: {error}")
        return image


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
    # A damaged EXIF entry is worth a warning to Pillow.
    warnings.simplefilter("ignore")
    sizes = {}
    clear = []
    for name, content in files().items():
        (OUT / name).write_bytes(content)
        image = upright(content, name)
        (OUT / f"{name}.rgb").write_bytes(image.convert("RGB").tobytes())
        sizes[name] = list(image.size)
        if alpha(name, image):
            clear.append(name)
    for name, content in refused().items():
        if cuts(content):
            sys.exit(f"Pillow reads {name}")
        (OUT / name).write_bytes(content)
    manifest = {
        "pillow": PIL.__version__,
        "files": sizes,
        "transparent": clear,
        "cuts": {name: cuts((OUT / name).read_bytes()) for name in sizes},
        "refused": sorted(refused()),
        "resize": resized(),
        "resize_rgba": resized_rgba(),
        "nearest": nearest(),
        "similarity": similarity(),
    }
    (OUT / "manifest.json").write_text(json.dumps(manifest) + "\n")
    print(f"{len(sizes)} files written with Pillow {PIL.__version__} to {OUT}")


if __name__ == "__main__":
    main()
