"""What a user has called after every epoch, kept apart from the training itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch

from ..common.processes import Processes, unshared
from ..common.seeding import seeded
from ..programs.modules import modes_kept
from .history import Epoch, History

__all__ = ["Callbacks", "OnEpoch", "as_functions"]

OnEpoch: TypeAlias = Callable[[Epoch], Any]
"""Called with the row of an epoch; a mapping that it returns becomes columns of the row."""


def as_functions(given: OnEpoch | Sequence[OnEpoch] | None) -> tuple[OnEpoch, ...]:
    """Return the callables of ``on_epoch``: none, one or several.

    Raises:
        TypeError: something that cannot be called.
    """
    functions = () if given is None else (given,) if callable(given) else tuple(given)
    for function in functions:
        if not callable(function):
            raise TypeError(
                "on_epoch must be a function of one argument, the row of the history, or a list "
                f"of such; got {function!r}."
            )
    return functions


@dataclass
class Callbacks:
    """Callables of every epoch; the first process alone calls them.

    Whatever they do with random numbers, threads and the modules' ``train()`` and ``eval()`` is
    undone, so that the training does not depend on them.
    """

    functions: tuple[OnEpoch, ...] = ()
    failed: BaseException | None = field(default=None, init=False)

    def __call__(self, program: Any, history: History, seed: int, processes: Processes) -> None:
        """Call them with the last row of the history, which gets the columns that they return.

        What they raise is kept in ``failed``, in every process, to be raised when all is saved.
        """
        if not self.functions:
            return
        row = history.epochs[-1]
        if processes.is_first:
            with _unseen(program, seed, row.epoch), unshared():
                for function in self.functions:
                    try:
                        row = _with_columns(row, function(row), function)
                    except BaseException as error:  # to be raised when all is saved
                        error.add_note(f"raised by {_named(function)} after epoch {row.epoch}")
                        self.failed = error
                        break
        failed, history.epochs[-1] = processes.gather((self.failed is not None, row))[0]
        if failed and not self.failed:
            self.failed = RuntimeError("on_epoch failed in the first process, which says how.")

    def check(self, where: str) -> None:
        """Raise what a callable raised, saying where the run was saved."""
        if self.failed is not None:
            error, self.failed = self.failed, None
            error.add_note(where)
            raise error


@contextmanager
def _unseen(program: Any, seed: int, epoch: int) -> Iterator[None]:
    """Undo what is done to random numbers, threads and modules inside the block."""
    threads = torch.get_num_threads()
    try:
        with modes_kept(program), seeded("on_epoch", seed, epoch):
            yield
    finally:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


def _with_columns(row: Epoch, returned: Any, function: OnEpoch) -> Epoch:
    """Add the numbers that a callable returned to a row, if it returned any."""
    if not isinstance(returned, Mapping):
        return row
    more: dict[str, Any] = dict(row.more)
    for name, value in returned.items():
        if name in row.to_dict():
            raise ValueError(f"{_named(function)} returned {name!r}, which is a column already.")
        try:
            more[name] = float(value)
        except (TypeError, ValueError, RuntimeError):
            more[name] = None
        if more[name] is None or isinstance(value, str) or not isinstance(name, str):
            raise TypeError(
                f"{_named(function)} must return numbers by name, to be columns of the history; "
                f"got {name!r}: {value!r}."
            )
    return replace(row, more=more)


def _named(function: OnEpoch) -> str:
    return f"on_epoch ({getattr(function, '__qualname__', type(function).__qualname__)})"
