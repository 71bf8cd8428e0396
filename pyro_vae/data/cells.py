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
    ``exposure`` gives exposures, ``y`` labels (categories by their codes), and ``split`` the split
    of each datum, ``train``, ``valid`` or ``test``; all of them may be missing.

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
    data = Data(
        as_tensor(counts, what=f"{path}:X"),
        _column(content.obs, "y", path),
        exposure=_column(content.obs, "exposure", path),
    )
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


def _column(table: Any, name: str, path: Path) -> torch.Tensor | None:
    if name not in table:
        return None
    column = table[name]
    return as_tensor(column.cat.codes if hasattr(column, "cat") else column, what=f"{path}:{name}")
