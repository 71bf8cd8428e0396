"""Tensors, data sets and loaders of any kind, as the arguments of two Pyro programs."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler

from ..common.checks import check_data
from ..common.devices import sent
from .arrays import Form, as_tensor, check_batches, is_array
from .sets import Data, as_bytes
from .signatures import signature_of, takes

__all__ = ["AnyData", "Source", "as_source", "fingerprint_of"]

Batch = tuple[Tensor, ...]

AnyData: TypeAlias = "Tensor | Data | tuple[Any, ...] | Dataset[Any] | Iterable[Any]"
"""A tensor or an array ``(N, *event_shape)`` (of NumPy, pandas, scipy.sparse), our ``Data``, a
tuple of such (one for each argument of the programs), a map-style dataset, or a loader or a list of
batches ``(N, *event_shape)`` that can be iterated again."""


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


def as_source(
    data: AnyData,
    program: Callable[..., Any],
    *,
    what: str = "x",
    finite: bool = True,
    dtype: torch.dtype | None = None,
    floating: bool = False,
) -> Source:
    """Make a source of whatever a user passes as data.

    Args:
        data: the data.
        program: one of the programs, whose positional parameters say how many arguments to give. It
            gets the leading parts of the items of a dataset or loader, and the labels of ``Data``
            if it requires a second argument.
        what: name of the data in messages.
        finite: whether NaN is wrong in data that come without other arguments.
        dtype: type for floating-point arrays that are no tensors; by default their own.
        floating: give the data, the first argument, in this type if they are integers.

    Raises:
        TypeError: no data, or not as many arguments as the program takes.
        ValueError: no data, arguments with different numbers of data, or a list of single data.
    """
    least, most = takes(program)
    form = Form(what, dtype, floating)
    if is_array(data):
        data = Data(as_tensor(data, what=what, dtype=dtype))
    if isinstance(data, Data):
        (x,) = form.tensors((data.x,))
        data = data if x is data.x else replace(data, x=x)
        check_data(data.x, what=what, finite=finite)
        if least < 2:
            return _InMemory((data.x,), data, data.description)
        if data.y is None:
            raise TypeError(
                f"the programs take {least} arguments, but {what} has no labels; give a tuple."
            )
        return _InMemory((data.x, data.y), data, data.description)
    if isinstance(data, tuple):
        data = form.tensors(data)
        for number, argument in enumerate(data):
            check_data(argument, what=f"argument {number}" if number else what, finite=False)
            if len(argument) != len(data[0]):
                raise ValueError(
                    f"argument {number} has {len(argument)} rows, x {len(data[0])}; every argument "
                    "needs one row for each datum."
                )
        try:
            signature_of(program).bind(*data)
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
    if isinstance(data, Mapping):
        raise TypeError(
            f"{what} is a {type(data).__name__}; give the tensors themselves, a tuple of them if "
            f"the programs take several, in their order: {_of_keys(data, least)}."
        )
    words = isinstance(data, str | bytes | PathLike)
    if not words and (isinstance(data, Dataset) or hasattr(data, "__iter__")):
        if isinstance(data, Sized) and len(data) == 0:
            raise ValueError(f"{what} is empty.")
        if isinstance(data, list):
            check_batches(data, what)
        return _Streamed(data, (least, most), torch.device("cpu"), form)
    raise TypeError(
        f"{what} must be a tensor, a data set or a loader of batches; got {type(data).__name__}. "
        + (
            "Read a file with pv.load(path)."
            if words
            else "Convert arrays with torch.as_tensor(x, dtype=torch.float32)."
        )
    )


def _of_keys(data: Mapping[Any, Any], number: int) -> str:
    keys = [f"d[{key!r}]" for key in data][: max(1, number)]
    return keys[0] if len(keys) == 1 else f"({', '.join(keys)})"


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

    def shuffled(
        self, size: int, generator: torch.Generator, share: slice, *, least: int = 1
    ) -> Iterator[Batch]:
        if self.data is None:  # the order of a DataLoader with this generator, which seeds workers
            torch.empty((), dtype=torch.int64).random_(generator=generator)
        order = torch.randperm(len(self), generator=generator)
        sizes = _sizes(len(self), size, least)
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
        return len(_sizes(len(self), size, least))

    def largest(self, size: int, *, least: int = 1) -> int:
        return _sizes(len(self), size, least)[0]

    def to(self, device: torch.device) -> _InMemory:
        data = None if self.data is None else self.data.to(device)
        return replace(self, tensors=tuple(t.to(device) for t in self.tensors), data=data)

    def beside(self, more: Batch) -> _InMemory:
        return replace(self, tensors=(*self.tensors, *more), data=None)

    def changed(self, change: Callable[[Batch, int], Batch]) -> _InMemory:
        return replace(self, tensors=change(self.tensors, 0), data=None)


@dataclass(frozen=True, eq=False)
class _Streamed(Source):
    """A dataset, or a loader of batches, read block by block."""

    data: Any
    takes: tuple[int, float]
    device: torch.device
    form: Form
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

    def shuffled(
        self, size: int, generator: torch.Generator, share: slice, *, least: int = 1
    ) -> Iterator[Batch]:
        loader = self.data
        if self._in_items:
            loader = DataLoader(self.data, size, shuffle=True, generator=generator)
        own = getattr(loader, "generator", None)
        if isinstance(own, torch.Generator) and own is not generator:
            own.manual_seed(generator.initial_seed())  # the same order after a restart
        batches = self._read(loader)
        if self._in_items:
            batches = _joined(batches, _sizes(len(self), size, least))
        for batch in batches:
            yield tuple(argument[share] for argument in batch)

    def steps(self, size: int, *, least: int = 1) -> int:
        if isinstance(self.data, IterableDataset) or not hasattr(self.data, "__len__"):
            raise TypeError(
                "the training loader has no length; give it __len__, the number of its batches."
            )
        return len(_sizes(len(self), size, least)) if self._in_items else len(self.data)

    def largest(self, size: int, *, least: int = 1) -> int | None:
        if self._in_items:
            return _sizes(len(self), size, least)[0]
        return getattr(self.data, "batch_size", None)

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
            used = self.form.tensors(used)
            if len(used) < least or not all(isinstance(part, Tensor) for part in used):
                raise TypeError(
                    f"the programs take {least} torch tensors, but a batch of the loader is "
                    f"{type(item).__name__} with {len(parts)} parts; let it yield tuples of those."
                )
            yield tuple(sent(part, self.device) for part in used)


def fingerprint_of(source: Source, *, rows: int = 256) -> str:
    """Return the :func:`~pyro_vae.data.fingerprint` of all arguments, read block by block."""
    digest = hashlib.sha256()
    for place, tensor in enumerate(next(source.blocks(rows))):
        digest.update(f"{tensor.dtype}{(len(source), *tensor.shape[1:])}".encode())
        for block in source.blocks(rows):
            digest.update(as_bytes(block[place]))
    return digest.hexdigest()


def _sizes(number: int, size: int, least: int) -> list[int]:
    """Numbers of data in the minibatches of an epoch; a last one of too few joins that before."""
    whole, rest = divmod(number, size)
    sizes = [size] * whole + [rest] * (rest > 0)
    if len(sizes) > 1 and sizes[-1] < least:
        sizes[-2:] = [sizes[-2] + sizes[-1]]
    return sizes


def _joined(batches: Iterator[Batch], sizes: list[int]) -> Iterator[Batch]:
    """Batches of these sizes, of which the last may be given in two."""
    for size in sizes:
        batch = next(batches)
        if len(batch[0]) < size:
            batch = tuple(map(torch.cat, zip(batch, next(batches), strict=True)))
        yield batch


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
