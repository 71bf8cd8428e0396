"""Arrays of other libraries as tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["as_tensor", "check_batches", "is_array", "to_floating"]


_ROWS, _VALUES = 4096, 2**20  # that are looked at or converted at once


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
    array = np.asarray(value.toarray() if hasattr(value, "toarray") else value)
    if array.dtype.kind not in "buif":
        raise ValueError(
            f"{what} has type {array.dtype}; expected numbers. (A frame has this type if one of "
            "its columns holds text or missing integers.)"
        )
    kind = array.dtype.newbyteorder("=")
    if kind.kind == "u" and kind.itemsize > 1:
        kind = np.dtype(np.int64)
    if kind.kind == "f" and kind.itemsize > 8:
        kind = np.dtype(np.float64)
    if kind.kind == "f" and dtype is not None and dtype.is_floating_point:
        tensor = torch.empty(array.shape, dtype=dtype)
        for start in range(0, len(array) if array.ndim else 0, _ROWS):  # no second copy beside it
            rows = np.array(array[start : start + _ROWS], dtype=kind, order="C")
            tensor[start : start + _ROWS] = torch.from_numpy(rows)
        return tensor if array.ndim else tensor.fill_(float(array))
    return torch.from_numpy(np.array(array, dtype=kind, order="C"))


def to_floating(x: Tensor, dtype: torch.dtype, *, what: str = "x") -> Tensor:
    """Return integers or truth values as floating-point numbers of the same values.

    Raises:
        ValueError: integers so large that the type does not hold them all.
    """
    if x.is_floating_point() or x.is_complex():
        return x
    converted = x.to(dtype)
    flat = converted.reshape(-1).split(_VALUES), x.reshape(-1).split(_VALUES)
    if not all(torch.equal(some.to(x.dtype), own) for some, own in zip(*flat, strict=True)):
        raise ValueError(
            f"{what} holds integers that {str(dtype).removeprefix('torch.')} numbers cannot tell "
            "apart; give x.double(), and a model of float64 parameters (model.double())."
        )
    return converted


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
