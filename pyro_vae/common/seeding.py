"""Random draws that depend on a seed alone and leave the caller's random state unchanged."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from .verbs import exclusively

__all__ = ["derive", "seeded"]


def derive(stream: str, *keys: int) -> int:
    """Return a 63-bit seed for a named stream, independent of that for any other name or keys.

    Raises:
        ValueError: a key that is not an integer from 0 up to 2^64.
    """
    words = [zlib.crc32(stream.encode()), len(keys)]
    for key in keys:
        if not isinstance(key, int) or isinstance(key, bool) or not 0 <= key < 2**64:
            raise ValueError(f"a seed is a non-negative integer below 2^64; got {key!r}.")
        words += [key % 2**32, key // 2**32]  # of fixed width: no two lists are alike
    state = np.random.SeedSequence(words).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


@contextmanager
def seeded(stream: str, *keys: int) -> Iterator[None]:
    """Seed torch's generators for a named stream inside the block; restore them after it.

    They belong to the process: other threads wait for their turn.
    """
    seed = derive(stream, *keys)
    on_gpu = torch.cuda.is_initialized()
    # Of every GPU, as a model need not be on the current one: a state is 16 bytes on the host.
    with (
        exclusively(stream),
        torch.random.fork_rng(devices=range(torch.cuda.device_count()) if on_gpu else []),
    ):
        # torch.manual_seed would also record the call stack, in case a GPU is used later.
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            torch.cuda.manual_seed_all(seed)
        yield
