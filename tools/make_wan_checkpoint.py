"""Writes a diffusers checkpoint of Wan's or Qwen-Image's architecture with seeded random weights.

    python tools/make_wan_checkpoint.py wan-2.1 OUT [--seed 0] [--dtype float32]

As tools/make_checkpoint.py, for models whose norms and attention have other names.
"""

import argparse
import json
from pathlib import Path

import torch
from make_checkpoint import CONFIGS, DTYPES, write_checkpoint
from safetensors.torch import load_file, save_file

CLASSES = ("AutoencoderKLWan", "AutoencoderKLQwenImage", "AutoencoderKLQwenImage21")


def write_wan_checkpoint(config: dict, out: Path, seed: int = 0, dtype: str = "float32", **options) -> None:
    """As `write_checkpoint`, and the weights behave like trained ones too (see random_weights.py)."""
    write_checkpoint(config, out, seed=seed, **options)
    for path in out.glob("*.safetensors"):
        weights = load_file(path)
        for name, value in weights.items():
            if name.endswith(".gamma"):
                # Written as if they were biases, with a deviation of 0.3.
                value.mul_(0.2 / 0.3).add_(1.0)
            elif name.endswith(".to_qkv.weight"):
                # Queries and keys: a soft choice among the positions.
                value[: len(value) // 3 * 2] *= 1.5
            elif name.endswith(".proj.weight"):
                # Makes up for averaging over positions.
                value *= 4.0
        weights = {name: value.to(DTYPES[dtype]) for name, value in weights.items()}
        save_file(weights, path, metadata={"format": "pt"})


def main() -> None:
    configs = {path.stem: json.loads(path.read_text()) for path in CONFIGS.glob("*.json")}
    names = sorted(name for name, config in configs.items() if config["_class_name"] in CLASSES)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=names)
    parser.add_argument("out", type=Path, help="the folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="element type in the file")
    args = parser.parse_args()
    write_wan_checkpoint(configs[args.model], args.out, args.seed, args.dtype)


if __name__ == "__main__":
    main()
