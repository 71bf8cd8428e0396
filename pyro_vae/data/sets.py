"""What a data set is here: data with their labels, how they were made, and their hash."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..common.options import Binarize
from ..common.schema import Schema
from .frames import below, rows_of
from .stored import Stored

__all__ = ["Data", "Splits", "as_bytes", "draw", "fingerprint"]

_VALUES = 2**20  # that are hashed at once


@dataclass(frozen=True, eq=False)
class Data:
    """One split of a data set.

    Attributes:
        x: data of shape ``(N, *event_shape)``, float32; on disk (``Stored``), if they are more than
            a gigabyte; under a binarization, drawn once from ``seed``; of a table, its rows as
            ``schema`` codes them, NaN where a cell is missing.
        y: labels of shape ``(N,)``, if there are any.
        name: the data set.
        split: ``train``, ``valid`` or ``test``.
        binarization: how gray values became ``x``.
        seed: seed of the binarization.
        intensities: gray values in [0, 1] from which each epoch draws anew (of the training split
            under dynamic binarization or dequantization), else ``None``.
        levels: number of gray levels, of dequantized data.
        schema: the columns of a table, by which values became ``x``.
        exposure: exposures of shape ``(N,)`` of data that are counts, if there are any.
        table: the table itself, a frame of pandas with a row for each datum.
        class_names: names of the classes by their number in ``y``, if they have some.
    """

    x: Any  # a tensor, or Stored
    y: Tensor | None = None
    name: str = "data"
    split: str = "train"
    binarization: Binarize = "none"
    seed: int = 0
    intensities: Tensor | None = None
    levels: int = 256
    schema: Schema | None = None
    exposure: Tensor | None = None
    table: Any = None
    class_names: tuple[str, ...] | None = None

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
        return draw(gray, torch.rand_like(gray), self.binarization, self.levels)

    def to(self, device: torch.device | str) -> Data:
        """Copy the data to a device."""
        return replace(
            self,
            x=self.x.to(device),
            y=None if self.y is None else self.y.to(device),
            intensities=None if self.intensities is None else self.intensities.to(device),
            exposure=None if self.exposure is None else self.exposure.to(device),
        )

    def head(self, n: int) -> Data:
        """Return the first ``n`` data."""
        return self.take(slice(n))

    def take(self, rows: Tensor | slice) -> Data:
        """Return some rows of the data: a slice, or those at the given positions."""
        return replace(
            self,
            x=self.x.take(rows) if isinstance(self.x, Stored) else self.x[rows],
            y=None if self.y is None else self.y[rows],
            intensities=None if self.intensities is None else self.intensities[rows],
            exposure=None if self.exposure is None else self.exposure[rows],
            table=None if self.table is None else rows_of(self.table, rows),
        )

    def in_memory(self) -> Data:
        """Return the data as a tensor, read if they are on disk."""
        return replace(self, x=self.x[:])

    def joined(self, more: Data) -> Data:
        """Return the data with more after them; labels, exposures and tables, if both have them."""
        labels = [y for y in (self.y, more.y) if y is not None]
        exposures = [e for e in (self.exposure, more.exposure) if e is not None]
        tables = [t for t in (self.table, more.table) if t is not None]
        return replace(
            self,
            x=torch.cat([self.x, more.x]),
            y=torch.cat(labels) if len(labels) == 2 else None,
            exposure=torch.cat(exposures) if len(exposures) == 2 else None,
            table=below(tables) if len(tables) == 2 else None,
        )


class Splits(NamedTuple):
    """Training, validation and test data."""

    train: Data
    valid: Data
    test: Data


def fingerprint(*tensors: Tensor | Stored) -> str:
    """SHA-256 of tensors' values, shapes and types, as hexadecimal digits."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        at_once = max(1, _VALUES // max(1, math.prod(tensor.shape[1:])))
        parts: Iterable[Any] = tensor.split(at_once) if tensor.shape else (tensor,)
        for rows in parts:
            digest.update(as_bytes(rows))
    return digest.hexdigest()


def as_bytes(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor's values, in row-major order."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def draw(gray: Tensor, noise: Tensor, binarize: Binarize, levels: int) -> Tensor:
    """Turn gray values in [0, 1] and uniform noise into data."""
    if binarize == "dequantized":
        return (gray * (levels - 1) + noise) / levels
    return (noise < gray).to(gray.dtype)
