"""What every public function that computes is: one at a time, and clear where memory is short.

Pyro's handlers, its validation flag and its parameters, torch's random state and number of threads,
the filters of warnings and matplotlib's settings belong to the process, not to a thread. Two
computations that ran side by side in threads would draw each other's random numbers and see each
other's handlers; so they queue, and each gives the bits that it gives alone.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from .errors import warn
from .memory import explained
from .plain import as_number

__all__ = ["exclusively", "is_verb", "say_turns", "verb"]

P = ParamSpec("P")
T = TypeVar("T")

_PATIENCE = 10.0  # seconds without a word


class _Turn:
    """Whose turn it is: a lock that its thread may take again, and what runs under it."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.running: list[tuple[str, str]] = []  # names of function and thread, the inner last


_TURNS = [_Turn()]


def verb(function: Callable[P, T]) -> Callable[P, T]:
    """Make a public function one that runs alone in its process.

    A call from another thread waits for its turn, and says so after ten seconds; one from the same
    thread (of a callback, say) runs at once. Where an allocation fails, :class:`NotEnoughMemory`
    says what was asked for and what there is. Numbers of NumPy given by keyword become
    Python's.
    """
    name = function.__name__

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        with exclusively(name), explained(name):
            named: Any = {key: as_number(value) for key, value in kwargs.items()}
            return function(*args, **named)

    call.__verb__ = True  # type: ignore[attr-defined]
    return call


def is_verb(function: Any) -> bool:
    """Return whether a function was made one that runs alone in its process."""
    return bool(getattr(function, "__verb__", False))


@contextmanager
def exclusively(name: str) -> Iterator[None]:
    """Wait until no other thread of this process is in such a block; ``name`` says what is done.

    The lock is let go however the block ends, also by an exception from another thread. A process
    that is forked meanwhile starts with a free one.
    """
    turn = _TURNS[-1]
    if not turn.lock.acquire(timeout=_PATIENCE):
        _say_waiting(name, turn.running[:1])
        turn.lock.acquire()
    turn.running.append((name, threading.current_thread().name))
    try:
        yield
    finally:
        turn.running.pop()
        turn.lock.release()


def say_turns(what: str, threads: list[threading.Thread]) -> None:
    """Warn where threads take turns at draws from the one random state of the process.

    ``threads`` are those that drew, in order; the caller keeps the list from call to call.
    """
    me = threading.current_thread()
    if threads[-1:] == [me]:
        return
    threads.append(me)
    if me in threads[:-1] and threads[-2].is_alive():
        other = threads[-2].name
        threads[:] = [me]
        warn(
            f"{what} runs by turns in threads {me.name!r} and {other!r}; both draw from the random "
            "state of the process, so that neither gives the numbers that it gives alone. Use "
            "processes, or functions with a seed of their own, such as pv.fit.",
        )


def _say_waiting(name: str, running: list[tuple[str, str]]) -> None:
    what, where = running[0] if running else ("another call", "another")
    warn(
        f"{name} (thread {threading.current_thread().name!r}) waits for {what} (thread {where!r}): "
        "calls in threads of one process run one after the other, as handlers and random numbers "
        "are the process's. Processes run side by side.",
    )


def _renew() -> None:
    """Give a forked process a lock of its own: the thread that held the other is not there."""
    _TURNS[:] = [_Turn()]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
