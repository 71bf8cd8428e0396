"""Weight of the KL term over training."""

from __future__ import annotations

import math

__all__ = ["kl_weight"]


def kl_weight(progress: float, *, warmup: int, cycles: int = 1, beta: float = 1.0) -> float:
    r"""Return the weight of the KL term at a point of training.

    With one cycle it rises linearly, :math:`\beta \, t / T`, from exactly 0 at the start to exactly
    :math:`\beta` after the warm-up, and stays there. With more, the warm-up consists of that many
    equal cycles, in each of which the weight rises from 0 to :math:`\beta` over the first half and
    is constant over the second.

    Args:
        progress: t, epochs (with fractions) or steps since the start.
        warmup: T, length of the warm-up in the same unit; with 0 the weight is :math:`\beta` from
            the start.
        cycles: number of cycles within the warm-up.
        beta: weight after the warm-up.

    Raises:
        ValueError: a number out of range.

    References:
        Bowman et al. (2016), warm-up. https://arxiv.org/abs/1511.06349
        Fu et al. (2019), cycles. https://arxiv.org/abs/1903.10145
        Higgins et al. (2017), beta. https://openreview.net/forum?id=Sy2fzU9gl
    """
    if not (progress >= 0 and warmup >= 0 and cycles >= 1 and 0 <= beta < math.inf):
        raise ValueError(
            "expected progress, warmup and beta from 0 on and at least 1 cycle; got "
            f"{progress=}, {warmup=}, {beta=}, {cycles=}."
        )
    if progress >= warmup:
        return beta
    if cycles == 1:
        return beta * (progress / warmup)
    within_cycle = math.fmod(progress * cycles / warmup, 1.0)
    return beta * min(1.0, 2 * within_cycle)
