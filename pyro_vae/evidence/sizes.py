"""How much is computed at once, by device: a GPU is idle where a CPU is busy.

On a CPU these numbers decide which random numbers a datum gets, and stay as they are.
"""

from __future__ import annotations

from typing import Any

import torch

from ..common.devices import bytes_of_one
from ..common.memory import check_memory
from ..common.seeding import seeded
from ..programs.evaluation import BLOCK, Evaluation

__all__ = ["check_sizes", "chunk_for", "data_for", "draws_for"]

_MOST_WEIGHTS = 2**23  # log weights in memory at once: 64 MiB
_ROWS = 65_536  # pairs of a draw and a datum that a GPU gets at once, if their tensors are small
_BYTES = 2**29  # of the largest tensor on a GPU; some ten of that size are alive together
_MOST_DRAWS = 1024
_MANY = 2**16  # draws to keep whose memory is looked at before they are made
_COPIES = 3  # of the log weights of a block, by which their diagnostics are made
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


def check_sizes(evaluation: Evaluation, data: int, samples: int, *, keep: int = 0) -> None:
    """Check that the weights of a block and the draws to keep fit into memory.

    Args:
        evaluation: programs and data.
        data: data in a block.
        samples: draws for each of them.
        keep: draws of each datum that are kept.

    Raises:
        NotEnoughMemory: one does not; says which.
    """
    data, total = min(data, len(evaluation)), keep * len(evaluation)
    weights = 8.0 * _COPIES * samples * data
    said = f"weighing {samples:,} draws of a block of {data} data"
    check_memory(weights, said, cure="Take fewer samples.", device=evaluation.device)
    if total > _MANY:
        batch = next(evaluation.blocks(2)).batch
        with seeded("sizes", 0):
            values, _ = evaluation.pair.propose(batch, 1)
        one = sum(value.nbytes for value in values.values()) / len(batch[0])
        said = f"keeping {keep:,} draws of each datum"
        check_memory(total * one, said, cure="Take fewer draws, or fewer data at a time.")


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
