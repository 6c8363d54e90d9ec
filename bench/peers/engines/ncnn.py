"""ncnn on the processor, in float32."""

from importlib.metadata import version
from pathlib import Path

import ncnn
import numpy as np


def prepare(export) -> None:
    def convert(part: Path) -> None:
        import pnnx
        from export import Decoder

        work = export.folder / "pnnx"
        work.mkdir(exist_ok=True)
        pnnx.export(Decoder(), str(work / "decoder.pt"), (export.latents,), check_trace=False, fp16=False)
        (work / "decoder.ncnn.bin").rename(export.folder / "ncnn.bin")
        (work / "decoder.ncnn.param").rename(part)
        for leftover in work.iterdir():
            leftover.unlink()
        work.rmdir()

    export.made("ncnn.param", convert)


def load(folder: Path, latents: np.ndarray, threads: int):
    net = ncnn.Net()
    net.opt.num_threads = threads
    for half in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, f"use_{half}", False)
    net.load_param(str(folder / "ncnn.param"))
    net.load_model(str(folder / "ncnn.bin"))

    def decode() -> np.ndarray:
        with net.create_extractor() as extractor:
            extractor.input("in0", ncnn.Mat(latents[0]))
            status, pixels = extractor.extract("out0")
            assert status == 0, f"ncnn failed with {status}"
            return pixels.numpy()

    return version("ncnn"), decode
