"""How long work shows how far it is: a bar in a terminal, elsewhere a line now and then."""

from __future__ import annotations

import sys
import time
from contextvars import ContextVar, Token
from typing import Any, Self

from tqdm.auto import tqdm

__all__ = ["Progress", "announce", "duration", "part_done", "say"]

_FIRST = 10.0  # seconds of work that needs no word
_EVERY = 60.0  # seconds between two lines, at most
_SHARE = 0.1  # of the work, after which there is a line, too
_TOLD = 0.002  # of the work, before which the time left is not known
_LONG = 60.0  # seconds: work whose length is said beforehand

_CURRENT: ContextVar[Progress | None] = ContextVar("progress", default=None)


class Progress:
    """Shows how much of some work is done, on the standard error stream.

    In a terminal that is a bar. Elsewhere (a file, a pipe, a scheduler's log) nothing is written in
    the first ten seconds, and then a line every minute or tenth of the work.

    Args:
        total: number of items.
        what: what is done, such as ``"training"``.
        unit: name of an item.
        show: ``True`` for a bar, ``False`` for silence, ``None`` for what suits the output.
        done: items done before.
        keep: leave the bar there at the end.
    """

    def __init__(
        self,
        total: int,
        what: str,
        unit: str,
        *,
        show: bool | None = None,
        done: int = 0,
        keep: bool = False,
    ) -> None:
        self.total, self.what, self.unit, self.done = total, what, unit, done
        self.part, self.note = 0.0, ""  # items done of those under way; a word on the state
        self.began, self.before = time.monotonic(), done
        self.said, self.said_at = self.began, done / max(total, 1)
        self.bar: Any = tqdm(
            total=total,
            initial=done,
            desc=what,
            unit=unit,
            disable=None if show is None else not show,
            leave=keep,
        )
        self.in_lines = show is None and self.bar.disable
        self.silent = show is False
        self._token: Token[Progress | None] | None = None

    def __enter__(self) -> Self:
        self._token = _CURRENT.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            _CURRENT.reset(self._token)
        self.bar.close()

    def update(self, number: int = 1, note: str = "") -> None:
        """Count some items as done, with a word on the state."""
        self.done, self.part, self.note = self.done + number, 0.0, note or self.note
        if note:
            self.bar.set_postfix_str(note, refresh=False)
        self.bar.update(number)
        self._look()

    def _look(self) -> None:
        """Write a line, or a word beside the bar, if it is time for one."""
        now = time.monotonic()
        if self.silent or now - self.began < _FIRST or self.done >= self.total:
            return
        done = self.done + self.part
        since, share = now - self.said, done / self.total - self.said_at
        if since < _FIRST or (since < _EVERY and share < _SHARE and self.said > self.began):
            return
        self.said, self.said_at = now, done / self.total
        spent, fresh = now - self.began, done - self.before
        left = ""
        if fresh >= _TOLD * self.total:  # before, the first call's compilation is most of it
            left = f"about {duration(spent * (self.total - done) / fresh)} left"
        if not self.in_lines:
            if self.part and not self.note:  # the bar itself knows of whole items only
                self.bar.set_postfix_str(left)
            return
        exact = f" ({done / self.total:.2%})" if self.part else ""
        state = f"{self.done} of {self.total} {self.unit}{exact} after {duration(spent)}"
        say("; ".join(filter(None, (f"{self.what}: {state}", left, self.note))))


def say(line: str) -> None:
    """Write a line about the work to the standard error stream."""
    tqdm.write(line, file=sys.stderr)
    sys.stderr.flush()


def announce(what: str, seconds: float, *, show: bool | None = None) -> None:
    """Say beforehand how long some work will take, if that is longer than a minute."""
    if seconds >= _LONG and show is not False:
        say(f"{what}: some {duration(seconds)} in all, by the speed of the first draws")


def part_done(share: float, items: int, unit: str) -> None:
    """Say what share of the items under way is done, to whatever shows the progress of the work."""
    current = _CURRENT.get()
    if current is not None and current.unit == unit:
        current.part = share * items
        current._look()


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it, such as ``"3.5 hours"``."""
    for size, unit in ((365.25 * 86400, "years"), (86400, "days"), (3600, "hours"), (60, "min")):
        if seconds >= 2 * size:
            number = seconds / size
            return f"{number:,.1f} {unit}" if number < 10 else f"{number:,.0f} {unit}"
    return f"{seconds:.0f} s"
