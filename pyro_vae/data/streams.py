"""Data sets and loaders that are read as they are used, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from ..common.devices import sent
from .base import Batch, Change, Source, after, batch_sizes, chosen, reblocked
from .forms import Form
from .pictures import collated

__all__ = ["length_of", "streamed"]

_SHUFFLING = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)
_COUNTED = 1000  # data that are read at once to count them


def streamed(data: Any, takes: tuple[int, float], form: Form) -> Source:
    """Make a source of a data set or loader, for programs that take so many arguments."""
    return _Streamed(data, takes, torch.device("cpu"), form)


@dataclass(frozen=True, eq=False)
class _Streamed(Source):
    """A dataset, or a loader of batches, read block by block."""

    data: Any
    takes: tuple[int, float]
    device: torch.device
    form: Form
    change: Change | None = None
    counted: dict[str, int] = field(default_factory=dict)  # common to copies: it takes a pass

    def __len__(self) -> int:
        stated = length_of(self.data) if self._in_items else None
        return self._count()["data"] if stated is None else stated

    def _count(self) -> dict[str, int]:
        """Numbers of data and of batches, if they are not known by one pass over all data."""
        if not self.counted:
            numbers = [len(batch[0]) for batch in self.batches(_COUNTED)]
            self.counted.update(data=sum(numbers), batches=len(numbers))
        return self.counted

    @property
    def _in_items(self) -> bool:
        """Whether the data come one by one rather than in batches."""
        return isinstance(self.data, Dataset) and not isinstance(self.data, DataLoader)

    def blocks(self, rows: int) -> Iterator[Batch]:
        own = (self.data, getattr(self.data, "batch_sampler", None))
        if any(isinstance(getattr(part, "sampler", None), _SHUFFLING) for part in own):
            raise ValueError(
                "the loader shuffles, so that no result would belong to a known datum; make it "
                "with shuffle=False."
            )
        first = 0
        for batch in reblocked(self.batches(rows), rows):
            yield batch if self.change is None else self.change(batch, first)
            first += len(batch[0])

    def batches(self, rows: int) -> Iterator[Batch]:
        return self._read(self._loader(rows) if self._in_items else self.data)

    def _loader(self, rows: int, **options: Any) -> DataLoader[Any]:
        return DataLoader(self.data, rows, collate_fn=collated, **options)

    def select(self, index: Tensor, rows: int) -> Iterator[Batch]:
        return chosen(self, index, rows)

    def shuffled(
        self, size: int, generator: torch.Generator, share: slice, *, least: int = 1
    ) -> Iterator[Batch]:
        streamed = isinstance(self.data, IterableDataset)
        loader = self.data
        if self._in_items:
            loader = self._loader(size, shuffle=not streamed, generator=generator)
        own = getattr(loader, "generator", None)
        if isinstance(own, torch.Generator) and own is not generator:
            own.manual_seed(generator.initial_seed())  # the same order after a restart
        batches = self._read(loader)
        if self._in_items:
            batches = _joined(batches, batch_sizes(len(self), size, least))
        for batch in batches:
            yield tuple(argument[share] for argument in batch)

    def steps(self, size: int, *, least: int = 1) -> int:
        if self._in_items:
            return len(batch_sizes(len(self), size, least))
        stated = length_of(self.data)
        return self._count()["batches"] if stated is None else stated

    def largest(self, size: int, *, least: int = 1) -> int | None:
        if self._in_items:
            return batch_sizes(len(self), size, least)[0]
        return getattr(self.data, "batch_size", None)

    def to(self, device: torch.device) -> _Streamed:
        return replace(self, device=device)

    def changed(self, change: Change) -> _Streamed:
        return replace(self, change=after(self.change, change))

    def _read(self, loader: Any) -> Iterator[Batch]:
        least, most = self.takes
        item = None
        for item in loader:
            parts: Sequence[Any] = item if isinstance(item, list | tuple) else (item,)
            used = parts[: int(min(len(parts), most))]
            used = self.form.tensors(used)
            if len(used) < least or not all(isinstance(part, Tensor) for part in used):
                raise TypeError(
                    f"the programs take {least} torch tensors, but a batch of the loader is "
                    f"{type(item).__name__} with {len(parts)} parts; let it yield tuples of those."
                )
            yield tuple(sent(part, self.device) for part in used)
        if item is None:
            raise ValueError(f"{self.form.what} gave no batch; it must be iterable again.")


def length_of(data: Any) -> int | None:
    """The length that data state; a loader of a stream of unknown length raises when asked."""
    try:
        return len(data)
    except TypeError:
        return None


def _joined(batches: Iterator[Batch], sizes: list[int]) -> Iterator[Batch]:
    """Batches of these sizes, of which the last may be given in two.

    Raises:
        ValueError: another number of data than the sizes add up to.
    """
    given = 0
    for size in sizes:
        batch = next(batches, ())
        if batch and len(batch[0]) < size and (more := next(batches, ())):
            batch = tuple(map(torch.cat, zip(batch, more, strict=True)))
        given += len(batch[0]) if batch else 0
        if not batch or len(batch[0]) != size:
            break
        yield batch
    extra = next(batches, ())
    if given != sum(sizes) or extra:
        raise ValueError(
            f"the data set has {sum(sizes)} data by its length or by an epoch before, and gave "
            f"{'more' if extra else given} now; let it give the same number in every epoch."
        )
