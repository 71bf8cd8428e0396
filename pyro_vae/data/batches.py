"""Minibatches from tensors, data sets or loaders, in an order that depends on a seed alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from ..common.checks import check_data
from .sets import Data

__all__ = ["Source", "batches", "evaluation_batches", "number_of_arguments", "prepare"]

Source: TypeAlias = "Tensor | Data | Dataset[Any] | Iterable[Any]"
"""A tensor ``(N, *event_shape)``, our ``Data``, a map-style dataset, or a loader of batches."""


def prepare(source: Source, device: torch.device, *, what: str) -> Source:
    """Check a source and put it on the device if it is held in memory.

    Raises:
        TypeError: not a tensor, data set or iterable of batches.
        ValueError: empty, or holding NaN.
    """
    if isinstance(source, Tensor):
        source = Data(source)
    if isinstance(source, tuple):  # arguments of the programs, as log_evidence takes them
        source = TensorDataset(*source)
    if isinstance(source, Data):
        check_data(source.x, what=what)
        return source.to(device)
    if isinstance(source, Dataset) or hasattr(source, "__iter__"):
        if isinstance(source, Sized) and len(source) == 0:
            raise ValueError(f"{what} is empty.")
        return source
    raise TypeError(
        f"{what} must be a tensor, a data set or a loader of batches; got {type(source).__name__}."
    )


def batches(
    source: Source,
    batch_size: int,
    generator: torch.Generator,
    device: torch.device,
    arity: int,
    *,
    share: slice = slice(None),
) -> Iterator[tuple[Tensor, ...]]:
    """One epoch of minibatches in random order.

    Args:
        source: prepared data.
        batch_size: data in a batch (a loader has its own).
        generator: decides the order.
        device: where the batches go.
        arity: number of arguments that the programs take; items have at least as many parts.
        share: which rows of each batch to give.
    """
    if isinstance(source, Data):
        order = torch.randperm(len(source), generator=generator).to(device)
        for index in order.split(batch_size):
            yield (source.batch(index[share]),)
        return
    if isinstance(source, Dataset) and not isinstance(source, DataLoader):
        source = DataLoader(source, batch_size, shuffle=True, generator=generator)
    own = getattr(source, "generator", None)
    if isinstance(own, torch.Generator) and own is not generator:
        own.manual_seed(generator.initial_seed())  # the same order after a restart
    for batch in _from_loader(source, device, arity):
        yield tuple(argument[share] for argument in batch)


def evaluation_batches(
    source: Source, batch_size: int, device: torch.device, arity: int
) -> Iterator[tuple[Tensor, ...]]:
    """All data once, in their own order, as they are evaluated (drawn once, not anew)."""
    if isinstance(source, Data):
        yield from ((rows,) for rows in source.x.split(batch_size))
        return
    if isinstance(source, Dataset) and not isinstance(source, DataLoader):
        source = DataLoader(source, batch_size)
    yield from _from_loader(source, device, arity)


def number_of_arguments(program: Callable[..., Any]) -> int:
    """Count the positional arguments that a program requires; at least one."""
    parameters = inspect.signature(program).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = [p for p in parameters if p.kind in positional and p.default is p.empty]
    return max(1, len(required))


def _from_loader(loader: Any, device: torch.device, arity: int) -> Iterator[tuple[Tensor, ...]]:
    for item in loader:
        parts: Sequence[Tensor] = item if isinstance(item, list | tuple) else (item,)
        if len(parts) < arity or not all(isinstance(part, Tensor) for part in parts[:arity]):
            raise TypeError(
                f"the programs take {arity} tensors, but a batch of the loader is "
                f"{type(item).__name__} with {len(parts)} parts."
            )
        yield tuple(part.to(device) for part in parts[:arity])
