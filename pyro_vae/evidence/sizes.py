"""How much is computed at once, by device: a GPU is idle where a CPU is busy.

On a CPU these numbers decide which random numbers a datum gets, and stay as they are.
"""

from __future__ import annotations

from typing import Any

import torch

from ..common.devices import bytes_of_one
from ..programs.evaluation import BLOCK, Evaluation

__all__ = ["chunk_for", "data_for", "draws_for"]

_MOST_WEIGHTS = 2**23  # log weights in memory at once: 64 MiB
_ROWS = 65_536  # pairs of a draw and a datum that a GPU gets at once, if their tensors are small
_BYTES = 2**29  # of the largest tensor on a GPU; some ten of that size are alive together
_MOST_DRAWS = 1024
_ROUNDS = 16  # a proposal is fitted to a block by up to so many rows for each datum at once


def data_for(evaluation: Evaluation, samples: int, *, fitted: bool) -> int:
    """Return the number of data in a block: what the programs insist on, 64, or more on a GPU.

    There hundreds of small steps of fitting a proposal take about as long for 64 data as for
    thousands.

    Args:
        evaluation: programs and data.
        samples: draws for each datum, whose weights bound the block.
        fitted: whether proposals may be fitted.
    """
    most = BLOCK
    if fitted and _on_gpu(evaluation.device):
        most = max(BLOCK, _rows(evaluation, 0) // _ROUNDS)
    return evaluation.pair.fixed_rows or min(most, max(1, _MOST_WEIGHTS // samples))


def chunk_for(evaluation: Evaluation, data: int, *, rows: int = 1024) -> int:
    """Return the samples of so many data that go through the model at once, by default.

    ``rows`` are those of both together on a CPU.
    """
    return max(1, _rows(evaluation, rows) // (evaluation.data_set or data))


def draws_for(device: torch.device, data: int) -> int:
    """Return the draws for each of so many data that a proposal is asked for at once."""
    return max(1, min(_MOST_DRAWS, _ROWS // data)) if _on_gpu(device) else BLOCK


def _rows(evaluation: Evaluation, rows: int) -> int:
    """Pairs of a draw and a datum to compute at once; on a GPU as its memory allows."""
    if not _on_gpu(evaluation.device):
        return rows
    batch = next(evaluation.blocks(2)).batch
    pair = evaluation.pair

    def run(samples: int) -> Any:
        return pair.log_terms(batch, pair.propose(batch, samples)[0])

    data = evaluation.data_set or len(batch[0])
    return int(min(_ROWS, _BYTES * data // max(1, bytes_of_one(run))))


def _on_gpu(device: torch.device) -> bool:
    return device.type == "cuda"
