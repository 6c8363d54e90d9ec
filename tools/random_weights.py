"""Seeded random weights that behave like trained ones.

Freshly initialised models hide bugs: their norms are the identity and their biases nearly zero, so an implementation
that forgets one still agrees. Here every norm and bias is randomised, and the scales are chosen so that activations
stay in a realistic range, attention is neither uniform nor one-hot, and the decoder's output lies mostly in [-1, 1].
"""

import math
import zlib
from concurrent.futures import ThreadPoolExecutor

import torch

# The mean square of silu(z) for z ~ N(0, 1): what a convolution behind norm and activation sees.
SILU_MEAN_SQUARE = 0.36


def random_tensor(name: str, shape: torch.Size, seed: int) -> torch.Tensor:
    """One tensor of a checkpoint; it depends only on its name, its shape and the seed."""
    generator = torch.Generator().manual_seed((seed << 32) ^ zlib.crc32(name.encode()))
    values = torch.randn(shape, generator=generator)
    layer, parameter = name.rsplit(".", 1)
    if parameter == "num_batches_tracked":
        return torch.tensor(1000 + seed)
    if parameter == "running_mean":
        return values.mul_(0.3)
    if parameter == "running_var":
        return values.mul_(0.5).exp_()
    layer = layer.removesuffix(".conv")  # HunyuanVideo wraps its convolutions
    is_norm = "norm" in layer.rsplit(".", 1)[-1]

    if is_norm:
        return values.mul_(0.2).add_(1.0) if parameter == "weight" else values.mul_(0.3)
    if parameter == "bias":
        return values.mul_(0.1)

    fan_in = math.prod(shape[1:])
    std = 1.0 / math.sqrt(fan_in)
    if layer.endswith(("conv1", "conv2", "conv_out")):
        std /= math.sqrt(SILU_MEAN_SQUARE)
    if layer.endswith("conv_in"):
        std /= 3.0  # unscaled latents have a standard deviation of 3 to 8
    if layer.endswith("conv2"):
        std *= 1.5  # a residual branch as strong as its trunk
    if layer.endswith("conv_out"):
        std *= 0.4  # pixels mostly within [-1, 1]
    if layer.endswith(("to_q", "to_k")):
        std *= 1.5  # logits with a standard deviation near 2: a soft choice among the positions
    if layer.endswith("to_out.0"):
        std *= 4.0  # makes up for averaging over positions
    return values.mul_(std)


def random_state_dict(shapes: dict[str, torch.Size], seed: int) -> dict[str, torch.Tensor]:
    """Weights for all `shapes`, drawn on two threads (torch releases the interpreter lock meanwhile)."""
    with ThreadPoolExecutor(2) as pool:
        values = pool.map(lambda item: random_tensor(*item, seed), shapes.items())
        return dict(zip(shapes, values))


OLD_ATTENTION_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def with_old_attention_names(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same weights under the names that diffusers used before 0.13; the SD v1 and SDXL files carry them."""

    def old(name: str) -> str:
        if ".attentions." in name:
            for new, before in OLD_ATTENTION_NAMES.items():
                name = name.replace(f".{new}.", f".{before}.")
        return name

    return {old(name): value for name, value in state_dict.items()}
