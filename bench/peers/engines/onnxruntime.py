"""ONNX Runtime on its CPU provider."""

from pathlib import Path

import numpy as np
import onnxruntime


def prepare(export) -> None:
    export.onnx()


def load(folder: Path, latents: np.ndarray, threads: int):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(folder / "decoder.onnx", options, providers=["CPUExecutionProvider"])
    return onnxruntime.__version__, lambda: session.run(None, {"latents": latents})[0]
