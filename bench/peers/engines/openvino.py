"""OpenVINO on its CPU device, in float32."""

from pathlib import Path

import numpy as np
import openvino


def prepare(export) -> None:
    export.onnx()


def load(folder: Path, latents: np.ndarray, threads: int):
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    model = openvino.Core().compile_model(folder / "decoder.onnx", "CPU", settings)
    request = model.create_infer_request()
    return openvino.__version__.split("-")[0], lambda: request.infer([latents])[0]
