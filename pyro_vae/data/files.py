"""Files of data, by their suffix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .cells import read_h5ad
from .frames import read_csv, read_parquet
from .numpy_files import read_numpy
from .pictures import read_pictures
from .sets import Data
from .stored import LARGE, Stored

__all__ = ["READERS", "reader_of"]


def _npy(path: Path) -> dict[str, Data]:
    """Read an array that is small into memory, and let one that is large stay on disk."""
    if path.stat().st_size > LARGE // 8:  # of a byte for each value, which takes four as a float
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError):
            return read_numpy(path)  # which says what is wrong
        if 4 * array.size > LARGE and array.dtype.kind in "buif":
            return {"x": Data(Stored(array))}
    return read_numpy(path)


def reader_of(path: Path) -> Callable[[Path], Any] | None:
    """Reader of a path, if there is one: of a folder of pictures, or by its suffix."""
    return read_pictures if path.is_dir() else READERS.get(path.suffix)


READERS: dict[str, Callable[[Path], Any]] = {
    ".npy": _npy,
    ".npz": read_numpy,
    ".h5ad": read_h5ad,
    ".csv": read_csv,
    ".parquet": read_parquet,
}
"""Readers by suffix. Each gives ``Data`` by name: one ``x``, to be shuffled and split, or
``train``, and perhaps ``valid`` and ``test``; or a data frame, whose columns are coded by a schema.
Values are the file's own, neither scaled nor shuffled; large arrays stay on disk."""
