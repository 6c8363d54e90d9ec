#!/usr/bin/env python3
"""Writes fixtures/jpeg: pixels, and the files that Pillow makes of them.

The Rust tests of `media` compare their own files with Pillow's. The sizes are awkward on purpose: 72 x 53 leaves
whole 8 x 8 blocks of the last 16 x 16 units outside the picture, to the right and below, and an odd last line.

`photo` is a piece of scikit-image's `astronaut` (NASA, public domain); `noise` is seeded random bytes, the hardest
picture there is; `tiny` is smaller than one block.
"""

import sys
from pathlib import Path

import numpy as np
import PIL
from PIL import Image
from skimage import data

OUT = Path(__file__).resolve().parent.parent / "fixtures" / "jpeg"


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    photo = data.astronaut()[60:113, 180:252]
    noise = np.random.default_rng(0).integers(0, 256, (53, 72, 3), dtype=np.uint8)
    tiny = photo[:5, :3]
    for name, pixels in {"photo": photo, "noise": noise, "tiny": tiny}.items():
        height, width, _ = pixels.shape
        stem = f"{name}.{width}x{height}"
        (OUT / f"{stem}.rgb").write_bytes(np.ascontiguousarray(pixels).tobytes())
        for quality in (75, 95):
            Image.fromarray(pixels).save(OUT / f"{stem}.q{quality}.jpg", quality=quality)
        # What `save` does when no quality is given is the point of the exercise.
        default = OUT / f"{stem}.default.jpg"
        Image.fromarray(pixels).save(default)
        if default.read_bytes() != (OUT / f"{stem}.q75.jpg").read_bytes():
            sys.exit("Pillow's default is not quality 75 any more; look at media::DEFAULT_QUALITY")
        default.unlink()
    print(f"written with Pillow {PIL.__version__} to {OUT}")


if __name__ == "__main__":
    main()
