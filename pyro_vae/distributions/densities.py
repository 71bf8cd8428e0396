"""Densities that stay exact where torch's do not: near float32's limits and in derivatives."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import register_kl
from torch.distributions.utils import broadcast_all
from torch.nn.functional import softplus

from .special import log_rising

__all__ = ["Bernoulli", "ContinuousBernoulli", "DeviceStudentT", "Laplace", "StudentT"]

_NEAR_ZERO = 0.5
_GROUP = 8  # factors between 1 and 2, whose product is at most 256

# Bernoulli numbers B_2, B_4, ..., B_16.
_BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510)


class ContinuousBernoulli(dist.ContinuousBernoulli):
    r"""Density :math:`\lambda^x (1 - \lambda)^{1 - x} C(\lambda)` on [0, 1], of logit l.

    .. math:: \log p(x) = l x - A(l), \qquad A(l) = \log \frac{e^l - 1}{l}

    torch's class computes A from the clamped probability, and near one half from a series of two
    terms. This one computes it from the logit, exact to rounding everywhere, as are its
    derivatives; near l = 0 by the series of :math:`A(l) - l / 2` in Bernoulli numbers.

    References:
        Loaiza-Ganem and Cunningham (2019). https://arxiv.org/abs/1907.06845
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of ``value``."""
        if self._validate_args:
            self._validate_sample(value)
        return _expected_log_density(self.logits, value)

    @property
    def mean(self) -> Tensor:
        """Mean, the derivative of A."""
        size, near = _magnitude(self.logits)
        far = -1 / torch.expm1(-size) - 1 / size - 0.5
        series = _series(self.logits.clamp(-_NEAR_ZERO, _NEAR_ZERO), 1)
        return 0.5 + torch.where(near, series, torch.sign(self.logits) * far)

    @property
    def variance(self) -> Tensor:
        """Variance, the second derivative of A."""
        size, near = _magnitude(self.logits)
        far = size**-2 - torch.exp(-size) / torch.expm1(-size) ** 2
        return torch.where(near, _series(self.logits.clamp(-_NEAR_ZERO, _NEAR_ZERO), 2), far)

    def entropy(self) -> Tensor:
        """Entropy, in nats."""
        return -_expected_log_density(self.logits, self.mean)

    def cdf(self, value: Tensor) -> Tensor:
        """Probability of values up to ``value``."""
        x = value.clamp(0, 1)
        slope = -_away_from_zero(self.logits.abs())  # of the log density, from its larger end
        from_end = torch.where(self.logits > 0, 1 - x, x)
        falling = torch.expm1(slope * from_end) / torch.expm1(slope)
        return torch.where(self.logits > 0, 1 - falling, falling)

    def icdf(self, value: Tensor) -> Tensor:
        """Inverse of :meth:`cdf`."""
        slope = -_away_from_zero(self.logits.abs())
        from_end = torch.where(self.logits > 0, 1 - value, value)
        falling = (torch.log1p(from_end * torch.expm1(slope)) / slope).clamp(0, 1)
        return torch.where(self.logits > 0, 1 - falling, falling)


class Laplace(dist.Laplace):
    """Laplace density whose KL divergence has the right second derivative at equal locations."""


class DeviceStudentT(dist.StudentT):
    """Pyro's Student's t of tensors, made where they are: torch's copies a number to the GPU."""

    def __init__(
        self,
        df: Tensor | float,
        loc: Tensor | float = 0.0,
        scale: Tensor | float = 1.0,
        validate_args: bool | None = None,
    ) -> None:
        self.df, self.loc, self.scale = broadcast_all(df, loc, scale)
        half = torch.full_like(self.df, 0.5)
        self._chi2 = torch.distributions.Gamma(half * self.df, half)
        torch.distributions.Distribution.__init__(self, self.df.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """Return the distribution with a larger batch shape."""
        return super().expand(batch_shape, _instance=_instance or self.__new__(type(self)))


class StudentT(DeviceStudentT):
    """Student's t density that stays accurate as large degrees of freedom make it normal."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of ``value``."""
        if self._validate_args:
            self._validate_sample(value)
        half = self.df / 2
        y = (value - self.loc) / self.scale
        tail = (half + 0.5) * torch.log1p(y * y / self.df)
        constant = log_rising(half, torch.full_like(half, 0.5)) - 0.5 * math.log(2 * math.pi)
        return constant - self.scale.log() - tail


def _kl_continuous_bernoulli(p: ContinuousBernoulli, q: ContinuousBernoulli) -> Tensor:
    mean = p.mean
    return _expected_log_density(p.logits, mean) - _expected_log_density(q.logits, mean)


def _kl_laplace(p: Laplace, q: Laplace) -> Tensor:
    # Automatic differentiation of torch's |t| + exp(-|t|) - 1 gives a curvature of 0 at t = 0.
    t = (p.loc - q.loc) / p.scale
    near = t.abs() < 1e-3
    inner, outer = torch.where(near, t, torch.zeros_like(t)), _away_from_zero(t.abs(), 1e-3)
    series = inner**2 / 2 - inner**2 * inner.abs() / 6
    excess = torch.where(near, series, outer + torch.expm1(-outer))
    ratio = p.scale / q.scale
    return ratio - 1 - ratio.log() + ratio * excess


def _magnitude(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Absolute logits, kept away from zero, and where they are near it."""
    near = logits.abs() < _NEAR_ZERO
    return torch.where(near, torch.full_like(logits, _NEAR_ZERO), logits.abs()), near


def _expected_log_density(logits: Tensor, mean: Tensor) -> Tensor:
    """Log density at values of the given mean, in which it is linear."""
    size, near = _magnitude(logits)
    from_larger_end = torch.where(logits > 0, 1 - mean, mean)
    far = size.log() - torch.log(-torch.expm1(-size)) - size * from_larger_end
    inner = logits.clamp(-_NEAR_ZERO, _NEAR_ZERO)
    return torch.where(near, inner * (mean - 0.5) - _series(inner, 0), far)


def _series(x: Tensor, derivative: int) -> Tensor:
    r"""Series of :math:`\log(\sinh(x/2) / (x/2))` or of its first or second derivative."""
    total = torch.zeros_like(x)
    for n in range(len(_BERNOULLI), 0, -1):  # Horner's scheme, in the square of x
        factor = math.prod(range(2 * n, 2 * n - derivative, -1)) / (2 * n * math.factorial(2 * n))
        total = total * x**2 + _BERNOULLI[n - 1] * factor
    return total * x ** (2 - derivative)


def _away_from_zero(size: Tensor, least: float = 1e-6) -> Tensor:
    return size.clamp_min(least)


register_kl(ContinuousBernoulli, ContinuousBernoulli)(_kl_continuous_bernoulli)
register_kl(Laplace, Laplace)(_kl_laplace)


class Bernoulli(dist.Bernoulli):
    r"""Pyro's Bernoulli distribution, with a faster sum over the bits of a datum.

    .. math:: \sum_d \log p(x_d) = \sum_d (x_d l_d - \max(l_d, 0))
        - \sum_g \log \prod_{d \in g} (1 + e^{-|l_d|})

    for logits l: one logarithm for each group g of eight bits. It is used where no gradient is
    needed, and equals the plain sum up to rounding.
    """

    def to_event(self, reinterpreted_batch_ndims: int | None = None) -> Any:
        """Make the last dimensions those of one datum."""
        if reinterpreted_batch_ndims is None:
            reinterpreted_batch_ndims = len(self.batch_shape)
        return _Bits(self, reinterpreted_batch_ndims)


class _Bits(dist.Independent):
    """Bits of a datum."""

    def log_prob(self, value: Tensor) -> Tensor:
        bits, dims = self.base_dist, self.reinterpreted_batch_ndims
        if torch.is_grad_enabled() or "logits" not in bits.__dict__ or dims == 0:
            return super().log_prob(value)
        if bits._validate_args:
            bits._validate_sample(value)
        value, logits = torch.broadcast_tensors(value, bits.logits)
        value, logits = value.flatten(-dims), logits.flatten(-dims)
        linear = (value * logits - logits.clamp_min(0)).sum(-1)
        factors = 1 + (-logits.abs()).exp()
        whole = factors.shape[-1] // _GROUP * _GROUP
        groups = factors[..., :whole].unflatten(-1, (_GROUP, -1)).prod(-2)
        rest = factors[..., whole:].prod(-1)
        return linear - groups.log().sum(-1) - rest.log()


def _kl_bernoulli(p: Bernoulli, q: Bernoulli) -> Tensor:
    # torch's formula, without indices of the places where a probability is rounded to 0 or 1,
    # which a GPU would have to tell the host.
    one = p.probs * (softplus(-q.logits) - softplus(-p.logits))
    one = one.masked_fill(q.probs == 0, math.inf).masked_fill(p.probs == 0, 0)
    zero = (1 - p.probs) * (softplus(q.logits) - softplus(p.logits))
    return one + zero.masked_fill(q.probs == 1, math.inf).masked_fill(p.probs == 1, 0)


register_kl(Bernoulli, Bernoulli)(_kl_bernoulli)
