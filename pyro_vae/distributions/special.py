"""Special functions of the likelihoods: inverses, and a ratio of Gamma functions."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["inverse_softplus", "log_rising", "solve_increasing"]

_LARGE = 10.0


def inverse_softplus(y: Tensor) -> Tensor:
    """Return t with ``softplus(t) = y``, for positive y."""
    return y + torch.log(-torch.expm1(-y))


def log_rising(r: Tensor, x: Tensor) -> Tensor:
    r"""Logarithm of :math:`\Gamma(r + x) / (\Gamma(r)\, r^x)`, which vanishes as r grows.

    Beyond r = 10 by Stirling's series, with an error below 1e-12: the difference of two large
    log-Gamma values keeps few digits in float32.

    Args:
        r: positive tensor.
        x: non-negative tensor.
    """
    large = r > _LARGE
    small, big = r.clamp_max(_LARGE), torch.where(large, r, torch.full_like(r, _LARGE))
    direct = torch.lgamma(small + x) - torch.lgamma(small) - x * small.log()
    total = big + x
    stirling = (total - 0.5) * torch.log1p(x / big) - x + _remainder(total) - _remainder(big)
    return torch.where(large, stirling, direct)


def solve_increasing(
    function: Callable[[Tensor], Tensor], target: Tensor, *, low: float, high: float
) -> Tensor:
    """Solve ``function(t) = target`` elementwise by bisection, t in [low, high]."""
    lower, upper = torch.full_like(target, low), torch.full_like(target, high)
    for _ in range(math.ceil(math.log2((high - low) / 1e-9))):
        middle = (lower + upper) / 2
        below = function(middle) < target
        lower, upper = torch.where(below, middle, lower), torch.where(below, upper, middle)
    return (lower + upper) / 2


def _remainder(y: Tensor) -> Tensor:
    """Difference of log-Gamma and Stirling's formula, by its asymptotic series."""
    inverse = 1 / y
    square = inverse * inverse
    return inverse * (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square / 1680)))
