"""How much memory there is, and what a computation needs, before it is allocated."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import NotEnoughMemory

# This module does not import torch, so that the command line answers at once.
__all__ = ["check_memory", "explained", "free_memory", "in_words"]

_SMALL = 2**26  # bytes that nobody need look at
_CURE = (
    "Take smaller layers, a smaller batch, fewer particles, samples or draws, or a smaller chunk."
)
_FAILED = (
    "not enough memory",
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "unable to allocate",
    "storage size calculation overflowed",
    "integer multiplication overflow",
    "invalid buffer size",
)
"""Words of torch's messages about sizes that no memory holds."""


def free_memory(device: Any = None) -> int | None:
    """Return the bytes that this process may still take; ``None`` where nobody says.

    On the host that is what the system has available without swapping, within the limits of the
    process's control group and of ``ulimit -v``. Of a GPU (a ``torch.device``) it is what other
    processes and this one's tensors leave.
    """
    if device is not None and device.type == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    known = [bytes for read in (_available, _in_group, _in_limit) if (bytes := read()) is not None]
    return max(0, min(known)) if known else None


def check_memory(needed: float, what: str, *, cure: str = _CURE, device: Any = None) -> None:
    """Check that a computation fits into the memory that there is.

    Args:
        needed: bytes, an estimate.
        what: what needs them, as the subject of a sentence.
        cure: what to do instead.
        device: where they are needed; by default on the host.

    Raises:
        NotEnoughMemory: there are fewer; the message has both numbers.
    """
    if needed <= _SMALL:
        return
    free = free_memory(device)
    if free is not None and needed > free:
        raise NotEnoughMemory(
            f"{what} needs about {in_words(needed)} of memory; {in_words(free)} are free. {cure}"
        )


def in_words(size: float) -> str:
    """Return a number of bytes in the unit that suits it, such as ``"37 GB"``."""
    for power, unit in ((4, "TB"), (3, "GB"), (2, "MB")):
        if size >= 1000**power or unit == "MB":
            return f"{size / 1000**power:,.{1 if size < 10 * 1000**power else 0}f} {unit}"
    raise AssertionError


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn the failure of an allocation inside the block into :class:`NotEnoughMemory`."""
    try:
        yield
    except NotEnoughMemory:
        raise
    except (MemoryError, RuntimeError, OverflowError) as error:
        words = str(error)
        if not (isinstance(error, MemoryError) or any(w in words.lower() for w in _FAILED)):
            raise
        asked = re.search(r"allocate ([\d.]+) ?(bytes|[KMGT]iB)", words)
        tried = f" (it asked for {_read(*asked.groups())} more)" if asked else ""
        free = free_memory()
        there = "" if free is None else f"; {in_words(free)} are free on the host"
        raise NotEnoughMemory(f"{what} does not fit into memory{tried}{there}. {_CURE}") from error


def _read(number: str, unit: str) -> str:
    powers = {"bytes": 0, "KiB": 1, "MiB": 2, "GiB": 3, "TiB": 4}
    return in_words(float(number) * 1024 ** powers[unit])


def _available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(x.split()[1]) * 1024 for x in lines if x.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        try:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, OSError, ValueError):
            return None


def _in_group() -> int | None:
    """What the control group of a container leaves; pages of files are given back on demand."""
    for limit, used, pages in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        root = Path("/sys/fs/cgroup")
        try:
            most = int((root / limit).read_text())
            taken = int((root / used).read_text())
            stat = dict(line.split() for line in (root / pages).read_text().splitlines())
        except (OSError, ValueError):  # "max": no limit
            continue
        return most - taken + int(stat.get("inactive_file", 0))
    return None


def _in_limit() -> int | None:
    try:
        import resource

        most, _ = resource.getrlimit(resource.RLIMIT_AS)
        if most == resource.RLIM_INFINITY:
            return None
        return most - int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf(
            "SC_PAGE_SIZE"
        )
    except (ImportError, OSError, ValueError, AttributeError):
        return None
