"""Files of count matrices: AnnData's, and scipy's sparse ones."""

from __future__ import annotations

import warnings
from collections.abc import Container
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch

from .arrays import as_tensor
from .sets import Data
from .tables import label, numeric

__all__ = ["is_sparse", "read_h5ad", "read_sparse"]

_SPLITS = ("train", "valid", "test")


def is_sparse(names: Container[str]) -> bool:
    """Whether the arrays of a ``.npz`` file are a matrix that ``scipy.sparse.save_npz`` wrote."""
    return all(name in names for name in ("format", "shape", "data"))


def read_sparse(path: Path) -> torch.Tensor:
    """Read a matrix that ``scipy.sparse.save_npz`` wrote."""
    return as_tensor(scipy.sparse.load_npz(path), what=str(path))


def read_h5ad(path: Path) -> dict[str, Data]:
    """Read the counts of an AnnData file.

    They are the layer ``counts``, if there is one, else ``X``. Of the table ``obs`` the column
    ``exposure`` gives exposures, ``y`` labels (of categories their codes, and their names), and
    ``split`` the split of each datum, ``train``, ``valid`` or ``test``; all may be missing.

    Raises:
        ImportError: anndata is not installed.
        ValueError: a file of another kind, without a matrix, or with other splits.
    """
    try:
        import anndata
    except ImportError as error:
        raise ImportError(
            f"{path} needs anndata, which is not installed: pip install 'pyro-vae[counts]'."
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of versions of the format, and names that repeat
            content = anndata.read_h5ad(path)
    except Exception as error:  # of h5py and of anndata, of many kinds
        raise ValueError(f"{path} cannot be read as an AnnData file: {error}") from error
    counts = content.layers.get("counts", content.X)
    if counts is None:
        raise ValueError(f"{path} has no X and no layer named counts.")
    y, classes = _labels(content.obs, path)
    exposure = _exposure(content.obs, path)
    data = Data(as_tensor(counts, what=f"{path}:X"), y, exposure=exposure, class_names=classes)
    if "split" not in content.obs:
        return {"x": data}
    names = np.asarray(content.obs["split"], dtype=str)
    if not {*names} <= {*_SPLITS} or "train" not in names:
        raise ValueError(
            f"{path}: obs['split'] holds {', '.join(sorted({*names}))}; expected train, and valid "
            "or test."
        )
    rows = {name: torch.from_numpy(np.flatnonzero(names == name)) for name in _SPLITS}
    return {name: data.take(index) for name, index in rows.items() if len(index)}


def _labels(table: Any, path: Path) -> tuple[torch.Tensor | None, tuple[str, ...] | None]:
    """Labels, and the names of their classes if they are categories or text."""
    if "y" not in table:
        return None, None
    column = table["y"]
    if column.dtype.kind == "O":
        column = column.astype("category")
    if not hasattr(column, "cat"):
        return as_tensor(column, what=f"{path}:y"), None
    return as_tensor(column.cat.codes), tuple(map(label, column.cat.categories))


def _exposure(table: Any, path: Path) -> torch.Tensor | None:
    """Exposures, of a categorical column the numbers that its categories are."""
    if "exposure" not in table:
        return None
    column = table["exposure"]
    if hasattr(column, "cat"):
        column = column.astype(column.cat.categories.dtype)
    return as_tensor(numeric(column, f"{path}: obs['exposure']"))
