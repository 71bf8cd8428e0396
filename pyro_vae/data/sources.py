"""Tensors, data sets and loaders of any kind, as the arguments of two Pyro programs."""

from __future__ import annotations

import hashlib
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler

from ..common.checks import check_data
from .sets import Data, as_bytes

__all__ = ["AnyData", "Source", "as_source", "fingerprint_of"]

Batch = tuple[Tensor, ...]

AnyData: TypeAlias = "Tensor | Data | tuple[Tensor, ...] | Dataset[Any] | Iterable[Any]"
"""A tensor ``(N, *event_shape)``, a :class:`Data`, a tuple of tensors (one for each argument of the
programs), a map-style dataset, or a loader of batches that can be iterated again."""


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
    def shuffled(self, size: int, generator: torch.Generator, share: slice) -> Iterator[Batch]:
        """Yield one epoch of minibatches of ``size`` data, only the ``share`` of each."""

    @abstractmethod
    def steps(self, size: int) -> int:
        """Return the number of minibatches in an epoch."""

    @abstractmethod
    def largest(self, size: int) -> int | None:
        """Return the number of data in a full minibatch, or ``None`` if it is not known."""

    @abstractmethod
    def to(self, device: torch.device) -> Source:
        """Put the data on a device; data not in memory are put there as they are read."""

    @abstractmethod
    def changed(self, change: Callable[[Batch, int], Batch]) -> Source:
        """Return the data with ``change`` applied, a function of a block and its position.

        It is applied to data in memory at once, as one block, and to others as they are read.
        """


def as_source(
    data: AnyData, program: Callable[..., Any], *, what: str = "x", finite: bool = True
) -> Source:
    """Make a source of whatever a user passes as data.

    Args:
        data: the data.
        program: one of the programs, whose positional parameters say how many arguments to give. It
            gets the leading parts of the items of a dataset or loader, and the labels of ``Data``
            if it requires a second argument.
        what: name of the data in messages.
        finite: whether NaN is an error in data without further arguments.

    Raises:
        TypeError: something other than data, or another number of arguments than the program takes.
        ValueError: no data, or arguments with different numbers of data.
    """
    least, most = _arguments(program)
    if isinstance(data, Tensor):
        data = Data(data)
    if isinstance(data, Data):
        check_data(data.x, what=what, finite=finite)
        if least < 2:
            return _InMemory((data.x,), data, data.description)
        if data.y is None:
            raise TypeError(
                f"the programs take {least} arguments, but {what} has no labels; give a tuple."
            )
        return _InMemory((data.x, data.y), data, data.description)
    if isinstance(data, tuple):
        for number, argument in enumerate(data):
            check_data(argument, what=f"argument {number}" if number else what, finite=False)
            if len(argument) != len(data[0]):
                raise ValueError(
                    f"argument {number} has {len(argument)} rows, x {len(data[0])}; every argument "
                    "needs one row for each datum."
                )
        try:
            inspect.signature(program).bind(*data)
        except TypeError as error:
            raise TypeError(
                f"{what} is a tuple of {len(data)} arguments, but the programs take others: "
                f"{error}. Give one tensor for each argument."
            ) from None
        return _InMemory(data, None, "")
    if isinstance(data, Iterator):
        raise TypeError(
            f"{what} is a {type(data).__name__}, which can be read only once; give a list of "
            "batches, a DataLoader, or a tensor."
        )
    if isinstance(data, Dataset) or (hasattr(data, "__iter__") and not hasattr(data, "__array__")):
        if isinstance(data, Sized) and len(data) == 0:
            raise ValueError(f"{what} is empty.")
        return _Streamed(data, (least, most), torch.device("cpu"))
    raise TypeError(
        f"{what} must be a tensor, a data set or a loader of batches; got {type(data).__name__}. "
        "Convert arrays with torch.as_tensor(x, dtype=torch.float32)."
    )


@dataclass(frozen=True, eq=False)
class _InMemory(Source):
    """Tensors, one for each argument; training draws the first anew where ``Data`` says so."""

    tensors: Batch
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
        yield from zip(*(tensor.split(rows) for tensor in self.tensors), strict=True)

    batches = blocks

    def select(self, index: Tensor, rows: int) -> Iterator[Batch]:
        for part in index.split(rows):
            yield tuple(tensor[part.to(tensor.device)] for tensor in self.tensors)

    def shuffled(self, size: int, generator: torch.Generator, share: slice) -> Iterator[Batch]:
        if self.data is None:  # as a DataLoader does for its workers
            torch.empty((), dtype=torch.int64).random_(generator=generator)
        order = torch.randperm(len(self), generator=generator).to(self.tensors[0].device)
        for index in order.split(size):
            rows = index[share]
            x = (
                self.tensors[0].index_select(0, rows)
                if self.data is None
                else self.data.batch(rows)
            )
            yield x, *(tensor.index_select(0, rows) for tensor in self.tensors[1:])

    def steps(self, size: int) -> int:
        return math.ceil(len(self) / size)

    def largest(self, size: int) -> int:
        return min(size, len(self))

    def to(self, device: torch.device) -> _InMemory:
        data = None if self.data is None else self.data.to(device)
        return replace(self, tensors=tuple(t.to(device) for t in self.tensors), data=data)

    def changed(self, change: Callable[[Batch, int], Batch]) -> _InMemory:
        return replace(self, tensors=change(self.tensors, 0), data=None)


@dataclass(frozen=True, eq=False)
class _Streamed(Source):
    """A dataset, or a loader of batches, read block by block."""

    data: Any
    takes: tuple[int, float]
    device: torch.device
    change: Callable[[Batch, int], Batch] | None = None

    def __len__(self) -> int:
        return self._number

    @cached_property
    def _number(self) -> int:
        if self._in_items:
            return len(self.data)
        return sum(len(batch[0]) for batch in self._read(self.data))

    @property
    def _in_items(self) -> bool:
        """Whether the data come one by one rather than in batches."""
        return isinstance(self.data, Dataset) and not isinstance(self.data, DataLoader)

    def blocks(self, rows: int) -> Iterator[Batch]:
        if isinstance(getattr(self.data, "sampler", None), RandomSampler):
            raise ValueError(
                "the loader shuffles, so that no result would belong to a known datum; make it "
                "with shuffle=False."
            )
        first = 0
        for batch in _reblocked(self.batches(rows), rows):
            yield batch if self.change is None else self.change(batch, first)
            first += len(batch[0])

    def batches(self, rows: int) -> Iterator[Batch]:
        return self._read(DataLoader(self.data, rows) if self._in_items else self.data)

    def select(self, index: Tensor, rows: int) -> Iterator[Batch]:
        chosen = torch.zeros(len(self), dtype=torch.bool)
        chosen[index.cpu()] = True

        def kept() -> Iterator[Batch]:
            first = 0
            for batch in self.blocks(rows):
                here = chosen[first : first + len(batch[0])].to(self.device)
                yield tuple(argument[here] for argument in batch)
                first += len(batch[0])

        return _reblocked(kept(), rows)

    def shuffled(self, size: int, generator: torch.Generator, share: slice) -> Iterator[Batch]:
        loader = self.data
        if self._in_items:
            loader = DataLoader(self.data, size, shuffle=True, generator=generator)
        own = getattr(loader, "generator", None)
        if isinstance(own, torch.Generator) and own is not generator:
            own.manual_seed(generator.initial_seed())  # the same order after a restart
        for batch in self._read(loader):
            yield tuple(argument[share] for argument in batch)

    def steps(self, size: int) -> int:
        if isinstance(self.data, IterableDataset) or not hasattr(self.data, "__len__"):
            raise TypeError(
                "the training loader has no length; give it __len__, the number of its batches."
            )
        return math.ceil(len(self.data) / size) if self._in_items else len(self.data)

    def largest(self, size: int) -> int | None:
        return (
            min(size, len(self.data)) if self._in_items else getattr(self.data, "batch_size", None)
        )

    def to(self, device: torch.device) -> _Streamed:
        return replace(self, device=device)

    def changed(self, change: Callable[[Batch, int], Batch]) -> _Streamed:
        before = self.change
        if before is None:
            return replace(self, change=change)
        return replace(self, change=lambda batch, first: change(before(batch, first), first))

    def _read(self, loader: Any) -> Iterator[Batch]:
        least, most = self.takes
        for item in loader:
            parts: Sequence[Any] = item if isinstance(item, list | tuple) else (item,)
            used = parts[: int(min(len(parts), most))]
            if len(used) < least or not all(isinstance(part, Tensor) for part in used):
                raise TypeError(
                    f"the programs take {least} torch tensors, but a batch of the loader is "
                    f"{type(item).__name__} with {len(parts)} parts; let it yield tuples of those."
                )
            yield tuple(part.to(self.device) for part in used)


def fingerprint_of(source: Source, *, rows: int = 256) -> str:
    """Return the :func:`~pyro_vae.data.fingerprint` of all arguments, read block by block."""
    digest = hashlib.sha256()
    for place, tensor in enumerate(next(source.blocks(rows))):
        digest.update(f"{tensor.dtype}{(len(source), *tensor.shape[1:])}".encode())
        for block in source.blocks(rows):
            digest.update(as_bytes(block[place]))
    return digest.hexdigest()


def _reblocked(batches: Iterator[Batch], rows: int) -> Iterator[Batch]:
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


def _arguments(program: Callable[..., Any]) -> tuple[int, float]:
    """Fewest and most positional arguments of a program that are data; at least one.

    A parameter with a default counts only if the default is ``None``.
    """
    least, most = 0, 0.0
    for parameter in inspect.signature(program).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            most = math.inf
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            least += parameter.default is parameter.empty
            most += parameter.default in (parameter.empty, None)
    return max(1, least), max(1, most)
