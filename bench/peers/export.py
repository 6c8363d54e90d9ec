"""The model under test, its latents, diffusers' decode of them, and the decoder exported for engines of other formats.

All of it is made once and kept in the cache folder. The model is the one of the end-to-end tests: the real SD v1
configuration with seeded random weights.
"""

import functools
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from environment import ROOT, VENV

sys.path.insert(0, str(ROOT / "tests" / "e2e"))
from compare import round8  # noqa: E402
from models import SD_V1  # noqa: E402

MODEL = "AutoencoderKL of Stable Diffusion v1, random weights, float32"


class Decoder(torch.nn.Module):
    """What is exported: latents to pixels, `post_quant_conv` included."""

    def __init__(self) -> None:
        super().__init__()
        self.vae = SD_V1.reference

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.vae.decode(latents, return_dict=False)[0]


class Export:
    """For square pictures of one size: exported models have fixed shapes, which is best for their engines."""

    def __init__(self, size: int) -> None:
        self.side = size // 8
        self.folder = VENV / "models" / SD_V1.folder.name / str(size)
        self.folder.mkdir(parents=True, exist_ok=True)

    @functools.cached_property
    def latents(self) -> torch.Tensor:
        """Unscaled latents, `[1, 4, side, side]`, float32."""
        return SD_V1.unscaled(SD_V1.latents(1, self.side, self.side, dtype=torch.float32))

    def common(self) -> dict[str, str]:
        """Makes what every comparison needs: the checkpoint, the latents, and the bytes that diffusers makes of them."""
        latents, pixels = self.folder / "latents.npy", self.folder / "pixels.npy"
        if not pixels.exists():
            with torch.inference_mode():
                reference = SD_V1.decoded(self.latents)
            np.save(latents, self.latents.numpy())
            np.save(pixels, round8(reference)[0])
        return {"folder": str(self.folder), "checkpoint": str(SD_V1.folder), "model": MODEL}

    def made(self, name: str, make: Callable[[Path], object]) -> Path:
        """The file `name`, which `make(path)` writes if it is not there."""
        file = self.folder / name
        if not file.exists():
            part = file.with_stem(file.stem + "-part")
            with torch.inference_mode():
                make(part)
            part.rename(file)
        return file

    def onnx(self) -> Path:
        """The decoder as ONNX, from `latents` to `pixels`."""

        def export(part: Path) -> None:
            names = {"input_names": ["latents"], "output_names": ["pixels"]}
            torch.onnx.export(Decoder(), (self.latents,), part, dynamo=False, opset_version=17, **names)

        return self.made("decoder.onnx", export)
