"""Files of data, by their suffix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .cells import read_h5ad
from .frames import read_csv, read_parquet
from .numpy_files import read_numpy

__all__ = ["READERS"]


READERS: dict[str, Callable[[Path], Any]] = {
    ".npy": read_numpy,
    ".npz": read_numpy,
    ".h5ad": read_h5ad,
    ".csv": read_csv,
    ".parquet": read_parquet,
}
"""Readers by suffix. Each gives ``Data`` by name: one ``x``, to be shuffled and split, or
``train``, and perhaps ``valid`` and ``test``; or a data frame, whose columns are coded by a schema.
Values are the file's own, neither scaled nor shuffled."""
