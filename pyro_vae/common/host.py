"""How this package uses the processor: memory that is kept, threads that are worth it."""

from __future__ import annotations

from functools import cache

import torch

__all__ = ["keep_memory"]


@cache
def keep_memory() -> None:
    """Let the C library keep the memory of results from call to call.

    glibc raises the size from which memory goes back to the system at once (and is cleared, page by
    page, when it is next asked for) to that of the largest such block freed, up to 32 MiB. An
    evaluation spent 30 % of its time, a compiled step of 1,024 images a sixth, on such pages.
    """
    torch.empty(2**25 - 2**13, dtype=torch.uint8)
