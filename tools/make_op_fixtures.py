"""Writes `fixtures/ops.safetensors`: for each operation of a graph, small inputs and weights, and what PyTorch makes of them.

    python tools/make_op_fixtures.py            # needs torch, safetensors; takes seconds

Tensors are named `CASE.x0`, `CASE.x1`, ... (inputs), `CASE.w0`, `CASE.w1` (weight and bias) and `CASE.y` (output). Values have
five axes: batch, channels, frames, height, width. The attributes of each case are in `crates/vae/src/graph/tests/ops.rs`. Everything
is computed in f64 and written in f32.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_hunyuan_video import HunyuanVideoUpsampleCausal3D
from diffusers.models.autoencoders.autoencoder_kl_wan import WanRMS_norm
from safetensors.torch import save_file

FILE = Path(__file__).parent.parent / "fixtures" / "ops.safetensors"

random = torch.Generator().manual_seed(1)


def values(*shape: int) -> torch.Tensor:
    """Values that f32 holds exactly, so that inputs are the same for everybody."""
    return torch.randn(shape, generator=random).double()


def conv(x, weight, bias=None, stride=(1, 1, 1), pad=((0, 0), (0, 0), (0, 0)), modes=("constant",) * 3, groups=1):
    """A convolution behind a padding for each side of frames, height and width."""
    for axis, ((before, after), mode) in enumerate(zip(pad, modes)):
        sides = [0, 0] * 3
        sides[2 * (2 - axis)], sides[2 * (2 - axis) + 1] = before, after
        x = F.pad(x, sides, mode=mode)
    return F.conv3d(x, weight, bias, stride=stride, groups=groups)


def heads(x: torch.Tensor, count: int) -> torch.Tensor:
    """`[N, C, F, H, W]` to `[N, heads, F * H * W, C / heads]`."""
    n, c = x.shape[:2]
    return x.reshape(n, count, c // count, -1).transpose(2, 3)


def attention(q, k, v, count=1, mask=None):
    out = F.scaled_dot_product_attention(*(heads(x, count) for x in (q, k, v)), attn_mask=mask)
    return out.transpose(2, 3).reshape(q.shape)


def frames_of(x: torch.Tensor) -> torch.Tensor:
    """The frame of each position."""
    f, h, w = x.shape[2:]
    return torch.arange(f).repeat_interleave(h * w)


def cases() -> dict[str, tuple[list, list, torch.Tensor]]:
    made = {}

    def case(name: str, inputs: list, weights: list, output: torch.Tensor) -> None:
        made[name] = (inputs, weights, output)

    x, w, b = values(2, 3, 1, 5, 4), values(4, 3, 3, 3), values(4)
    case("conv2d", [x], [w, b], F.conv2d(x[:, :, 0], w, b, padding=1)[:, :, None])
    down = F.conv2d(F.pad(x[:, :, 0], (0, 1, 0, 1)), w, b, stride=2)
    case("conv2d-down", [x], [w, b], down[:, :, None])
    x, w = values(1, 4, 1, 4, 5), values(6, 2, 3, 3)
    case("conv2d-groups", [x], [w], F.conv2d(x[:, :, 0], w, padding=1, groups=2)[:, :, None])
    x, w, b = values(1, 2, 4, 3, 5), values(3, 2, 3, 3, 3), values(3)
    replicate = ("replicate",) * 3
    pad = ((2, 0), (1, 1), (1, 1))
    case("conv3d-causal", [x], [w, b], conv(x, w, b, pad=pad, modes=replicate))
    case("conv3d-stride", [x], [w, b], conv(x, w, b, (2, 2, 1), pad, replicate))
    case("conv3d-zeros", [x], [w, b], conv(x, w, b, pad=pad))
    modes = ("replicate", "reflect", "reflect")
    case("conv3d-reflect", [x], [w, b], conv(x, w, b, pad=((1, 1), (1, 1), (1, 1)), modes=modes))
    w = values(4, 2, 3, 1, 1)
    case("conv3d-time", [x], [w], conv(x, w, pad=((2, 0), (0, 0), (0, 0))))

    x, w, b = values(2, 3, 2, 2, 2), values(5, 3), values(5)
    case("linear", [x], [w, b], F.linear(x.movedim(1, -1), w, b).movedim(-1, 1))
    x, w, b = values(2, 6, 2, 3, 2), values(6), values(6)
    case("group-norm", [x], [w, b], F.group_norm(x, 3, w, b, eps=1e-2))
    norm = WanRMS_norm(6, images=False).double()
    norm.gamma.data = w.reshape(6, 1, 1, 1)
    case("rms-norm", [x], [w], norm(x).detach())
    case("rms-norm-plain", [x], [], x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-2))
    case("layer-norm", [x], [w, b], F.layer_norm(x.movedim(1, -1), [6], w, b, eps=1e-2).movedim(-1, 1))
    shape = (1, 6, 1, 1, 1)
    case("scale-shift", [x], [w, b], x * w.reshape(shape) + b.reshape(shape))
    case("affine", [x], [], x * 2 - 1)
    case("clamp", [x], [], x.clamp(-0.5, 1))

    x = 2 * values(1, 4, 1, 6, 7)
    case("silu", [x], [], F.silu(x))
    case("relu", [x], [], F.relu(x))
    case("tanh", [x], [], torch.tanh(x / 3) * 3)
    case("gelu", [x], [], F.gelu(x))
    gate, value = x.chunk(2, dim=1)
    case("swiglu", [x], [], F.silu(gate) * value)

    a, b = values(1, 2, 2, 3, 2), values(1, 2, 2, 3, 2)
    case("add", [a, b], [], a + b)
    case("mul", [a, b], [], a * b)
    b = values(1, 2, 3, 3, 2)
    case("concat", [a, b], [], torch.cat([a, b], dim=2))
    case("slice", [b], [], b[:, :, 1:])
    case("repeat", [b], [], b.repeat(1, 2, 1, 1, 1))
    case("repeat-each", [b], [], b.repeat_interleave(2, dim=1))
    case("upsample", [b], [], F.interpolate(b, scale_factor=(1, 2, 2)))
    upsampler = HunyuanVideoUpsampleCausal3D(2, upsample_factor=(2, 2, 2)).double()
    upsampler.conv = torch.nn.Identity()
    case("upsample-frames", [b], [], upsampler(b))

    x = values(1, 12, 2, 2, 3)
    case("depth-to-space", [x], [], F.pixel_shuffle(x.transpose(1, 2), 2).transpose(1, 2))
    # Wan 2.2's unpatchify: the first factor of the channels is the column.
    y = x.reshape(1, 3, 2, 2, 2, 2, 3).permute(0, 1, 4, 5, 3, 6, 2).reshape(1, 3, 2, 4, 6)
    case("depth-to-space-column", [x], [], y)
    # HunyuanVideo 1.5's: positions of a block before the channels, frames among them.
    x = values(1, 16, 2, 1, 3)
    y = x.reshape(1, 2, 2, 2, 2, 2, 1, 3).permute(0, 4, 5, 1, 6, 2, 7, 3).reshape(1, 2, 4, 2, 6)
    case("depth-to-space-3d", [x], [], y)
    x = values(1, 2, 2, 4, 6)
    case("space-to-depth", [x], [], F.pixel_unshuffle(x.transpose(1, 2), 2).transpose(1, 2))
    y = x.reshape(1, 2, 1, 2, 2, 2, 3, 2).permute(0, 3, 5, 7, 1, 2, 4, 6).reshape(1, 16, 1, 2, 3)
    case("space-to-depth-3d", [x], [], y)

    q, k, v = (values(2, 4, 3, 2, 2) for _ in range(3))
    frames = frames_of(q)
    case("attention", [q, k, v], [], attention(q, k, v))
    case("attention-heads", [q, k, v], [], attention(q, k, v, 2))
    case("attention-frame", [q, k, v], [], attention(q, k, v, mask=frames[:, None] == frames))
    case("attention-causal", [q, k, v], [], attention(q, k, v, mask=frames[:, None] >= frames))
    return made


def main() -> None:
    tensors = {}
    for name, (inputs, weights, output) in cases().items():
        for kind, group in (("x", inputs), ("w", weights)):
            for index, tensor in enumerate(group):
                tensors[f"{name}.{kind}{index}"] = tensor.float().contiguous()
        assert output.dim() == 5, name
        tensors[f"{name}.y"] = output.float().contiguous()
    save_file(tensors, FILE)


if __name__ == "__main__":
    main()
