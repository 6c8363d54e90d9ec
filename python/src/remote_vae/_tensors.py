"""Tensors of torch and numpy as bytes on the wire, and back. torch is used where the caller has imported it."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ._errors import AnswerError, InputError

if TYPE_CHECKING:
    import torch

Array: TypeAlias = "npt.NDArray[Any]"
Tensor: TypeAlias = "Array | torch.Tensor"
"""A tensor of torch, or an array of numpy (or what numpy makes one of)."""
Library = Literal["np", "pt"]

# Types of the protocol, as numpy reads them. numpy has no bfloat16: its bits are kept in integers.
WIRE = {"float16": "<f2", "bfloat16": "<u2", "float32": "<f4", "float64": "<f8", "uint8": "u1"}
POSITIONS = 3
"""How many positions of values that are not finite are told."""


@dataclass(frozen=True)
class WireTensor:
    """The values of a tensor in C order, little-endian, with their type and shape."""

    shape: tuple[int, ...]
    dtype: str
    data: bytes
    library: Library
    """Where it came from."""

    @property
    def count(self) -> int:
        """The number of values."""
        return len(self.data) // np.dtype(WIRE[self.dtype]).itemsize


def library_of(tensor: object) -> Library:
    """`pt` for a tensor of torch, `np` for all else. It does not import torch."""
    torch = sys.modules.get("torch")
    return "pt" if torch is not None and isinstance(tensor, torch.Tensor) else "np"


def to_wire(tensor: Tensor, what: str, allow_non_finite: bool = False) -> WireTensor:
    """The bytes of a tensor, whatever its device, type and layout in memory. They are a copy, complete when this returns.

    Raises:
        InputError: a type that the protocol has not, or values that are NaN or infinite. `what` names the tensor in it.
    """
    library = library_of(tensor)
    values, dtype = _values_of_torch(tensor, what) if library == "pt" else _values_of_numpy(tensor, what)
    if not allow_non_finite:
        check_finite(values, dtype, what)
    return WireTensor(values.shape, dtype, values.tobytes(), library)


def _values_of_torch(tensor: Any, what: str) -> tuple[Array, str]:
    import torch

    dtype = str(tensor.dtype).removeprefix("torch.")
    _check_type(dtype, what)
    if tensor.layout != torch.strided or tensor.device.type == "meta":
        raise InputError(f"{what} have no values that can be sent: the tensor is {tensor.layout} on {tensor.device}")
    # Lazy signs are written out, and what is on a device or strided is copied before its memory is read.
    plain = tensor.detach().to("cpu").resolve_neg().contiguous()
    if dtype == "bfloat16":
        return plain.view(torch.int16).numpy().astype("<u2", copy=False), dtype
    return plain.numpy().astype(WIRE[dtype], copy=False), dtype


def _values_of_numpy(tensor: Any, what: str) -> tuple[Array, str]:
    values = np.ascontiguousarray(tensor).reshape(np.shape(tensor))
    dtype = values.dtype.name
    _check_type(dtype, what)
    return values.astype(WIRE[dtype], copy=False), dtype


def _check_type(dtype: str, what: str) -> None:
    if dtype not in WIRE:
        raise InputError(f"{what} are {dtype}, but must be one of {', '.join(WIRE)}: convert them first")


def check_finite(values: Array, dtype: str, what: str) -> None:
    """Checks that all values are numbers: of anything else no server makes a picture.

    Raises:
        InputError: with how many are not, and where.
    """
    if dtype == "uint8":
        return
    if dtype == "bfloat16":
        odd = (values & 0x7F80) == 0x7F80
    else:
        # Models take float32: what is too large for that is infinite to them.
        with np.errstate(over="ignore"):
            odd = ~np.isfinite(values.astype(np.float32) if dtype == "float64" else values)
    count = int(np.count_nonzero(odd))
    if count == 0:
        return
    first = np.flatnonzero(odd)[:POSITIONS]
    positions = ", ".join(str([int(i) for i in np.unravel_index(at, values.shape)]) for at in first)
    raise InputError(
        f"{count} of the {values.size} values of {what} {'is' if count == 1 else 'are'} NaN or infinite, "
        f"{'at' if count == 1 else 'the first at'} {positions}; `allow_non_finite=True` sends them all the same"
    )


def from_wire(headers: Mapping[str, str], body: bytes, library: Library) -> Any:
    """The tensor of an answer, on the CPU. numpy has no bfloat16: its values become float32, which holds them exactly.

    Raises:
        AnswerError: the answer is no tensor.
    """
    try:
        shape, dtype = json.loads(headers["shape"]), headers["dtype"].removeprefix("torch.")
        values = np.frombuffer(bytearray(body), dtype=WIRE[dtype]).reshape(shape)
    except (KeyError, ValueError, TypeError) as error:
        raise AnswerError(f"the server's answer cannot be used: it is no tensor ({error!r})") from None
    if library == "pt":
        import torch

        native = values.astype(values.dtype.newbyteorder("="), copy=False)
        if dtype == "bfloat16":
            return torch.from_numpy(native.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(native)
    if dtype == "bfloat16":
        return (values.astype("<u4") << 16).view("<f4")
    return values
