"""Arrays of other libraries as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["as_tensor", "check_batches", "is_array", "to_floating", "to_single"]


_ROWS, _VALUES = 4096, 2**20  # that are looked at or converted at once
_LARGEST = 2**63 - 1
_APART = (
    "{} holds integers that {} numbers cannot tell apart; give x.double(), and a model of float64 "
    "parameters (model.double()). Files are read in float32, which holds all whole numbers up to "
    "2**24: divide or clip those in a file."
)


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
        TypeError: a masked array, a nested tensor.
        ValueError: anything but numbers, such as a frame with a column of text; numbers that the
            type cannot hold: integers of 2**63 and more, or large whole numbers in float32.
    """
    if isinstance(value, Tensor):
        if value.is_nested:
            raise TypeError(
                f"{what} is a nested tensor, whose data differ in shape; give the padded tensor, "
                "torch.nested.to_padded_tensor(x, 0.0), and the lengths as another argument."
            )
        return value if value.layout is torch.strided else value.to_dense()
    if np.ma.isMaskedArray(value):
        raise TypeError(
            f"{what} is a masked array, whose mask would be lost; give "
            "torch.as_tensor(x.data, dtype=torch.float32), and mask=torch.as_tensor(~x.mask)."
        )
    array = np.asarray(value.toarray() if hasattr(value, "toarray") else value)
    if array.dtype.kind not in "buif":
        raise ValueError(f"{what} has type {array.dtype}; expected numbers. {_conversion(array)}")
    kind = array.dtype.newbyteorder("=")
    if kind.kind == "u" and kind.itemsize > 1:
        if kind.itemsize == 8 and array.size and array.max() > _LARGEST:
            raise ValueError(
                f"{what} holds integers above 2**63 - 1, torch's largest; give "
                "torch.as_tensor(x.astype('float64')) if they need not be exact."
            )
        kind = np.dtype(np.int64)
    if kind.kind == "f" and kind.itemsize > 8:
        kind = np.dtype(np.float64)
    if kind.kind == "f" and dtype is not None and dtype.is_floating_point:
        tensor = torch.empty(array.shape, dtype=dtype)
        for start in range(0, len(array) if array.ndim else 0, _ROWS):  # no second copy beside it
            rows = np.array(array[start : start + _ROWS], dtype=kind, order="C")
            given = torch.from_numpy(rows)
            tensor[start : start + _ROWS] = given
            _check_range(given, tensor[start : start + _ROWS], what, start)
        if _are_other_whole_numbers(array, dtype):
            raise ValueError(_APART.format(what, str(dtype).removeprefix("torch.")))
        return tensor if array.ndim else tensor.fill_(float(array))
    return torch.from_numpy(np.array(array, dtype=kind, order="C"))


def _conversion(array: np.ndarray[Any, Any]) -> str:
    """What to write instead of an array that holds no real numbers."""
    if array.dtype.names:
        return (
            "Its fields are: give numpy.lib.recfunctions.structured_to_unstructured(x), or one "
            f"field, x[{array.dtype.names[0]!r}]."
        )
    if array.dtype.kind == "c":
        return "Give real and imaginary parts, torch.view_as_real(torch.as_tensor(x))."
    if array.dtype.kind in "mM":
        return "Give times as numbers, such as x.astype('int64')."
    return (
        "Give x.astype('float32') if all are numbers. (A frame has this type if one of its columns "
        "holds text or missing integers.)"
    )


def _are_other_whole_numbers(array: np.ndarray[Any, Any], dtype: torch.dtype) -> bool:
    """Whether an array of whole numbers would hold others, as 2**24 + 1 in float32."""
    largest = 1 / torch.finfo(dtype).eps
    if not array.size or 1 / float(np.finfo(array.dtype).eps) <= largest:
        return False
    different = False
    for start in range(0, len(array) if array.ndim else 0, _ROWS):
        rows = np.asarray(array[start : start + _ROWS], dtype=np.float64)
        if not (np.isfinite(rows).all() and (rows == rows.round()).all()):
            return False
        if np.abs(rows).max() > largest:
            given = torch.from_numpy(np.ascontiguousarray(rows))
            different |= not torch.equal(given.to(dtype).double(), given)
    return different


def _check_range(x: Tensor, converted: Tensor, what: str, first: int = 0) -> None:
    """Check that no number became infinite."""
    beyond = converted.isinf() & x.isfinite()
    if beyond.any():
        row = first + int(beyond.reshape(len(x), -1).any(1).nonzero()[0]) if x.dim() else 0
        dtype = converted.dtype
        raise ValueError(
            f"{what} holds numbers beyond {torch.finfo(dtype).max:.1e}, the largest of "
            f"{str(dtype).removeprefix('torch.')} (first in datum {row}); divide them, or give "
            "x.double(), and a model of float64 parameters (model.double())."
        )


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
        raise ValueError(_APART.format(what, str(dtype).removeprefix("torch.")))
    return converted


def to_single(x: Tensor, *, what: str = "x") -> Tensor:
    """Return numbers of any type in float32, whole ones unchanged.

    Raises:
        ValueError: numbers beyond float32; whole ones alone, of which float32 would round some.
    """
    converted = x.float()
    if x.is_floating_point():
        _check_range(x, converted, what)
        if _are_other_whole_numbers(x.numpy(), torch.float32):
            raise ValueError(_APART.format(what, "float32"))
        return converted
    return to_floating(x, torch.float32, what=what)


def check_batches(items: Sequence[Any], what: str) -> None:
    """Check that a list, or another sequence, is one of batches, and not of single data.

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
                f"{what} is a {type(items).__name__} of {type(item).__name__}; give a torch "
                "tensor, such as torch.tensor(x), or a list of batches."
            )
        if part.ndim < 2:
            raise ValueError(
                f"{what} is a {type(items).__name__} of {len(items)} items of shape "
                f"{tuple(part.shape)}; expected batches of shape (N, *event_shape). Give single "
                "data as torch.stack(x), and batches of scalars as torch.cat(x)."
            )
