"""How good importance weights are: effective sample size, errors, bias, Pareto k̂."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..common.devices import sent

__all__ = [
    "controlled",
    "effective_sample_size",
    "error_of_mean",
    "jackknife",
    "log_mean_exp",
    "pareto_k",
    "pareto_k_threshold",
    "standard_error",
]

_LARGEST_RATIO = 700.0  # of two weights, as a logarithm; below is zero
_LEAST_SPREAD = 1e-9  # of the tail, relative to the largest weight; below is rounding


def log_mean_exp(log_weights: Tensor) -> Tensor:
    r""":math:`\log \frac{1}{K} \sum_k w_k` over dimension 0, from log weights ``(K, ...)``."""
    return log_weights.logsumexp(0) - math.log(len(log_weights))


def error_of_mean(values: Tensor) -> float:
    r"""Standard error :math:`sd / \sqrt N` of a mean of values ``(N,)``; NaN for one alone."""
    n = len(values)
    return values.std().item() / math.sqrt(n) if n > 1 else math.nan


def effective_sample_size(log_weights: Tensor) -> Tensor:
    r"""Effective sample size :math:`1 / \sum_k \bar w_k^2`, between 1 and K.

    Args:
        log_weights: log importance weights of shape ``(K, ...)``.

    Returns:
        Tensor of shape ``(...)``; 0 where every weight vanishes.

    References:
        Kong (1992), A note on importance sampling using standardized weights.
    """
    size = (-(2 * _normalized(log_weights)).logsumexp(0)).exp()
    return size.masked_fill(_vanished(log_weights), 0)


def standard_error(log_weights: Tensor, *, strata: Tensor | None = None) -> Tensor:
    r"""Standard error of :math:`\log \hat p`, by the delta method, in nats.

    .. math:: SE^2 = \frac{1}{\hat p^2} \sum_h \Big(\frac{K_h}{K}\Big)^2 \frac{s_h^2}{K_h}

    with :math:`s_h^2` the variance of the weights in stratum h of :math:`K_h` draws. Without strata
    it is the squared coefficient of variation of the weights over K. To trust while k̂ < 0.7; with
    heavier tails it is too small. NaN for a single weight; infinite where every weight vanishes.

    Args:
        log_weights: log importance weights of shape ``(K, ...)``.
        strata: of two strata of draws, whose numbers were fixed, which each draw is of, bool
            ``(K,)``. Ignored if one of them has a single draw.

    Returns:
        Tensor of shape ``(...)``.
    """
    k = len(log_weights)
    if k == 1:
        return torch.full_like(log_weights[0], math.nan)
    weights = k * _normalized(log_weights).exp()
    variance = torch.zeros_like(log_weights[0])
    for part in _strata(weights, strata):
        variance = variance + len(part) / k * part.var(0)
    return (variance / k).sqrt().masked_fill(_vanished(log_weights), math.inf)


def jackknife(log_weights: Tensor, *, strata: Tensor | None = None) -> Tensor:
    r"""First-order jackknife (JVI-1) of :math:`L_K = \log \hat p`, in nats; bias O(1/K²).

    .. math:: L_K - \sum_h \frac{K_h - 1}{K_h} \sum_i \big(L^{(-hi)} - L_K\big), \qquad
        L^{(-hi)} = \log \Big(\hat p + \frac{K_h}{K} \frac{\bar w_h - w_{hi}}{K_h - 1}\Big)

    Not a bound. NaN for a single weight; +infinity where one weight is all there is.

    Args:
        log_weights: log importance weights of shape ``(K, ...)``.
        strata: as for :func:`standard_error`.

    Returns:
        Tensor of shape ``(...)``.

    References:
        Nowozin (2018). https://openreview.net/forum?id=HyZoi-WRb
    """
    k = len(log_weights)
    estimate = log_mean_exp(log_weights)
    if k == 1:
        return torch.full_like(estimate, math.nan)
    weights = k * _normalized(log_weights).exp()  # of mean one
    corrected = estimate
    for part in _strata(weights, strata):
        number = len(part)
        without = number / k * (part.mean(0) - part) / (number - 1)
        corrected = corrected - (number - 1) * torch.log1p(without.clamp_min(-1)).mean(0)
    return torch.where(_vanished(log_weights), estimate, corrected)


def controlled(log_weights: Tensor, control: Tensor, strata: Tensor) -> tuple[Tensor, Tensor]:
    r"""Log of a ratio of means over mixed draws, and its standard error.

    .. math:: \hat p = \frac{\sum_k w_k}{\sum_k g_k}, \qquad
        g = \frac{q}{(1 - c) q + c p_0}, \qquad
        SE^2 = \frac{1}{\bar g^2} \sum_h \Big(\frac{K_h}{K}\Big)^2
        \frac{s_h^2(w / \hat p - g)}{K_h}

    for K(1 - c) draws of a proposal q and Kc of the prior :math:`p_0`. g has mean one, so that the
    ratio estimates what the mean of w does, with a bias of order 1/K. Where q is the posterior, w
    and g are proportional and the error is zero: a good proposal loses nothing to rare draws of the
    prior that hit the posterior.

    Args:
        log_weights: shape ``(K, ...)``.
        control: g, of the same shape.
        strata: True for draws of the prior, bool ``(K,)``.

    Returns:
        :math:`\log \hat p` and its standard error, in nats, each of shape ``(...)``.

    References:
        Owen (2013), Monte Carlo theory, methods and examples, chapter 9.10.
        https://artowen.su.domains/mc
    """
    estimate = log_mean_exp(log_weights) - control.mean(0).log()
    left = (log_weights - estimate).exp() - control
    variance = torch.zeros_like(estimate)
    for part in _strata(left, strata):
        variance = variance + len(part) / len(left) * part.var(0)
    error = (variance / len(left)).sqrt() / control.mean(0)
    vanished = _vanished(log_weights)
    return estimate, error.masked_fill(vanished, math.inf)


def _strata(weights: Tensor, strata: Tensor | None) -> list[Tensor]:
    """Weights by stratum; of one if another has too few to tell its variance."""
    if strata is None:
        return [weights]
    strata = strata.cpu()  # where they are already, so that nothing is waited for
    parts = [part.nonzero().flatten() for part in (strata, ~strata)]
    if min(map(len, parts)) < 2:
        return [weights]
    return [weights[sent(part, weights.device)] for part in parts]


def pareto_k_threshold(samples: int) -> float:
    r"""Largest k̂ to trust, :math:`\min(1 - 1/\log_{10} S, 0.7)` (Vehtari et al. 2024)."""
    return min(1 - 1 / math.log10(samples), 0.7) if samples > 10 else 0.0


def pareto_k(log_weights: Tensor, *, tail: float = 1.0) -> Tensor:
    r"""Shape k̂ of the generalized Pareto distribution fitted to the largest weights.

    The tail are the :math:`M = \lfloor 3 \sqrt S \rfloor` largest of S weights
    (:math:`\lfloor S / 5 \rfloor` up to S = 225), above the next one. The fit is the empirical
    Bayes estimate of Zhang and Stephens with the weak prior of Vehtari et al. (k̂ shrunk to 0.5 with
    the weight of ten draws), for all columns at once. k̂ < 0.7: mean and standard error can be
    trusted; above, the variance of the weights is infinite in practice.

    Args:
        log_weights: log importance weights of shape ``(S, ...)``.
        tail: share of the tail to look at, its largest draws.

    Returns:
        Tensor of shape ``(...)``, float64. NaN where k̂ is undefined: fewer than five tail draws, or
        a tail without spread (an exact proposal). +infinity where most of the tail vanishes beside
        the largest weight.

    References:
        Vehtari et al. (2024). https://arxiv.org/abs/1507.02646
        Zhang and Stephens (2009). https://doi.org/10.1198/tech.2009.08017
    """
    samples = len(log_weights)
    tail_size = int(3 * math.sqrt(samples)) if samples > 225 else samples // 5
    tail_size = int(tail * tail_size)
    if tail_size < 5:
        return torch.full_like(log_weights[0], math.nan, dtype=torch.float64)
    top = log_weights.double().topk(tail_size + 1, dim=0).values  # largest first
    # Relative to the largest weight; expm1 keeps nearly equal weights apart.
    cutoff = top[-1].maximum(top[0] - _LARGEST_RATIO)
    top = top.maximum(cutoff)
    excess = (cutoff - top[0]).exp() * torch.expm1(top[:-1] - cutoff)
    undefined = ~(excess[0] > _LEAST_SPREAD)
    few = ~undefined & (excess[-_quartile(tail_size)] == 0)
    filler = torch.ones_like(excess).cumsum(0).flip(0)
    k = _generalized_pareto_shape(torch.where(undefined | few, filler, excess).flip(0))
    return k.masked_fill(undefined, math.nan).masked_fill(few, math.inf)


def _generalized_pareto_shape(x: Tensor) -> Tensor:
    """Zhang-Stephens estimate of k for ascending positive draws ``(M, ...)``."""
    m = len(x)
    grid = 30 + int(math.sqrt(m))
    shape = (-1, *[1] * (x.dim() - 1))
    steps = torch.arange(1, grid + 1, dtype=x.dtype, device=x.device).reshape(shape)
    quartile = x[_quartile(m) - 1]
    b = 1 / x[-1] + (1 - (grid / (steps - 0.5)).sqrt()) / (3 * quartile)
    k = torch.stack([torch.log1p(-b_i * x).mean(0) for b_i in b])
    log_likelihood = m * ((-b / k).log() - k - 1)
    b = (log_likelihood.softmax(0) * b).sum(0)
    k_hat = torch.log1p(-b * x).mean(0)
    return (m * k_hat + 10 * 0.5) / (m + 10)


def _quartile(m: int) -> int:
    """Rank of the first quartile of m draws, counted from the smallest."""
    return int(m / 4 + 0.5)


def _normalized(log_weights: Tensor) -> Tensor:
    """Log of the weights normalized over dimension 0; -infinity where all vanish."""
    normalized = log_weights - log_weights.logsumexp(0)
    return normalized.masked_fill(_vanished(log_weights), -math.inf)


def _vanished(log_weights: Tensor) -> Tensor:
    return (log_weights == -math.inf).all(0)
