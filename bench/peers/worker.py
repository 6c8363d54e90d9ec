"""One engine in a process of its own.

    python worker.py prepare SIZE ENGINE ...           makes the files that all engines need, and those of these
    python worker.py serve FOLDER ENGINE THREADS       loads the model, then decodes once for each line on stdin

Each answer is a line of JSON on stdout. A line on stdin is the path of a file for the picture's bytes, `[H, W, 3]`.
Only the engine's own call is timed.

A file in `engines/` is one engine. Its `prepare(export)` makes its files; its `load(folder, latents, threads)` gives
its version and a function that decodes the latents once and returns pixels `[1, 3, H, W]`. What it imports counts as
its memory.
"""

import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import TextIO

import numpy as np


def prepare(answers: TextIO, size: str, *engines: str) -> None:
    from export import Export

    export = Export(int(size))
    common = export.common()
    for engine in engines:
        importlib.import_module(f"engines.{engine}").prepare(export)
    print(json.dumps(common), file=answers)


def serve(answers: TextIO, folder: str, engine: str, threads: str) -> None:
    latents = np.load(Path(folder) / "latents.npy")
    start = time.perf_counter()
    version, decode = importlib.import_module(f"engines.{engine}").load(Path(folder), latents, int(threads))
    print(json.dumps({"version": version, "seconds": time.perf_counter() - start}), file=answers)
    height, width = latents.shape[2] * 8, latents.shape[3] * 8
    for line in sys.stdin:
        start = time.perf_counter()
        pixels = decode()
        seconds = time.perf_counter() - start
        unit = np.clip(np.asarray(pixels, np.float32).reshape(3, height, width) / 2 + 0.5, 0, 1)
        Path(line.rstrip("\n")).write_bytes((unit.transpose(1, 2, 0) * 255).round().astype(np.uint8).tobytes())
        print(json.dumps({"seconds": seconds}), file=answers)


if __name__ == "__main__":
    # Libraries chat on stdout; the answers keep it for themselves.
    original = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    {"prepare": prepare, "serve": serve}[sys.argv[1]](original, *sys.argv[2:])
