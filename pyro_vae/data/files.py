"""Files of data, by their suffix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .arrays import as_tensor
from .sets import Data

__all__ = ["READERS"]


def _numpy(path: Path) -> dict[str, Data]:
    try:
        content: Any = np.load(path, allow_pickle=False)
        found = {"x": content} if path.suffix == ".npy" else {k: content[k] for k in content.files}
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as a NumPy file of numbers: {error}") from error
    tensors = {key: as_tensor(array, what=f"{path}:{key}") for key, array in found.items()}
    if "x" in tensors:
        return {"x": Data(tensors["x"], tensors.get("y"))}
    splits = {
        split: Data(tensors[split], tensors.get(f"{split}_y"))
        for split in ("train", "valid", "test")
        if split in tensors
    }
    if "train" not in splits:
        raise ValueError(
            f"{path} holds {', '.join(tensors) or 'nothing'}; expected arrays named x, or train "
            "(and valid, test)."
        )
    return splits


READERS: dict[str, Callable[[Path], dict[str, Data]]] = {".npy": _numpy, ".npz": _numpy}
"""Readers by suffix. Each gives one ``x``, to be split, or ``train`` and perhaps ``valid`` and
``test``; values are the file's own, neither scaled nor shuffled."""
