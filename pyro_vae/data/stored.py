"""Arrays on disk, of which rows are read when they are asked for."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..common.checks import check_data
from ..common.devices import sent
from .arrays import as_tensor, to_floating

__all__ = ["LARGE", "Stored", "check_rows", "is_stored"]

LARGE = 2**30  # bytes of data, as float32, above which they stay on disk
_PIECE = 2**25  # bytes that are read before their part of the file is unmapped
_NEIGHBOURS = 2**20  # bytes that the system may map around each row
_VALUES = 2**20  # that are checked at once


def is_stored(value: Any) -> bool:
    """Whether a value is an array on disk: one of ``np.load(path, mmap_mode="r")``, or its part."""
    return isinstance(value, Stored) or _mapping(value) is not None


class Stored:
    """Numbers on disk, shape ``(N, *event_shape)``; indexing reads rows, as tensors.

    The memory taken is that of the rows that are asked for, however many are read in all.

    Args:
        array: an array on disk.
        order: positions of its rows that are the data, in their order; by default all.

    Attributes:
        shape: shape of the data.
        dtype: type of the tensors that are read.
        device: where they are put.

    Raises:
        ValueError: anything but numbers.
    """

    def __init__(self, array: Any, order: Any = None) -> None:
        self._array, self._order = array, order
        self._mapping = _mapping(array)
        self._mapped = 0
        self._type: torch.dtype | None = None
        self._divisor = 1.0
        self._floating = False
        self.device = torch.device("cpu")
        self.shape = torch.Size((len(array) if order is None else len(order), *array.shape[1:]))
        self.dtype = self[:1].dtype

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        """Read rows: a slice, or those at the given positions."""
        index: Any = rows if isinstance(rows, slice) else rows.cpu().numpy()
        x = as_tensor(self._read(index), dtype=self._type)
        if self._floating and self._type is not None:
            x = to_floating(x, self._type)
        if self._divisor != 1:
            x = x / self._divisor
        return sent(x, self.device)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        """Read all rows."""
        return np.asarray(self[:].cpu().numpy(), dtype=dtype)

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """Read the rows at the given positions."""
        return self[index]

    def split(self, rows: int) -> Iterator[Tensor]:
        """Read all rows, so many at a time."""
        return (self[first : first + rows] for first in range(0, len(self), rows))

    def take(self, rows: slice | Tensor) -> Stored:
        """Return some rows, not yet read."""
        order = np.arange(len(self)) if self._order is None else self._order
        return self._with(_order=order[rows if isinstance(rows, slice) else rows.numpy()])

    def to(self, device: torch.device | str) -> Stored:
        """Return the same data; what is read of them is put on a device."""
        return self._with(device=torch.device(device))

    def as_type(self, dtype: torch.dtype | None, *, integers: bool, divisor: float = 1.0) -> Stored:
        """Return the same data, read as floating-point numbers of a type.

        Args:
            dtype: the type of floating-point numbers; ``None`` for their own.
            integers: whether integers get it, too.
            divisor: number that the values are divided by.
        """
        return self._with(_type=dtype, _floating=integers, _divisor=divisor)

    def channels_first(self) -> Stored:
        """Return the same data with their last dimension before the others of a datum."""
        return self._with(_array=np.moveaxis(self._array, -1, 1))

    def _with(self, **changes: Any) -> Stored:
        new = Stored.__new__(Stored)
        new.__dict__.update({**self.__dict__, **changes})
        rows = len(new._array if new._order is None else new._order)
        new.shape = torch.Size((rows, *new._array.shape[1:]))
        new.dtype = new[:1].dtype if len(new) else self.dtype
        return new

    def _read(self, index: Any) -> np.ndarray[Any, Any]:
        """Read rows piece by piece: the system counts what is mapped as memory of ours."""
        if self._mapping is None:
            return self._array[index if self._order is None else self._order[index]]
        if self._order is not None:
            index = self._order[index]
        scattered = not isinstance(index, slice)
        which = index if scattered else range(len(self._array))[index]
        found = np.empty((len(which), *self._array.shape[1:]), dtype=self._array.dtype)
        size = found.nbytes // max(1, len(which))
        step = max(1, _PIECE // (size + _NEIGHBOURS * scattered + 1))
        for first in range(0, len(which), step):
            piece = which[first : first + step]
            if isinstance(piece, range):
                piece = slice(piece.start, piece.stop, piece.step)
            found[first : first + step] = self._array[piece]
            self._mapped += step * (size + _NEIGHBOURS * scattered)
            if self._mapped >= _PIECE and hasattr(mmap, "MADV_DONTNEED"):
                self._mapping.madvise(mmap.MADV_DONTNEED)
                self._mapped = 0
        return found


def check_rows(x: Tensor | Stored, *, what: str = "x", finite: bool = True) -> None:
    """Check data as :func:`~pyro_vae.common.checks.check_data` does, on disk block by block."""
    if isinstance(x, Tensor) or not len(x):
        check_data(x if isinstance(x, Tensor) else x[:], what=what, finite=finite)
        return
    if finite and x.dtype.is_floating_point:
        rows = max(1, _VALUES // max(1, math.prod(x.shape[1:])))
        for first, block in enumerate(x.split(rows)):
            check_data(block, what=what, first=first * rows)


def _mapping(value: Any) -> mmap.mmap | None:
    """The file's mapping that an array is a part of, if nothing in it was changed in memory."""
    while isinstance(value, np.ndarray):
        if getattr(value, "mode", "r") == "c":
            return None
        value = value.base
    return value if isinstance(value, mmap.mmap) else None
