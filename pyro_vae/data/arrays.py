"""Arrays of other libraries as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Form", "as_tensor", "check_batches", "is_array", "to_floating"]


def is_array(value: Any) -> bool:
    """Whether a value is a tensor, or an array, frame or sparse matrix that can become one."""
    return isinstance(value, Tensor) or hasattr(value, "__array__") or hasattr(value, "toarray")


def as_tensor(value: Any, *, what: str = "x", dtype: torch.dtype | None = None) -> Tensor:
    """Return the numbers of an array as a dense tensor.

    Args:
        value: a tensor, or what NumPy takes for an array (arrays, frames, sparse matrices).
        what: its name in messages.
        dtype: type for floating-point numbers that did not come in a tensor; by default their own.

    Raises:
        TypeError: a masked array.
        ValueError: anything but numbers, such as a frame with a column of text.
    """
    if isinstance(value, Tensor):
        return value if value.layout is torch.strided else value.to_dense()
    if np.ma.isMaskedArray(value):
        raise TypeError(
            f"{what} is a masked array, whose mask would be lost; give "
            "torch.as_tensor(x.data, dtype=torch.float32), and mask=torch.as_tensor(~x.mask)."
        )
    array = np.array(value.toarray() if hasattr(value, "toarray") else value)
    if array.dtype.kind not in "buif":
        raise ValueError(
            f"{what} has type {array.dtype}; expected numbers. (A frame has this type if one of "
            "its columns holds text or missing integers.)"
        )
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    tensor = torch.from_numpy(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))))
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def to_floating(x: Tensor, dtype: torch.dtype, *, what: str = "x") -> Tensor:
    """Return integers or truth values as floating-point numbers of the same values.

    Raises:
        ValueError: integers so large that the type does not hold them all.
    """
    if x.is_floating_point() or x.is_complex():
        return x
    converted = x.to(dtype)
    if not torch.equal(converted.to(x.dtype), x):
        raise ValueError(
            f"{what} holds integers that {str(dtype).removeprefix('torch.')} numbers cannot tell "
            "apart; give x.double(), and a model of float64 parameters (model.double())."
        )
    return converted


@dataclass(frozen=True)
class Form:
    """What the arguments of programs are turned into.

    Attributes:
        what: their name in messages.
        dtype: type for floating-point arrays that are no tensors; by default their own.
        floating: whether the data, the first argument, get this type if they are integers.
    """

    what: str
    dtype: torch.dtype | None
    floating: bool

    def tensors(self, arguments: Sequence[Any]) -> tuple[Tensor, ...]:
        """Arrays as tensors; the data, which come first, floating-point if that is asked for."""
        converted = [
            as_tensor(argument, what=self.what, dtype=self.dtype)
            if is_array(argument)
            else argument
            for argument in arguments
        ]
        if self.floating and self.dtype is not None and converted:
            converted[0] = to_floating(converted[0], self.dtype, what=self.what)
        return tuple(converted)


def check_batches(items: list[Any], what: str) -> None:
    """Check that a list is one of batches, and not of single data.

    A batch has a dimension for its data and at least one for each of them. (Batches of scalars
    cannot be told from single vectors.)

    Raises:
        TypeError: a list of something else.
        ValueError: a list of single data, or of batches of scalars.
    """
    for item in items:
        part = item[0] if isinstance(item, list | tuple) and item else item
        if not is_array(part):
            raise TypeError(
                f"{what} is a list of {type(item).__name__}; give a torch tensor, such as "
                "torch.tensor(x), or a list of batches."
            )
        if part.ndim < 2:
            raise ValueError(
                f"{what} is a list of {len(items)} items of shape {tuple(part.shape)}; expected "
                "batches of shape (N, *event_shape). Give single data as torch.stack(x), and "
                "batches of scalars as torch.cat(x)."
            )
