"""Data sets: loading, splitting, seeded binarization, and a hash that tells data apart."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from ..common.checks import check_data
from ..common.options import Binarize
from ..common.registry import suggestion
from ..common.seeding import derive
from .arrays import as_tensor

__all__ = ["DATASETS", "Data", "Splits", "as_bytes", "fingerprint", "load"]

Arrays = dict[str, tuple[Tensor, Tensor | None]]
"""Splits by name: gray values ``(N, *event_shape)`` and labels ``(N,)``."""


@dataclass(frozen=True, eq=False)
class Data:
    """One split of a data set.

    Attributes:
        x: data of shape ``(N, *event_shape)``, float32; under a binarization, drawn once from
            ``seed``.
        y: labels of shape ``(N,)``, if there are any.
        name: the data set.
        split: ``train``, ``valid`` or ``test``.
        binarization: how gray values became ``x``.
        seed: seed of the binarization.
        intensities: gray values in [0, 1] from which each epoch draws anew (of the training split
            under dynamic binarization or dequantization), else ``None``.
        levels: number of gray levels, of dequantized data.
    """

    x: Tensor
    y: Tensor | None = None
    name: str = "data"
    split: str = "train"
    binarization: Binarize = "none"
    seed: int = 0
    intensities: Tensor | None = None
    levels: int = 256

    def __len__(self) -> int:
        return len(self.x)

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one datum."""
        return self.x.shape[1:]

    @property
    def description(self) -> str:
        """The data in words, with binarization and seed."""
        if self.binarization == "none":
            return f"{self.name} {self.split}"
        if self.binarization == "gray":
            return f"{self.name} {self.split}, gray in [0, 1]"
        seed = "" if self.binarization == "threshold" else f", seed {self.seed}"
        if self.binarization == "dequantized":
            return f"{self.name} {self.split}, dequantized from {self.levels} levels{seed}"
        return f"{self.name} {self.split}, {self.binarization} binarization{seed}"

    @property
    def sha256(self) -> str:
        """Hash of ``x``: values, shape and type."""
        return fingerprint(self.x)

    def batch(self, index: Tensor) -> Tensor:
        """Return the data at ``index`` for a training step, drawn anew from any ``intensities``."""
        if self.intensities is None:
            return self.x.index_select(0, index)
        gray = self.intensities.index_select(0, index)
        return _draw(gray, torch.rand_like(gray), self.binarization, self.levels)

    def to(self, device: torch.device | str) -> Data:
        """Copy the data to a device."""
        return replace(
            self,
            x=self.x.to(device),
            y=None if self.y is None else self.y.to(device),
            intensities=None if self.intensities is None else self.intensities.to(device),
        )

    def head(self, n: int) -> Data:
        """Return the first ``n`` data."""
        return self.take(slice(n))

    def take(self, rows: Tensor | slice) -> Data:
        """Return some rows of the data: a slice, or those at the given positions."""
        return replace(
            self,
            x=self.x[rows],
            y=None if self.y is None else self.y[rows],
            intensities=None if self.intensities is None else self.intensities[rows],
        )


class Splits(NamedTuple):
    """Training, validation and test data."""

    train: Data
    valid: Data
    test: Data


def fingerprint(*tensors: Tensor) -> str:
    """SHA-256 of tensors' values, shapes and types, as hexadecimal digits."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(as_bytes(tensor))
    return digest.hexdigest()


def as_bytes(tensor: Tensor) -> bytes:
    """Return the bytes of a tensor's values, in row-major order."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def load(
    name: str | Path,
    *,
    binarize: Binarize | None = None,
    seed: int = 0,
    validation: int | None = None,
    root: str | Path | None = None,
    download: bool = True,
) -> Splits:
    r"""Load a data set as training, validation and test data.

    - ``digits``: scikit-learn's 1,797 handwritten digits of 8x8 pixels (1,257 + 180 + 360), no
      download.
    - ``mnist``, ``fashion-mnist``: through torchvision, images of 28x28 (50,000 + 10,000 + 10,000).
    - a path: ``.npy`` with an array ``(N, *event_shape)``, or ``.npz`` with ``x`` or any of
      ``train``, ``valid``, ``test`` (labels as ``y`` or ``train_y``, ...). A split that the file
      lacks is a tenth of its training data, always the same.

    For binarization, integer images are first divided by 255, or by their largest value if they
    are not 8-bit.

    - ``dynamic``: pixels are drawn with their gray value as probability, for training anew at every
      epoch, for validation and test once. ``static``: all are drawn once.
    - ``threshold``: 1 above one half, else 0. ``gray``: gray values in [0, 1]. ``none``: values as
      they are.
    - ``dequantized``: :math:`(k + u) / L` for level k of L and uniform noise u, drawn as often as
      ``dynamic``. A density of it bounds the probability of the levels from below (add
      :math:`\log_2 L` to its bits/dim; Theis et al. 2016, https://arxiv.org/abs/1511.01844).

    Numbers under different binarizations are not comparable.

    Args:
        name: name or path.
        binarize: by default ``dynamic`` for named data sets and ``none`` for files.
        seed: seed of the binarization.
        validation: number of training data set aside for validation, from their end.
        root: folder of downloaded data; by default the environment variable ``PYRO_VAE_DATA``, else
            ``~/.cache/pyro_vae``.
        download: whether missing data may be downloaded.

    Raises:
        ValueError: an unknown name; gray values outside [0, 1] to binarize; NaN or empty data; as
            many validation as training data, or more.
        FileNotFoundError: a path or data set that is not there.
    """
    if binarize is not None and binarize not in get_args(Binarize):
        raise ValueError(
            f"unknown binarization {binarize!r}; there are {', '.join(get_args(Binarize))}."
        )
    known = DATASETS.get(str(name))
    if known is not None:
        arrays = known(root, download)
        binarize = binarize or "dynamic"
    else:
        arrays = _from_file(Path(name))
        binarize = binarize or "none"
    if validation is not None or "valid" not in arrays:
        arrays = _set_aside(arrays, "valid", validation)
    title = str(name) if known is not None else Path(name).name
    shapes = {split: tuple(x.shape[1:]) for split, (x, _) in arrays.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"the splits of {title!r} hold data of different shapes: {shapes}.")
    for split, (x, y) in arrays.items():
        if y is not None and y.shape != x.shape[:1]:
            raise ValueError(
                f"{split} split of {title!r} has {len(x)} data, but labels of shape "
                f"{tuple(y.shape)}."
            )
    largest = _largest([x for x, _ in arrays.values()])
    splits = {}
    for index, split in enumerate(("train", "valid", "test")):
        x, y = arrays[split]
        what = f"{split} split of {title!r}"
        if split == "valid" and len(x) == 0:
            pass  # validation=0 was asked for
        else:
            check_data(x, what=what)
        splits[split] = _binarized(x, y, title, split, binarize, seed, index, what, largest)
    return Splits(**splits)


def _binarized(
    x: Tensor,
    y: Tensor | None,
    name: str,
    split: str,
    binarize: Binarize,
    seed: int,
    index: int,
    what: str,
    largest: float,
) -> Data:
    data = Data(x.float(), y, name=name, split=split, binarization=binarize, seed=seed)
    if binarize == "none":
        return data
    gray = x.float() / largest
    if len(gray) and (gray.min() < 0 or gray.max() > 1):
        raise ValueError(
            f"{what} has values in [{gray.min():.4g}, {gray.max():.4g}], but binarization needs "
            "gray values in [0, 1]; scale the data, or use --binarize none with a likelihood for "
            "real values."
        )
    if binarize == "gray":
        return replace(data, x=gray)
    if binarize == "threshold":
        return replace(data, x=(gray > 0.5).float())
    if binarize == "dequantized" and x.is_floating_point():
        raise ValueError(f"{what} is not of integers; dequantization needs their levels.")
    levels = int(largest) + 1
    generator = torch.Generator().manual_seed(derive("binarize", seed, index))
    drawn = _draw(gray, torch.rand(gray.shape, generator=generator), binarize, levels)
    again = gray if binarize in ("dynamic", "dequantized") and split == "train" else None
    return replace(data, x=drawn, intensities=again, levels=levels)


def _draw(gray: Tensor, noise: Tensor, binarize: Binarize, levels: int) -> Tensor:
    """Turn gray values in [0, 1] and uniform noise into data."""
    if binarize == "dequantized":
        return (gray * (levels - 1) + noise) / levels
    return (noise < gray).to(gray.dtype)


def _largest(splits: list[Tensor]) -> float:
    """Integer that stands for white: 255 for 8-bit data, else the largest of all splits."""
    if splits[0].dtype.is_floating_point:
        return 1.0
    if splits[0].dtype == torch.uint8:
        return 255.0
    return max([1.0, *(float(x.max()) for x in splits if len(x))])


def _set_aside(arrays: Arrays, split: str, number: int | None) -> Arrays:
    """Take a split from the end of the training data, to which an old split is joined first."""
    x, y = arrays["train"]
    if split in arrays:
        old_x, old_y = arrays[split]
        x = torch.cat([x, old_x])
        y = None if y is None or old_y is None else torch.cat([y, old_y])
    number = max(1, len(x) // 10) if number is None else number
    if not 0 <= number < len(x):
        raise ValueError(
            f"cannot set {number} data aside for {split}: there are {len(x)} to train on. "
            f"Ask for fewer, e.g. --validation {len(x) // 10}."
        )
    keep = len(x) - number
    return {
        **arrays,
        "train": (x[:keep], None if y is None else y[:keep]),
        split: (x[keep:], None if y is None else y[keep:]),
    }


def _digits(root: str | Path | None, download: bool) -> Arrays:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    x = torch.tensor(bunch.images[order] / 16, dtype=torch.float32)
    y = torch.tensor(bunch.target[order], dtype=torch.int64)
    return {
        "train": (x[:1257], y[:1257]),
        "valid": (x[1257:1437], y[1257:1437]),
        "test": (x[1437:], y[1437:]),
    }


def _torchvision(kind: str) -> Callable[[str | Path | None, bool], Arrays]:
    def read(root: str | Path | None, download: bool) -> Arrays:
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
        (x, y), (test_x, test_y) = ((part.data, part.targets) for part in parts)
        return {
            "train": (x[:50000], y[:50000]),
            "valid": (x[50000:], y[50000:]),
            "test": (test_x, test_y),
        }

    return read


def _from_file(path: Path) -> Arrays:
    if path.suffix not in (".npy", ".npz"):
        raise ValueError(
            f"unknown data set {str(path)!r}; there are {', '.join(DATASETS)}, or the path of a "
            f".npy or .npz file.{suggestion(str(path), DATASETS)}"
        )
    if not path.exists():
        raise FileNotFoundError(f"no file {path}.")
    try:
        content: Any = np.load(path, allow_pickle=False)
        found = {"x": content} if path.suffix == ".npy" else {k: content[k] for k in content.files}
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as a NumPy file of numbers: {error}") from error
    tensors = {key: as_tensor(array, what=f"{path}:{key}") for key, array in found.items()}
    for key in {"x", "train"} & set(tensors):  # before shuffling, so that rows are the file's
        check_data(tensors[key], what=f"{path}:{key}")
    if "x" in tensors:
        order = torch.from_numpy(np.random.default_rng(0).permutation(len(tensors["x"])))
        x, y = tensors["x"][order], tensors.get("y")
        if y is not None and y.shape != x.shape[:1]:
            raise ValueError(f"{path} has {len(x)} data, but labels of shape {tuple(y.shape)}.")
        arrays: Arrays = {"train": (x, None if y is None else y[order])}
    elif "train" in tensors:
        arrays = {
            split: (tensors[split], tensors.get(f"{split}_y"))
            for split in ("train", "valid", "test")
            if split in tensors
        }
    else:
        raise ValueError(
            f"{path} holds {', '.join(tensors) or 'nothing'}; expected arrays named x, or train "
            "(and valid, test)."
        )
    if "test" not in arrays:
        arrays = _set_aside(arrays, "test", None)
    return arrays


DATASETS: dict[str, Callable[[str | Path | None, bool], Arrays]] = {
    "digits": _digits,
    "mnist": _torchvision("MNIST"),
    "fashion-mnist": _torchvision("FashionMNIST"),
}
