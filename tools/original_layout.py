"""Writes a diffusers autoencoder as the single file that it was before diffusers: the layout of UIs and original releases.

    python tools/original_layout.py FOLDER OUT.safetensors [--inside sd-v1 | sdxl | sd3 | flux]

FOLDER is what `tools/make_checkpoint.py` writes. Without `--inside`, OUT has the bare names of the latent diffusion code
base (`decoder.mid.attn_1.q.weight`), as `ae.safetensors` of Flux and `sdxl_vae.safetensors` have. With it, OUT is laid out
as the full checkpoint of that model, with a few small tensors in the place of everything that is no autoencoder.

    python tools/original_layout.py --names fixtures/original-names.json

writes the fixture of `crates/vae`: for some configurations, each original name and what diffusers makes of it.

The mapping is not ours: each tensor gets the name from which diffusers' own `convert_ldm_vae_checkpoint` makes the name
that it has in FOLDER, and the result is converted back by that function before anything is written.
"""

import argparse
import json
import re
from pathlib import Path

import diffusers
import torch
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from random_weights import OLD_ATTENTION_NAMES
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).parent.parent

ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}

# The tensors by which diffusers tells models apart (`CHECKPOINT_KEY_NAMES`), and where the autoencoder is among them.
FULL = {
    "sd-v1": ("first_stage_model.", {
        "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight": (77, 8),
        "model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight": (8, 768),
        "model.diffusion_model.output_blocks.11.0.skip_connection.weight": (8, 8, 1, 1),
    }),
    "sdxl": ("first_stage_model.", {
        "conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias": (8,),
        "model.diffusion_model.label_emb.0.0.weight": (8, 2816),
        "model.diffusion_model.input_blocks.2.0.in_layers.0.weight": (8,),
    }),
    "sd3": ("first_stage_model.", {
        "model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.bias": (8,),
        "model.diffusion_model.pos_embed": (1, 8, 8),
    }),
    "flux": ("vae.", {
        "model.diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale": (8,),
        "text_encoders.t5xxl.transformer.shared.weight": (8, 8),
    }),
}


def original_name(name: str, up_blocks: int) -> str:
    """The inverse of what `convert_ldm_vae_checkpoint` does to names; of diffusers' attention names, old and new."""
    for new, old in OLD_ATTENTION_NAMES.items():
        name = name.replace(f".attentions.0.{old}.", f".attentions.0.{new}.")
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", name)
    for new, original in ATTENTION.items():
        name = name.replace(f"mid_block.attentions.0.{new}.", f"mid.attn_1.{original}.")
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets", lambda match: f"up.{up_blocks - 1 - int(match[1])}.block", name)
    return re.sub(
        r"up_blocks\.(\d)\.upsamplers\.0", lambda match: f"up.{up_blocks - 1 - int(match[1])}.upsample", name
    )


def original_layout(weights: dict[str, torch.Tensor], config: dict) -> dict[str, torch.Tensor]:
    """The same weights in the original layout: other names, and attention as 1x1 convolutions."""
    up_blocks = len(config["up_block_types"])
    original = {}
    for name, value in weights.items():
        if ".attentions." in name and value.ndim == 2:
            value = value[:, :, None, None]
        original[original_name(name, up_blocks)] = value
    check(weights, original, config)
    return original


def check(weights: dict[str, torch.Tensor], original: dict[str, torch.Tensor], config: dict) -> None:
    """diffusers must make exactly `weights` of `original`."""
    back = convert_ldm_vae_checkpoint(dict(original), config)
    expected = {}
    for name, value in weights.items():
        for new, old in OLD_ATTENTION_NAMES.items():
            name = name.replace(f".attentions.0.{old}.", f".attentions.0.{new}.")
        expected[name] = value
    assert back.keys() == expected.keys(), sorted(back.keys() ^ expected.keys())
    assert all(torch.equal(back[name].reshape(value.shape), value) for name, value in expected.items())


def write(folder: Path, out: Path, inside: str | None = None) -> None:
    """Writes `out` from the autoencoder in `folder`."""
    config = json.loads((folder / "config.json").read_text())
    (path,) = folder.glob("diffusion_pytorch_model*.safetensors")
    weights = original_layout(load_file(path), config)
    if inside:
        prefix, others = FULL[inside]
        dtype = next(iter(weights.values())).dtype
        weights = {prefix + name: value for name, value in weights.items()}
        weights |= {name: torch.zeros(shape, dtype=dtype) for name, shape in others.items()}
    weights = {name: value.contiguous() for name, value in weights.items()}
    save_file(weights, out, metadata={"format": "pt"})


def names(config: dict) -> dict[str, str]:
    """Original names to diffusers' for every tensor of a model with this configuration."""
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in diffusers.AutoencoderKL.from_config(config).state_dict().items()}
    # Values that tell each tensor from all others, at no size.
    weights = {name: torch.tensor(float(index)).expand(shape) for index, (name, shape) in enumerate(shapes.items())}
    original_layout(weights, config)
    return {original_name(name, len(config["up_block_types"])): name for name in weights}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--inside", choices=FULL)
    parser.add_argument("--names", type=Path, help="write the fixture with names, nothing else")
    args = parser.parse_args()
    if args.names:
        configs = {name: ROOT / "tools" / "configs" / f"{name}.json" for name in ("sd-v1",)}
        configs["wide"] = ROOT / "fixtures" / "vae" / "wide" / "config.json"
        made = {name: names(json.loads(path.read_text())) for name, path in configs.items()}
        args.names.write_text(json.dumps(made, indent=1) + "\n")
    elif args.folder and args.out:
        write(args.folder, args.out, args.inside)
    else:
        parser.error("FOLDER and OUT are required")


if __name__ == "__main__":
    main()
