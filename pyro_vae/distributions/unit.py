"""Densities on the unit interval: Beta, and a normal truncated to it.

Both are computed in float64, whatever the type of the parameters: their terms cancel.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints, transform_to
from torch.distributions.utils import broadcast_all
from torch.special import log_ndtr

from .base import expanded

__all__ = ["Beta", "Inside", "TruncatedNormal"]

_FAR = 30.0  # standard deviations, beyond which float64's tails vanish
_LEAST = 1e-6


class Inside(constraints.interval):  # type: ignore[misc, unused-ignore]
    """The unit interval without its ends, where a Beta density is zero or infinite."""

    wants = "values strictly between 0 and 1"

    def __init__(self) -> None:
        super().__init__(0.0, 1.0)

    def check(self, value: Tensor) -> Tensor:
        """Return for each value whether it lies inside."""
        return (value > 0) & (value < 1)


transform_to.register(Inside, lambda _: transform_to(constraints.unit_interval))


class Beta(dist.TorchDistribution):
    r"""Beta density of mean m and concentration :math:`1 / a`, on the open unit interval.

    .. math:: p(x) = \frac{x^{m/a - 1} (1 - x)^{(1 - m)/a - 1}}{B(m/a, (1 - m)/a)}

    with variance :math:`m (1 - m) \, a / (1 + a)`.

    Args:
        logits: logit of the mean m.
        dispersion: a, positive.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "logits": constraints.real,
        "dispersion": constraints.positive,
    }
    support = Inside()

    def __init__(
        self, logits: Tensor, dispersion: Tensor, *, validate_args: bool | None = None
    ) -> None:
        self.logits, self.dispersion = broadcast_all(logits, dispersion)
        super().__init__(self.logits.shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """Mean, m."""
        return self.logits.sigmoid()

    @property
    def variance(self) -> Tensor:
        """Variance."""
        product = self.logits.sigmoid() * (-self.logits).sigmoid()
        return product * self.dispersion / (1 + self.dispersion)

    def _shapes(self) -> tuple[Tensor, Tensor]:
        logits, a = self.logits.double(), self.dispersion.double()
        return (logits.sigmoid() + _LEAST) / a, ((-logits).sigmoid() + _LEAST) / a

    def expand(self, batch_shape: Any, _instance: Any = None) -> Beta:
        """Return the distribution with a larger batch shape."""
        return expanded(self, batch_shape, "logits", "dispersion")

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw values."""
        shape = self._extended_shape(torch.Size(sample_shape))
        one, other = (torch._standard_gamma(s.expand(shape)) for s in self._shapes())
        x = (one / (one + other).clamp_min(1e-300)).to(self.logits.dtype)
        tiny = torch.finfo(x.dtype).eps
        return x.clamp(tiny, 1 - tiny)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of values."""
        if self._validate_args:
            self._validate_sample(value)
        p, q = self._shapes()
        x = value.double()
        constant = torch.lgamma(p + q) - torch.lgamma(p) - torch.lgamma(q)
        density = constant + torch.xlogy(p - 1, x) + torch.special.xlog1py(q - 1, -x)
        return density.to(self.logits.dtype)


class TruncatedNormal(dist.TorchDistribution):
    r"""Normal density of location f and scale s, truncated to [0, 1].

    .. math:: p(x) = \frac{N(x; f, s^2)}{\Phi((1 - f) / s) - \Phi(-f / s)}

    Args:
        loc: f, also outside of the interval.
        scale: s, positive.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "loc": constraints.real,
        "scale": constraints.positive,
    }
    support = constraints.unit_interval

    def __init__(self, loc: Tensor, scale: Tensor, *, validate_args: bool | None = None) -> None:
        self.loc, self.scale = broadcast_all(loc, scale)
        super().__init__(self.loc.shape, validate_args=validate_args)

    def _ends(self) -> tuple[Tensor, Tensor, Tensor]:
        """Ends of the interval in units of s from f, and whether it is reversed to have f <= 1/2.

        Its mass is then a difference of upper tails, which does not cancel where f lies outside.
        """
        loc, scale = self.loc.double(), self.scale.double()
        reversed_ = loc > 0.5
        near = torch.where(reversed_, loc - 1, -loc) / scale
        return near, near + 1 / scale, reversed_

    def _log_mass(self) -> Tensor:
        near, far, _ = self._ends()
        big, small = log_ndtr(-near), log_ndtr(-far)
        return big + torch.log(-torch.expm1(small - big))

    @property
    def mean(self) -> Tensor:
        """Mean, by the difference of the densities at the ends over the mass."""
        near, far, reversed_ = self._ends()
        mass = self._log_mass()
        at = [torch.exp(-0.5 * end**2 - 0.5 * math.log(2 * math.pi) - mass) for end in (near, far)]
        shift = self.scale.double() * (at[0] - at[1])
        loc = torch.where(reversed_, 1 - self.loc.double(), self.loc.double())
        mean = (loc + shift).clamp(0, 1)
        return torch.where(reversed_, 1 - mean, mean).to(self.loc.dtype)

    @property
    def variance(self) -> Tensor:
        """Variance."""
        near, far, _ = self._ends()
        mass = self._log_mass()
        at = [torch.exp(-0.5 * end**2 - 0.5 * math.log(2 * math.pi) - mass) for end in (near, far)]
        ratio = 1 + near * at[0] - far * at[1] - (at[0] - at[1]) ** 2
        return (self.scale.double() ** 2 * ratio).clamp_min(0).to(self.loc.dtype)

    def expand(self, batch_shape: Any, _instance: Any = None) -> TruncatedNormal:
        """Return the distribution with a larger batch shape."""
        return expanded(self, batch_shape, "loc", "scale")

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw values by the inverse of the distribution function."""
        shape = self._extended_shape(torch.Size(sample_shape))
        near, far, reversed_ = (end.expand(shape) for end in self._ends())
        u = torch.rand(shape, dtype=torch.float64, device=self.loc.device)
        tail = torch.special.ndtr(-near) * (1 - u) + torch.special.ndtr(-far) * u
        drawn = -torch.special.ndtri(tail)
        falling = near - torch.log1p(-u) / near.clamp_min(1.0)  # exponentially, far out
        drawn = torch.where(near < _FAR, drawn, falling)
        x = ((drawn - near) * self.scale.double()).clamp(0, 1)
        return torch.where(reversed_, 1 - x, x).to(self.loc.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of values."""
        if self._validate_args:
            self._validate_sample(value)
        scale = self.scale.double()
        y = (value.double() - self.loc.double()) / scale
        density = -0.5 * y * y - 0.5 * math.log(2 * math.pi) - scale.log() - self._log_mass()
        return density.to(self.loc.dtype)
