"""Data with a row for each datum: in memory, or on disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .base import Batch, Change, Source, after, batch_sizes, chosen
from .sets import Data
from .stored import Stored

__all__ = ["of_rows"]


def of_rows(arguments: tuple[Tensor | Stored, ...], data: Data | None = None) -> Source:
    """Make a source of arguments with a row for each datum; the first may be that of ``data``."""
    kind = _OnDisk if any(isinstance(a, Stored) for a in arguments) else _InMemory
    return kind(arguments, data, "" if data is None else data.description)


@dataclass(frozen=True, eq=False)
class _InMemory(Source):
    """Tensors, one for each argument; training draws the first anew where ``Data`` says so."""

    tensors: tuple[Any, ...]
    data: Data | None
    description: str
    in_memory = True

    def __len__(self) -> int:
        return len(self.tensors[0])

    @property
    def sha256(self) -> str | None:  # type: ignore[override]
        return None if self.data is None else self.data.sha256

    @property
    def event_shape(self) -> list[int] | None:  # type: ignore[override]
        return None if self.data is None else list(self.data.event_shape)

    def blocks(self, rows: int) -> Iterator[Batch]:
        for first in range(0, len(self), rows):  # split() would make every part at once
            parts = (tensor[first : first + rows] for tensor in self.tensors)
            yield tuple(part.contiguous() for part in parts)  # the bits do not depend on strides

    batches = blocks

    def select(self, index: Tensor, rows: int) -> Iterator[Batch]:
        for part in index.split(rows):
            yield tuple(tensor[part.to(tensor.device)] for tensor in self.tensors)

    def shuffled(
        self, size: int, generator: torch.Generator, share: slice, *, least: int = 1
    ) -> Iterator[Batch]:
        if self.data is None:  # the order of a DataLoader with this generator, which seeds workers
            torch.empty((), dtype=torch.int64).random_(generator=generator)
        order = torch.randperm(len(self), generator=generator)
        sizes = batch_sizes(len(self), size, least)
        if len(sizes) == 1:  # programs may have parameters for each row
            order = torch.arange(len(self))
        for index in order.to(self.tensors[0].device).split(sizes):
            rows = index[share]
            x = (
                self.tensors[0].index_select(0, rows)
                if self.data is None
                else self.data.batch(rows)
            )
            yield x, *(tensor.index_select(0, rows) for tensor in self.tensors[1:])

    def steps(self, size: int, *, least: int = 1) -> int:
        return len(batch_sizes(len(self), size, least))

    def largest(self, size: int, *, least: int = 1) -> int:
        return batch_sizes(len(self), size, least)[0]

    def to(self, device: torch.device) -> _InMemory:
        data = None if self.data is None else self.data.to(device)
        return replace(self, tensors=tuple(t.to(device) for t in self.tensors), data=data)

    def beside(self, more: Batch) -> _InMemory:
        return replace(self, tensors=(*self.tensors, *more), data=None)

    def changed(self, change: Change) -> _InMemory:
        return replace(self, tensors=change(self.tensors, 0), data=None)


@dataclass(frozen=True, eq=False)
class _OnDisk(_InMemory):
    """Arguments of which some are on disk, read as they are used; orders are those in memory."""

    change: Change | None = None
    in_memory = False

    def blocks(self, rows: int) -> Iterator[Batch]:
        first = 0
        for batch in super().blocks(rows):
            yield batch if self.change is None else self.change(batch, first)
            first += len(batch[0])

    batches = blocks

    def select(self, index: Tensor, rows: int) -> Iterator[Batch]:
        return super().select(index, rows) if self.change is None else chosen(self, index, rows)

    def changed(self, change: Change) -> _OnDisk:
        return replace(self, data=None, change=after(self.change, change))
