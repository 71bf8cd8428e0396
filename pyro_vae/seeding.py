"""Random draws that depend on a seed alone and leave the caller's random state as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["derive", "seeded"]


def derive(*keys: int) -> int:
    """Return a seed of 63 bits that depends on every key, for independent streams.

    Raises:
        ValueError: a negative key.
    """
    if any(key < 0 for key in keys):
        raise ValueError(f"a seed is a non-negative integer; got {min(keys)}.")
    state = np.random.SeedSequence(keys).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


@contextmanager
def seeded(*keys: int | None) -> Iterator[None]:
    """Seed torch's generators from ``keys`` inside the block; restore them after it.

    With the single key ``None`` the block draws from the caller's random state.
    """
    seeds = [key for key in keys if key is not None]
    if not seeds:
        yield
        return
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derive(*seeds))
        yield
