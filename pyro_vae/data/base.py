"""What a source of data gives: all of them in blocks, or an epoch of shuffled minibatches."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .sets import as_bytes

__all__ = [
    "Batch",
    "Change",
    "Source",
    "after",
    "batch_sizes",
    "chosen",
    "fingerprint_of",
    "reblocked",
]

Batch = tuple[Tensor, ...]
Change = Callable[[Batch, int], Batch]
"""What is done to a block of data at its position."""


class Source(ABC):
    """Data as the arguments of two programs, in order or shuffled.

    Attributes:
        description: the data in words, if known.
        in_memory: whether all data are in memory.
        sha256: hash of the data, if they are ``Data``.
        event_shape: shape of one datum, if they are ``Data``.
    """

    description: str = ""
    in_memory: bool = False
    sha256: str | None = None
    event_shape: list[int] | None = None

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of data."""

    @abstractmethod
    def blocks(self, rows: int) -> Iterator[Batch]:
        """Yield all data once, in their own order, ``rows`` at a time."""

    @abstractmethod
    def batches(self, rows: int) -> Iterator[Batch]:
        """Yield all data once, in any order: a loader's own batches, or ``rows`` at a time."""

    @abstractmethod
    def select(self, index: Tensor, rows: int) -> Iterator[Batch]:
        """Yield the data at ascending positions, ``rows`` at a time."""

    @abstractmethod
    def shuffled(
        self, size: int, generator: torch.Generator, share: slice, *, least: int = 1
    ) -> Iterator[Batch]:
        """Yield one epoch of minibatches of ``size`` data, of each the ``share``.

        A last one of fewer than ``least`` data joins the one before; a loader's are its own.
        """

    @abstractmethod
    def steps(self, size: int, *, least: int = 1) -> int:
        """Return the number of minibatches in an epoch."""

    @abstractmethod
    def largest(self, size: int, *, least: int = 1) -> int | None:
        """Return the number of data in a full minibatch, if it is known."""

    @abstractmethod
    def to(self, device: torch.device) -> Source:
        """Put the data on a device; data not in memory are put there as they are read."""

    def beside(self, more: Batch) -> Source:
        """Return the data with more arguments, each with a row for each datum.

        Raises:
            TypeError: data that are not in memory.
        """
        raise TypeError(
            "the guide has parameters for each datum, so that the data must be in memory; give "
            "them as a tensor."
        )

    @abstractmethod
    def changed(self, change: Callable[[Batch, int], Batch]) -> Source:
        """Return the data with ``change`` applied, a function of a block and its position.

        It is applied to data in memory at once, as one block, and to others as they are read.
        """


def fingerprint_of(source: Source, *, rows: int = 256) -> str:
    """Return the :func:`~pyro_vae.data.fingerprint` of all arguments, read block by block."""
    digest = hashlib.sha256()
    for place, tensor in enumerate(next(source.blocks(rows))):
        digest.update(f"{tensor.dtype}{(len(source), *tensor.shape[1:])}".encode())
        for block in source.blocks(rows):
            digest.update(as_bytes(block[place]))
    return digest.hexdigest()


def after(before: Change | None, change: Change) -> Change:
    """One change after another, if there is one before."""
    if before is None:
        return change
    return lambda batch, first: change(before(batch, first), first)


def chosen(source: Source, index: Tensor, rows: int) -> Iterator[Batch]:
    """Data at ascending positions, ``rows`` at a time, of a source that is read from its start."""
    wanted = torch.zeros(len(source), dtype=torch.bool)
    wanted[index.cpu()] = True

    def kept() -> Iterator[Batch]:
        first = 0
        for batch in source.blocks(rows):
            here = wanted[first : first + len(batch[0])].to(batch[0].device)
            yield tuple(argument[here] for argument in batch)
            first += len(batch[0])

    return reblocked(kept(), rows)


def batch_sizes(number: int, size: int, least: int) -> list[int]:
    """Numbers of data in the minibatches of an epoch; a last one of too few joins that before."""
    whole, rest = divmod(number, size)
    sizes = [size] * whole + [rest] * (rest > 0)
    if len(sizes) > 1 and sizes[-1] < least:
        sizes[-2:] = [sizes[-2] + sizes[-1]]
    return sizes


def reblocked(batches: Iterator[Batch], rows: int) -> Iterator[Batch]:
    """Rows of batches of any sizes, ``rows`` at a time."""
    held: list[Batch] = []
    count = 0
    for batch in batches:
        held.append(batch)
        count += len(batch[0])
        if count >= rows:
            joined = tuple(torch.cat(parts) for parts in zip(*held, strict=True))
            whole = count // rows * rows
            yield from zip(*(a[:whole].split(rows) for a in joined), strict=True)
            held, count = [tuple(a[whole:] for a in joined)], count - whole
    if count:
        yield tuple(torch.cat(parts) for parts in zip(*held, strict=True))
