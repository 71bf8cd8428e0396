"""Files of data, by their suffix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .numpy_files import read_numpy
from .sets import Data

__all__ = ["READERS"]


READERS: dict[str, Callable[[Path], dict[str, Data]]] = {".npy": read_numpy, ".npz": read_numpy}
"""Readers by suffix. Each gives one ``x``, to be shuffled and split, or ``train``, and perhaps
``valid`` and ``test``; values are the file's own, neither scaled nor shuffled."""
