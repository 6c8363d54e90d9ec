"""Makes fixtures/checkpoints: the model of fixtures/vae/many-positions in the other files that people have.

    ~/.cache/remote-vae/venv/bin/python tools/make_checkpoint_fixtures.py

Pickles are those of `torch.save`, one of them a Lightning checkpoint with all that lies in one.
Types of eight and of 64 bits are PyTorch's own conversions, and beside each such file are the float32 values that PyTorch
makes of it.
"""

import collections
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "fixtures" / "vae" / "many-positions" / "diffusion_pytorch_model.safetensors"
OUT = ROOT / "fixtures" / "checkpoints"


def lightning(weights: dict[str, torch.Tensor]) -> dict:
    """A checkpoint as training with Lightning leaves it. One weight is a view in another order than in memory."""
    state = collections.OrderedDict(weights)
    name = "decoder.conv_in.weight"
    state[name] = torch.nn.Parameter(state[name].contiguous(memory_format=torch.channels_last))
    state["loss.logvar"] = torch.zeros(())
    optimizer = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-4}]}
    return {
        "epoch": 3,
        "global_step": 1 << 40,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": state,
        "optimizer_states": [optimizer],
        "hparams": torch.Size([1, 2]),
    }


def scaled(weights: dict[str, torch.Tensor]) -> tuple[dict, dict]:
    """Eight bits with scales as ComfyUI writes them, and a few other types; and the same as float32."""
    stored, expected = {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}, {}
    for index, (name, weight) in enumerate(sorted(weights.items())):
        weight = weight.float()
        if not name.endswith(".weight") or weight.dim() < 2:
            stored[name] = weight.double() / 3
            expected[name] = stored[name].float()
            continue
        dtype = (torch.float8_e4m3fn, torch.float8_e5m2)[index % 2]
        layer = name.removesuffix(".weight")
        match index % 4:
            case 0 | 1:
                scale = weight.abs().amax() / 400
                stored[f"{layer}.scale_weight"] = scale.reshape(())
                stored[f"{layer}.scale_input"] = torch.ones(())
            case 2:
                scale = weight.abs().flatten(1).amax(1).clamp(min=1e-6) / 400
                stored[f"{layer}.weight_scale"] = scale.reshape(-1, 1)
                scale = scale.reshape(-1, *(1 for _ in weight.shape[1:]))
            case _:
                scale = torch.ones(())
        stored[name] = (weight / scale).to(dtype)
        expected[name] = stored[name].float() * scale
    return stored, expected


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    weights = load_file(MODEL)
    torch.save(lightning(weights), OUT / "lightning.ckpt")
    torch.save({f"module.{name}": weight.to(torch.float8_e5m2) for name, weight in weights.items()}, OUT / "float8.pt")
    expected = {name: weight.to(torch.float8_e5m2).float() for name, weight in weights.items()}
    save_file(expected, OUT / "float8.expected.safetensors")
    stored, expected = scaled(weights)
    save_file(stored, OUT / "scaled.safetensors")
    save_file(expected, OUT / "scaled.expected.safetensors")


if __name__ == "__main__":
    main()
