"""How this package uses the processor: memory that is kept, threads that are worth it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch

from .seeding import seeded

__all__ = ["keep_memory", "threads_worth", "use_threads"]

_WORTH = 0.8  # of the time on half as many: more threads than that disturb more than they help
_TURNS = 5
_SECONDS = 0.1  # of turns after which two of them must do
_HOPELESS = 3
_SMALL = 1e-3  # seconds: work that takes one thread without a comparison, in every run


@cache
def keep_memory() -> None:
    """Let the C library keep the memory of results from call to call.

    glibc raises the size from which memory goes back to the system at once (and is cleared, page by
    page, when it is next asked for) to that of the largest such block freed, up to 32 MiB. An
    evaluation spent 30 % of its time, a compiled step of 1,024 images a sixth, on such pages.
    """
    torch.empty(2**25 - 2**13, dtype=torch.uint8)


def threads_worth(work: Callable[[], object], most: int) -> int:
    """Measure how many threads a piece of work is worth, of at most so many.

    Threads of one operation wait for each other, spinning, in every operation: beside another busy
    process two of them took up to 45 times as long as one for the steps of a small model. So one
    thread is the start, and twice as many are taken as long as they need less than 80 % of the
    time.

    Args:
        work: is called some ten times. Random numbers that it draws are not the caller's.
        most: number of threads that the caller allows.
    """
    best = 1
    with seeded("threads", 0):
        if most > 1 and _is_small(work):
            return 1
        while best < most and _are_worth(work, best, min(2 * best, most)):
            best = min(2 * best, most)
    return best


@contextmanager
def use_threads(number: int) -> Iterator[None]:
    """Compute with so many threads for a while."""
    before = torch.get_num_threads()
    if number != before:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        if number != before:
            torch.set_num_threads(before)


def _is_small(work: Callable[[], object]) -> bool:
    """Whether some work is done on one thread before many could share anything of it."""
    with use_threads(1):
        work()  # warms up
        started = time.perf_counter()
        work()
    return time.perf_counter() - started < _SMALL


def _are_worth(work: Callable[[], object], few: int, many: int) -> bool:
    """Whether many threads need clearly less time than few, which take turns with them."""
    taken: dict[int, list[float]] = {few: [], many: []}
    for turn in range(1 + _TURNS):
        for number, seconds in taken.items():
            with use_threads(number):
                started = time.perf_counter()
                work()
                seconds.append(time.perf_counter() - started)
        if taken[many][-1] > _HOPELESS * taken[few][-1] and taken[many][-1] > _SECONDS:
            return False  # waits for a busy processor
        if turn >= 2 and sum(taken[few]) > _SECONDS:
            break
    fewer, more = (statistics.median(seconds[1:]) for seconds in taken.values())
    return more < _WORTH * fewer  # without the first turn, which warms up
