"""Data sets by name: the embedded digits, and those of torchvision."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from .sets import Data

__all__ = ["DATASETS"]


def _digits(root: str | Path | None, download: bool) -> dict[str, Data]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    x = torch.tensor(bunch.images[order] / 16, dtype=torch.float32)
    y = torch.tensor(bunch.target[order], dtype=torch.int64)
    whole = Data(x, y)
    return {
        "train": whole.head(1257),
        "valid": whole.take(slice(1257, 1437)),
        "test": whole.take(slice(1437, None)),
    }


def _torchvision(kind: str) -> Callable[[str | Path | None, bool], dict[str, Data]]:
    def read(root: str | Path | None, download: bool) -> dict[str, Data]:
        try:
            from torchvision import datasets
        except (ImportError, RuntimeError, OSError) as error:
            raise ImportError(
                f"torchvision cannot be imported ({error}); install the one that matches your "
                "torch: pip install --upgrade torch torchvision."
            ) from error
        folder = Path(root or os.environ.get("PYRO_VAE_DATA") or "~/.cache/pyro_vae").expanduser()
        dataset = getattr(datasets, kind)
        try:
            parts = [dataset(folder, train=train, download=False) for train in (True, False)]
        except RuntimeError:
            if not download:
                raise FileNotFoundError(
                    f"{kind} is not under {folder}; set PYRO_VAE_DATA or --data-root to the folder "
                    "that holds it, or allow the download."
                ) from None
            try:
                parts = [dataset(folder, train=train, download=True) for train in (True, False)]
            except Exception as error:
                raise FileNotFoundError(
                    f"{kind} is not under {folder} and cannot be downloaded ({error}); set "
                    "PYRO_VAE_DATA or --data-root to the folder that holds it."
                ) from error
        whole, test = (Data(part.data, part.targets) for part in parts)
        return {"train": whole.head(50000), "valid": whole.take(slice(50000, None)), "test": test}

    return read


DATASETS: dict[str, Callable[[str | Path | None, bool], dict[str, Data]]] = {
    "digits": _digits,
    "mnist": _torchvision("MNIST"),
    "fashion-mnist": _torchvision("FashionMNIST"),
}
"""Readers by name; each gets the folder of downloaded data and whether it may download."""
