"""Bias of log p(x): corrections, convergence over the number of samples, unbiased estimates."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..common.errors import UnreliableEvidence, warn
from ..common.registry import check_choice
from ..common.seeding import seeded
from ..common.verbs import verb
from ..data import AnyData
from ..programs.evaluation import Block, evaluating
from ..programs.traces import Fn
from .diagnostics import error_of_mean, jackknife, log_mean_exp, pareto_k, standard_error
from .ladder import Ladder
from .sizes import chunk_for

__all__ = [
    "Convergence",
    "Multilevel",
    "convergence",
    "delta_corrected",
    "multilevel",
    "unbiased_log_evidence",
]

_RATIO = 2**-1.5  # of the levels' probabilities: between 1/4 and 1/2 variance and cost are finite
_MOST_K, _MOST_HEAVY = 0.5, 0.2
_ROWS = 2048


def delta_corrected(log_weights: Tensor) -> Tensor:
    r"""Corrected :math:`L_K = \log \hat p` in nats, from ``(K, ...)``, shape ``(...)``; no bound.

    .. math:: L_K + SE^2 / 2, \qquad E[L_K] = \log p - \frac{Var(w)}{2 K p^2} + O(K^{-2})

    Bias O(1/K²); not to trust while k̂ > 0.7. NaN for one weight, -infinity where all vanish.
    Source: Nowozin (2018), https://openreview.net/forum?id=HyZoi-WRb.
    """
    estimate = log_mean_exp(log_weights)
    corrected = estimate + standard_error(log_weights).square() / 2
    return corrected.where(estimate > -math.inf, estimate)


@dataclass(frozen=True, eq=False)
class Convergence:
    """Mean log p(x) against the number of samples, by four methods, in nats.

    Attributes:
        sizes: numbers of samples k, ascending.
        means: by method (``plain``, biased low; ``delta``, ``jackknife``, ``antithetic``, no
            bounds) the mean over the data at each size, shape ``(len(sizes),)``, float64.
        errors: their Monte-Carlo errors, of the same shape.
    """

    sizes: tuple[int, ...]
    means: Mapping[str, Tensor]
    errors: Mapping[str, Tensor]

    @property
    def converged(self) -> bool:
        """Whether all methods agree at the largest size, to 3 combined errors or 0.01 nat.

        Few data or samples make large errors and easy agreement: read the errors too.
        """
        last = [(self.means[name][-1].item(), self.errors[name][-1].item()) for name in self.means]
        return all(
            abs(a - b) <= max(3 * math.hypot(error_a, error_b), 0.01)
            for (a, error_a), (b, error_b) in itertools.combinations(last, 2)
        )

    def __str__(self) -> str:
        rows = [["samples", *self.means]]
        for i, k in enumerate(self.sizes):
            cells = (f"{m[i]:.3f} ± {self.errors[name][i]:.3f}" for name, m in self.means.items())
            rows.append([str(k), *cells])
        width = max(len(cell) for row in rows for cell in row)
        return "\n".join("  ".join(f"{cell:>{width}}" for cell in row) for row in rows)


@verb
def convergence(log_weights: Tensor, sizes: Sequence[int] | None = None) -> Convergence:
    r"""Mean log p(x) in nats over a grid of sample sizes k, from log weights ``(K, N)``.

    At each k, averaged over the data and all B = floor(K/k) disjoint blocks of k samples:
    :math:`L_k` (biased low by O(1/k)) and, with bias O(1/k²), :func:`delta_corrected`, the
    jackknife and the antithetic :math:`2 L_k - \tfrac{1}{2} (L_{\text{half}} + L_{\text{half}'})`.
    Errors are :math:`\sqrt{\sum_n s_n^2 / B} / N`, with :math:`s_n^2` the variance between blocks
    of datum n (which has its own draws), or the delta method's if there is but one block.
    Sources: Nowozin (2018), https://openreview.net/forum?id=HyZoi-WRb; Goda and Ishikawa (2019),
    https://arxiv.org/abs/1912.10636.

    Args:
        log_weights: shape ``(K, N)``, in a random order of draws.
        sizes: the grid; by default the powers of two from 8 up to K, and K.

    Raises:
        ValueError: log weights that are no matrix with two samples; a size outside 2, ..., K.
    """
    if log_weights.dim() != 2 or len(log_weights) < 2 or log_weights.shape[1] < 1:
        raise ValueError(
            f"log_weights must be (K, N) with K > 1, N > 0; got {tuple(log_weights.shape)}."
        )
    samples, n = log_weights.shape
    powers = [2**i for i in range(3, samples.bit_length())]
    grid = sorted({*powers, samples} if sizes is None else set(sizes))
    if not grid or not 2 <= grid[0] <= grid[-1] <= samples:
        raise ValueError(f"sizes must be between 2 and K = {samples}; got {sizes}.")
    means = {name: torch.empty(len(grid), dtype=torch.float64) for name in _METHODS}
    errors = {name: torch.empty(len(grid), dtype=torch.float64) for name in _METHODS}
    for i, k in enumerate(grid):
        count = samples // k
        blocks = log_weights[: count * k].double().reshape(count, k, n).movedim(1, 0)
        for name, method in _METHODS.items():
            values = method(blocks)  # (count, N)
            means[name][i] = values.mean()
            squares = values.var(0) / count if count > 1 else standard_error(blocks)[0].square()
            errors[name][i] = squares.sum().sqrt() / n
    return Convergence(tuple(grid), means, errors)


@dataclass(frozen=True, eq=False)
class Multilevel:
    r"""Unbiased estimates of log p(x), in nats, on the CPU in float64; fields of shape ``(N,)``.

    Attributes:
        values: unbiased estimate of each log p(x); one alone is noisy: take the mean.
        base_values: plain ``L_base`` of each datum's first ``base`` samples, biased low.
        base_variance: its variance between the datum's blocks; on level 0, the delta method's.
        levels: level of each datum, int64; it took ``base * 2**level`` samples.
        pareto_k: Pareto k̂ of its weights; NaN where undefined.
    """

    values: Tensor
    base_values: Tensor
    base_variance: Tensor
    levels: Tensor
    pareto_k: Tensor

    def share_heavy(self) -> float:
        """Share of the data whose weights have no finite variance, by k̂ > 0.5.

        Of those with the most draws, up to a hundred: k̂ of few draws shows little.
        """
        most = self.levels.argsort(descending=True)[:100]
        return (self.pareto_k[most] > _MOST_K).double().mean().item()

    @property
    def mean(self) -> float:
        """Mean over the data; unbiased."""
        return self.values.mean().item()

    @property
    def standard_error(self) -> float:
        r"""Monte-Carlo error of the mean, :math:`\sqrt{(Var_{base} + Var_{correction}) / N}`.

        Differences between data do not enter. The first variance is that between blocks above level
        0 (the delta method's is too small); the covariance, of third order, is left out.
        """
        above = self.levels > 0
        base = self.base_variance[above if above.any() else ~above].mean().item()
        return math.sqrt(base / len(self.values) + self.bias_error**2)

    @property
    def bias_of_base(self) -> float:
        """Mean of ``values - base_values``: what the plain mean of L_base lacks."""
        return (self.values - self.base_values).mean().item()

    @property
    def bias_error(self) -> float:
        r"""Standard error of :attr:`bias_of_base`, :math:`sd / \sqrt N`; NaN for one datum."""
        return error_of_mean(self.values - self.base_values)


@verb
def multilevel(
    draw: Callable[[Tensor, int, tuple[int, ...]], Tensor], n: int, *, base: int = 64, seed: int = 0
) -> Multilevel:
    r"""Unbiased antithetic multilevel Monte Carlo of log p(x) in nats, datum by datum.

    Each datum draws a level, :math:`P(l) = (1 - r) r^l, r = 2^{-3/2}`, and :math:`n = base \, 2^l`
    samples in halves a, b. The single-term estimator is :math:`L_{base} / P(0)` on level 0, above
    :math:`\Delta_l / P(l)` with :math:`\Delta_l = L_n - (L_a + L_b) / 2`. Its variance grows with
    :math:`(\log p)^2`, so the control variate :math:`L_{base} (1 - 1[l = 0] / P(0))`, of mean zero,
    is added (:math:`L_{base}` from the first block), which gives

    .. math:: L_{base} + 1[l > 0] \, \Delta_l / P(l)

    Unbiased for log p, no bound. Variance is finite if the weights have enough moments (k̂ clearly
    below 0.5); else rare levels carry what the mean lacks, and no error shows it. Costs 2.2 base
    samples.

    Args:
        draw: gives log weights ``(samples, len(index))`` of fresh draws when called with the
            ``index`` of data, ``samples`` and a tuple of seeds; once for each level.
        n: number of data N.
        base: samples on level 0.
        seed: seed of the levels and the draws.

    Raises:
        ValueError: base < 2, n < 1, log weights of another shape, or a block that vanishes.

    References:
        Goda and Ishikawa (2019). https://arxiv.org/abs/1912.10636
    """
    if base < 2 or n < 1:
        raise ValueError(f"base must be at least 2 and n at least 1; got {base=} and {n=}.")
    with seeded("levels", seed):
        uniform = 1 - torch.rand(n, dtype=torch.float64)  # in (0, 1]
    levels = (uniform.log() / math.log(_RATIO)).floor().long()
    values, base_values, base_variance, k = torch.empty(4, n, dtype=torch.float64)
    for level in levels.unique().tolist():
        index = (levels == level).nonzero().flatten()
        shape = (base * 2**level, len(index))
        log_weights = draw(index, shape[0], (seed, level)).detach().double().cpu()
        if log_weights.shape != shape:
            raise ValueError(f"draw must return shape {shape}; got {tuple(log_weights.shape)}.")
        blocks = log_mean_exp(log_weights.reshape(-1, base, len(index)).movedim(1, 0))
        if not (finite := blocks.isfinite().all(0)).all():
            raise ValueError(
                f"all {base} weights of a block vanish (or are not finite) for data "
                f"{index[~finite][:5].tolist()}, so E log p̂ is not finite: take a larger base."
            )
        base_values[index] = values[index] = blocks[0]
        k[index] = pareto_k(log_weights)
        base_variance[index] = blocks.var(0) if level else standard_error(log_weights).square()
        if level:
            values[index] += _difference(log_weights) / ((1 - _RATIO) * _RATIO**level)
    return Multilevel(values, base_values, base_variance, levels, k)


@verb
def unbiased_log_evidence(
    model: Fn,
    guide: Fn,
    x: AnyData,
    *,
    base: int = 64,
    method: Literal["guide", "laplace"] = "guide",
    mask: Tensor | None = None,
    seed: int = 0,
) -> Multilevel:
    """Unbiased estimate of the mean of log p(x) in nats over data, by :func:`multilevel`.

    Args and errors are those of :func:`~pyro_vae.evidence.importance.log_evidence`, and ``base``,
    the samples on level 0. With ``method="laplace"`` a normal is fitted to each datum. A loader is
    read once for each level.

    Warns:
        UnreliableEvidence: weights without a finite variance; the error is not to trust.
    """
    check_choice("method", method, ("guide", "laplace"))
    with evaluating(model, guide, x, mask=mask) as evaluation:
        pair = evaluation.pair
        evaluation.check_method(method)
        chunk = chunk_for(evaluation, evaluation.rows, rows=_ROWS)
        evaluation.map(lambda block: None)  # holds all data against the support, in their order

        def draw(index: Tensor, samples: int, key: tuple[int, ...]) -> Tensor:
            ladder = Ladder(method=method, samples=samples, chunk=chunk, defensive=0.0)

            def work(block: Block) -> Tensor:
                (weighed,) = ladder.weigh(pair, block.batch, (*key, block.first))
                return weighed.log_weights[:, : block.count].cpu()

            return torch.cat(evaluation.map(work, index=index), 1)

        result = multilevel(draw, len(evaluation), base=base, seed=seed)
    if (share := result.share_heavy()) > _MOST_HEAVY:
        warn(
            f"the weights of {share:.0%} of the data with the most draws have no finite variance "
            "(k̂ > 0.5): the mean can be off by more than its error says. Use "
            "method='laplace', which fits a proposal to each datum, or a better guide.",
            UnreliableEvidence,
        )
    return result


def _difference(log_weights: Tensor) -> Tensor:
    """L of all samples less the mean L of the two halves (an odd sample goes to the second)."""
    middle = len(log_weights) // 2
    halves = log_mean_exp(log_weights[:middle]) + log_mean_exp(log_weights[middle:])
    return log_mean_exp(log_weights) - halves / 2


_METHODS: dict[str, Callable[[Tensor], Tensor]] = {
    "plain": log_mean_exp,
    "delta": delta_corrected,
    "jackknife": jackknife,
    "antithetic": lambda log_weights: log_mean_exp(log_weights) + _difference(log_weights),
}
