"""Whether numbers are uniform on [0, 1]: simultaneous bands of their distribution function."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["Uniformity", "binomial_cdf"]

_CELLS, _SIMULATIONS = 100, 10_000


@dataclass(frozen=True, eq=False)
class Uniformity:
    r"""Test of M numbers on [0, 1] by their empirical distribution function F.

    M F(t) is Binomial(M, t) where they are uniform. The statistic is the least two-sided tail
    probability of it over a grid of t; its distribution is simulated, so that the p-value, and the
    band of a level, hold for all t at once. Build it with :meth:`of`.

    Attributes:
        number: M.
        grid: values of t, ``(T,)``.
        tails: two-sided tail probability of each count at each t, ``(T, M + 1)``.
        simulated: the statistic of uniform numbers, ascending.

    References:
        Säilynoja, Bürkner and Vehtari (2022), Graphical test for discrete uniformity and its
        applications in goodness-of-fit evaluation and multiple sample comparison.
        https://doi.org/10.1007/s11222-022-10090-6
    """

    number: int
    grid: Tensor
    tails: Tensor
    simulated: Tensor

    @classmethod
    def of(cls, number: int) -> Uniformity:
        """Build the test of so many numbers.

        Raises:
            ValueError: no numbers.
        """
        if number < 1:
            raise ValueError(f"expected at least one number to test; got {number}.")
        cells = min(_CELLS, number + 1)
        grid = torch.arange(1, cells, dtype=torch.float64) / cells
        below = binomial_cdf(number, grid)
        above = 1 - torch.nn.functional.pad(below, (1, 0))[:, :-1]
        tails = (2 * torch.minimum(below, above)).clamp(0, 1)
        drawn = np.random.default_rng(0).multinomial(number, [1 / cells] * cells, _SIMULATIONS)
        counts = torch.from_numpy(drawn)[:, :-1].cumsum(1)
        least = tails.gather(1, counts.T).amin(0)
        return cls(number, grid, tails, least.sort().values)

    def p_values(self, ranks: Tensor) -> Tensor:
        """Test columns of numbers ``(M, D)``; p-values of shape ``(D,)``."""
        columns = ranks.T.double().contiguous().sort(1).values
        grid = self.grid.expand(len(columns), -1).contiguous()
        counts = torch.searchsorted(columns, grid, right=True)
        least = self.tails.gather(1, counts.T).amin(0)
        lower = torch.searchsorted(self.simulated, least, right=True)
        return (1 + lower.double()) / (1 + len(self.simulated))

    def band(self, level: float) -> tuple[Tensor, Tensor]:
        """Limits of F at the grid, each ``(T,)``, that hold for all of it with a probability.

        F is inside exactly where its p-value is at least ``1 - level``.
        """
        place = math.ceil((1 - level) * (1 + len(self.simulated)) - 1 - 1e-9)
        least = self.simulated[place - 1] if place > 0 else self.simulated.new_zeros(())
        inside = (self.tails >= least).double()
        low = inside.argmax(1)
        high = self.number - inside.flip(1).argmax(1)
        return low.double() / self.number, high.double() / self.number


def binomial_cdf(number: int, probability: Tensor) -> Tensor:
    """P(X <= c), c = 0, ..., n, of X ~ Binomial(n, p); of p ``(T,)`` a matrix ``(T, n + 1)``."""
    p = probability.double()[:, None]
    counts = torch.arange(number + 1, dtype=torch.float64)
    choose = math.lgamma(number + 1) - (counts + 1).lgamma() - (number - counts + 1).lgamma()
    log_mass = choose + counts * p.log() + (number - counts) * torch.log1p(-p)
    return log_mass.exp().cumsum(1).clamp(0, 1)
