"""MNN on its CPU backend, in float32."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import MNN
import numpy as np


def prepare(export) -> None:
    def convert(part: Path) -> None:
        tool = Path(sys.executable).with_name("mnnconvert")
        command = [tool, "-f", "ONNX", "--modelFile", export.onnx(), "--MNNModel", part, "--bizCode", "none"]
        subprocess.run(command, check=True)

    export.made("decoder.mnn", convert)


def load(folder: Path, latents: np.ndarray, threads: int):
    settings = {"backend": "CPU", "numThread": threads, "precision": "high", "memory": "normal", "power": "high"}
    manager = MNN.nn.create_runtime_manager((settings,))
    file = str(folder / "decoder.mnn")
    module = MNN.nn.load_module_from_file(file, ["latents"], ["pixels"], runtime_manager=manager)
    constant = MNN.expr.const(latents, list(latents.shape), MNN.expr.NCHW)

    def decode() -> np.ndarray:
        (pixels,) = module.onForward([constant])
        return MNN.expr.convert(pixels, MNN.expr.NCHW).read()

    return version("MNN"), decode
