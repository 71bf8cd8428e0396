"""Probability mass functions: class indices, counts, and densities rounded to levels.

Those of counts are computed in float64, whatever the type of the parameters, in which they are
returned: their terms grow with the counts and cancel, so that float32 would be nats off.
"""

from __future__ import annotations

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints, register_kl
from torch.distributions.utils import broadcast_all
from torch.nn.functional import logsigmoid, softplus

from .base import expanded
from .special import log_rising

__all__ = [
    "Binomial",
    "Categorical",
    "DiscretizedLogistic",
    "Grid",
    "NegativeBinomial",
    "Poisson",
    "ZeroInflated",
]


class Categorical(dist.Categorical):
    """Categorical over class indices as floating-point numbers.

    Indices have no mean; ``mean`` is the mode, which a picture can show.
    """

    @property
    def mean(self) -> Tensor:
        """The most probable index, as a floating-point number."""
        return self.logits.argmax(-1).to(self.logits.dtype)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw indices, as floating-point numbers like the data of other likelihoods."""
        return super().sample(torch.Size(sample_shape)).to(self.logits.dtype)


class Binomial(dist.Binomial):
    """Binomial exact at large counts; its KL divergence stays finite where p rounds to 0 or 1."""

    in_float64: ClassVar[bool] = True

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of counts of successes."""
        if self._validate_args:
            self._validate_sample(value)
        n, k = self.total_count.double(), value.double()
        logits = self.logits.double()
        ways = torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
        return (ways + k * logits - n * softplus(logits)).to(self.logits.dtype)


class Poisson(dist.Poisson):
    """Poisson exact at large counts."""

    in_float64: ClassVar[bool] = True

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of counts."""
        if self._validate_args:
            self._validate_sample(value)
        m, x = self.rate.double(), value.double()
        return (torch.xlogy(x, m) - m - torch.lgamma(x + 1)).to(self.rate.dtype)


class NegativeBinomial(dist.TorchDistribution):
    r"""Counts with mean m and variance :math:`m + a m^2`, a Gamma mixture of Poissons.

    .. math:: p(x) = \frac{\Gamma(x + r)}{x!\, \Gamma(r)} \left(\frac{r}{r + m}\right)^r
        \left(\frac{m}{r + m}\right)^x, \qquad r = 1 / a

    Args:
        rate: the mean m, positive.
        dispersion: a, positive; the Poisson distribution is the limit a = 0.
    """

    in_float64: ClassVar[bool] = True
    arg_constraints: ClassVar[dict[str, Any]] = {
        "rate": constraints.positive,
        "dispersion": constraints.positive,
    }
    support = constraints.nonnegative_integer

    def __init__(
        self, rate: Tensor, dispersion: Tensor, *, validate_args: bool | None = None
    ) -> None:
        self.rate, self.dispersion = broadcast_all(rate, dispersion)
        super().__init__(self.rate.shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """Mean, m."""
        return self.rate

    @property
    def variance(self) -> Tensor:
        """Variance, m + a m^2."""
        return self.rate + self.dispersion * self.rate**2

    def expand(self, batch_shape: Any, _instance: Any = None) -> NegativeBinomial:
        """Return the distribution with a larger batch shape."""
        return expanded(self, batch_shape, "rate", "dispersion")

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw counts."""
        shape = self._extended_shape(torch.Size(sample_shape))
        gamma = torch._standard_gamma((1 / self.dispersion).expand(shape))
        return torch.poisson(gamma * (self.dispersion * self.rate))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of counts."""
        if self._validate_args:
            self._validate_sample(value)
        r, m, x = 1 / self.dispersion.double(), self.rate.double(), value.double()
        failures = -(r + x) * torch.log1p(m / r)
        density = log_rising(r, x) + failures + x * m.log() - torch.lgamma(x + 1)
        return density.to(self.rate.dtype)


class ZeroInflated(dist.ZeroInflatedDistribution):
    r"""Counts that are zero for another reason with probability g, and else of a distribution c.

    .. math:: P(0) = g + (1 - g) \, c(0), \qquad P(x) = (1 - g) \, c(x) \quad (x > 0)

    Args:
        counts: distribution c of single counts.
        gate_logits: :math:`\log g - \log(1 - g)`, of a shape that broadcasts with its batch shape.
    """

    def __init__(
        self, counts: Any, gate_logits: Tensor, *, validate_args: bool | None = None
    ) -> None:
        super().__init__(counts, gate_logits=gate_logits, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> ZeroInflated:
        """Return the distribution with a larger batch shape, whatever Pyro has looked up of it."""
        shape = torch.Size(batch_shape)
        return ZeroInflated(
            self.base_dist.expand(shape),
            self.gate_logits.expand(shape),
            validate_args=self._validate_args,
        )

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of counts, always from the logits, which a gate of 0 or 1 keeps."""
        if self._validate_args:
            self._validate_sample(value)
        counted = logsigmoid(-self.gate_logits) + self.base_dist.log_prob(value)
        zero = torch.logaddexp(logsigmoid(self.gate_logits), counted)
        return torch.where(value == 0, zero, counted)


class Grid(constraints.Constraint):
    """The ``levels`` numbers k / (levels - 1) in [0, 1], to within a hundredth of a step."""

    is_discrete = True
    event_dim = 0

    def __init__(self, levels: int) -> None:
        self.levels = levels
        super().__init__()

    @property
    def wants(self) -> str:
        """The values in words."""
        top = self.levels - 1
        return f"values k / {top} in [0, 1], k = 0, 1, ..., {top}"

    def check(self, value: Tensor) -> Tensor:
        """Return for each value whether it lies on the grid."""
        steps = value * (self.levels - 1)
        inside = (steps > -0.5) & (steps < self.levels - 0.5)
        return inside & ((steps - steps.round()).abs() < 1e-2)


class DiscretizedLogistic(dist.TorchDistribution):
    r"""Logistic distribution rounded to the nearest of the levels k / (levels - 1).

    .. math:: P(x) = \sigma\left(\frac{x + h - \mu}{s}\right) -
        \sigma\left(\frac{x - h - \mu}{s}\right), \qquad h = \frac{1}{2 (levels - 1)}

    The lowest and highest level take the tails, so that the masses sum to one. The logarithm is
    computed without cancellation, as :math:`\log \sigma(a) + \log \sigma(-b) + \log(1 - e^{b - a})`
    for :math:`a > b`.

    Args:
        loc: centre :math:`\mu`, in units of x.
        scale: logistic scale s, in units of x.
        levels: number of levels.

    References:
        Kingma et al. (2016). https://arxiv.org/abs/1606.04934
        Salimans et al. (2017). https://arxiv.org/abs/1701.05517
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "loc": constraints.real,
        "scale": constraints.positive,
    }

    def __init__(
        self, loc: Tensor, scale: Tensor, levels: int, *, validate_args: bool | None = None
    ) -> None:
        self.loc, self.scale = broadcast_all(loc, scale)
        self.levels = levels
        super().__init__(self.loc.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> Grid:
        """The levels."""
        return Grid(self.levels)

    def expand(self, batch_shape: Any, _instance: Any = None) -> DiscretizedLogistic:
        """Return the distribution with a larger batch shape."""
        return expanded(self, batch_shape, "loc", "scale")

    @property
    def mean(self) -> Tensor:
        """Mean of the rounded values: the sum of the probabilities of exceeding each edge."""
        total = torch.zeros_like(self.loc)
        for k in range(self.levels - 1):
            total = total + torch.sigmoid((self.loc - (k + 0.5) / (self.levels - 1)) / self.scale)
        return total / (self.levels - 1)

    @property
    def mean_before_rounding(self) -> Tensor:
        """Mean of the logistic value clipped to [0, 1]: within half a step of ``mean``."""
        above, below = self.loc / self.scale, (self.loc - 1) / self.scale
        return self.scale * (softplus(above) - softplus(below))

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw values on the grid."""
        shape = self._extended_shape(torch.Size(sample_shape))
        u = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
        steps = (self.loc + self.scale * torch.logit(u)) * (self.levels - 1)
        return steps.round().clamp(0, self.levels - 1) / (self.levels - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of values on the grid."""
        if self._validate_args:
            self._validate_sample(value)
        top = self.levels - 1
        level = (value.to(self.loc.dtype) * top).round()
        upper = ((level + 0.5) / top - self.loc) / self.scale
        lower = ((level - 0.5) / top - self.loc) / self.scale
        width = 1 / (top * self.scale)
        first, last, zero = level <= 0, level >= top, torch.zeros_like(upper)
        return (
            torch.where(last, zero, logsigmoid(upper))
            + torch.where(first, zero, logsigmoid(-lower))
            + torch.where(first | last, zero, torch.log(-torch.expm1(-width)))
        )


def _kl_categorical(p: Categorical, q: Categorical) -> Tensor:
    # torch's is infinite where a probability of q rounds to 0; the logit is still finite.
    return (p.probs * (p.logits - q.logits)).sum(-1)


def _kl_binomial(p: Binomial, q: Binomial) -> Tensor:
    if (p.total_count != q.total_count).any():
        raise NotImplementedError("KL divergence of binomials with different counts")
    # torch's has log(1 - p), which is infinite where p rounds to 1.
    difference = p.probs * (p.logits - q.logits) - softplus(p.logits) + softplus(q.logits)
    return p.total_count * difference


register_kl(Categorical, Categorical)(_kl_categorical)
register_kl(Binomial, Binomial)(_kl_binomial)
