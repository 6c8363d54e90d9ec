"""Writes a diffusers checkpoint of a real architecture with seeded random weights.

    python tools/make_checkpoint.py sd-v1 OUT [--seed 0] [--dtype float32] [--variant fp16] [--old-attention-names]

The architectures are those of `tools/configs`. OUT loads with `AutoencoderKL.from_pretrained(OUT)`, and is what the
end-to-end tests and the benchmarks decode with: the pictures mean nothing, the arithmetic is the real one.
"""

import argparse
import json
from pathlib import Path

import diffusers
import torch
from random_weights import random_state_dict, with_old_attention_names
from safetensors.torch import save_file

CONFIGS = Path(__file__).parent / "configs"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def write_checkpoint(
    config: dict,
    out: Path,
    seed: int = 0,
    dtype: str = "float32",
    variant: str | None = None,
    old_attention_names: bool = False,
) -> None:
    """Writes `config.json` and `diffusion_pytorch_model[.variant].safetensors` into the folder `out`."""
    with torch.device("meta"):  # names and shapes only: no memory, no initialisation
        model = getattr(diffusers, config["_class_name"]).from_config(config)
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    weights = random_state_dict(shapes, seed)
    if old_attention_names:
        weights = with_old_attention_names(weights)
    weights = {name: value.to(DTYPES[dtype]) if value.is_floating_point() else value for name, value in weights.items()}

    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    suffix = f".{variant}" if variant else ""
    save_file(weights, out / f"diffusion_pytorch_model{suffix}.safetensors", metadata={"format": "pt"})


def main() -> None:
    names = sorted(path.stem for path in CONFIGS.glob("*.json"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=names)
    parser.add_argument("out", type=Path, help="the folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="element type in the file")
    parser.add_argument("--variant", help="put into the file name, such as fp16")
    parser.add_argument("--old-attention-names", action="store_true", help="query, key, value, proj_attn")
    args = parser.parse_args()
    config = json.loads((CONFIGS / f"{args.model}.json").read_text())
    write_checkpoint(config, args.out, args.seed, args.dtype, args.variant, args.old_attention_names)


if __name__ == "__main__":
    main()
