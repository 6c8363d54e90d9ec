"""The bytes of tensors are right whatever their device, type and layout; what is no number is refused."""

import gc

import numpy as np
import pytest
import torch
from remote_vae import InputError
from remote_vae._tensors import from_wire, to_wire

VALUES = np.arange(-12, 12).reshape(1, 2, 3, 4) / 8


def expected(dtype: torch.dtype) -> bytes:
    """The values in C order, written one by one."""
    flat = [torch.tensor(value, dtype=dtype) for value in VALUES.flatten()]
    return b"".join(bytes(value.reshape(1).view(torch.uint8).tolist()) for value in flat)


LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0),
    "a slice": lambda x: torch.cat([x, x], dim=3)[..., :4],
    "every second": lambda x: x.repeat_interleave(2, dim=2)[:, :, ::2],
    "with a gradient": lambda x: x.clone().requires_grad_(),
    "with a lazy sign": lambda x: torch.complex(x.float(), -x.float()).conj().imag if x.dtype == torch.float32 else x,
    "of inference": lambda x: torch.inference_mode()(lambda: x + 0)(),
    "a parameter": lambda x: torch.nn.Parameter(x),
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_torch(layout, dtype):
    tensor = LAYOUTS[layout](torch.tensor(VALUES, dtype=dtype))
    wire = to_wire(tensor, "the latents")
    assert (wire.shape, wire.dtype, wire.library) == ((1, 2, 3, 4), str(dtype).removeprefix("torch."), "pt")
    assert wire.data == expected(dtype)


def test_the_bytes_are_a_copy():
    """What diffusers' client sends of a device's tensor is memory that was freed."""
    tensor = torch.tensor(VALUES, dtype=torch.float32)
    wire = to_wire(tensor, "the latents")
    tensor.zero_()
    del tensor
    gc.collect()
    junk = [torch.full((1, 2, 3, 4), float("nan")) for _ in range(64)]
    assert wire.data == expected(torch.float32)
    assert len(junk) == 64


@pytest.mark.parametrize("order", ["C", "F", ">"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_numpy(dtype, order):
    array = VALUES.astype(np.dtype(dtype).newbyteorder(">")) if order == ">" else np.array(VALUES, dtype, order=order)
    wire = to_wire(array, "the latents")
    assert (wire.shape, wire.dtype, wire.library) == ((1, 2, 3, 4), dtype, "np")
    assert wire.data == expected(getattr(torch, dtype))
    assert to_wire(np.asfortranarray(array)[:, ::-1][:, ::-1], "the latents").data == wire.data


def test_other_types():
    assert to_wire(np.arange(3, dtype=np.uint8), "the pixels").data == b"\x00\x01\x02"
    assert to_wire(torch.arange(3, dtype=torch.uint8), "the pixels").dtype == "uint8"
    for other in [torch.arange(3), torch.zeros(3, dtype=torch.complex64), np.arange(3), np.zeros(3, complex), np.array(["a"])]:
        with pytest.raises(InputError, match="convert them first"):
            to_wire(other, "the latents")
    for nowhere in [torch.zeros(2, 2, device="meta"), torch.zeros(2, 2).to_sparse()]:
        with pytest.raises(InputError, match="no values that can be sent"):
            to_wire(nowhere, "the latents")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("odd", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number(dtype, odd):
    tensor = torch.tensor(VALUES, dtype=dtype)
    tensor[0, 1, 2, 3] = odd
    with pytest.raises(InputError) as caught:
        to_wire(tensor, "the latents")
    said = "1 of the 24 values of the latents is NaN or infinite, at [0, 1, 2, 3]; "
    assert str(caught.value).startswith(said)
    tensor[0, 0] = odd
    with pytest.raises(InputError) as caught:
        to_wire(tensor, "the latents")
    said = "13 of the 24 values of the latents are NaN or infinite, the first at [0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 2]; "
    assert str(caught.value).startswith(said)
    to_wire(tensor, "the latents", allow_non_finite=True)


def test_what_a_model_cannot_hold():
    with pytest.raises(InputError, match="1 of the 2 values"):
        to_wire(np.array([1e39, 1e38]), "the latents")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_the_way_back(dtype):
    tensor = torch.tensor(VALUES, dtype=dtype)
    headers = {"shape": "[1, 2, 3, 4]", "dtype": str(dtype).removeprefix("torch.")}
    body = to_wire(tensor, "the latents").data
    again = from_wire(headers, body, "pt")
    assert again.dtype == dtype and torch.equal(again, tensor)
    again.zero_()  # it can be written to
    array = from_wire(headers, body, "np")
    # numpy has no bfloat16.
    assert array.dtype == (np.float32 if dtype == torch.bfloat16 else headers["dtype"])
    assert np.array_equal(array, tensor.double().numpy())
