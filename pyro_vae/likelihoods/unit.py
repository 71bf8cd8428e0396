"""Likelihoods of values between 0 and 1: Beta, and a normal truncated to the interval."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor

from ..distributions import unit
from ..distributions.special import solve_increasing
from .scale import Dispersed, Scaled

__all__ = ["Beta", "TruncatedNormal"]


class Beta(Dispersed):
    r"""Values strictly between 0 and 1: Beta densities of mean :math:`m = \sigma(f(z))`.

    The variance is :math:`m (1 - m) \, a / (1 + a)` with dispersion a. Arguments are those of
    :class:`~pyro_vae.likelihoods.scale.Dispersed`.
    """

    def values(self, output: Tensor) -> dist.TorchDistribution:
        """Return the densities of single values."""
        return unit.Beta(*self._split(output))

    def _starting_location(self, mean: Tensor, scale: Tensor) -> Tensor:
        return mean.clamp(1e-3, 1 - 1e-3).logit()

    def _starting_scale(self, x: Tensor) -> Tensor:
        """Dispersion that gives the data's variance, clipped to [0.01, 10]."""
        mean, variance = x.mean(0), x.var(0, correction=0)
        most = mean * (1 - mean)
        if self.scale_kind == "shared":
            most, variance = most.sum(), variance.sum()
        return (variance / (most - variance).clamp_min(1e-6)).clamp(1e-2, 10.0)


class TruncatedNormal(Scaled):
    r"""Values in [0, 1], ends included: normals of location f(z), truncated to the interval.

    .. math:: p(x \mid z) = \prod_d \frac{N(x_d; f_d(z), s^2)}
        {\Phi((1 - f_d(z)) / s) - \Phi(-f_d(z) / s)}

    Arguments are those of :class:`~pyro_vae.likelihoods.scale.Scaled`.
    """

    def values(self, output: Tensor) -> dist.TorchDistribution:
        """Return the densities of single values."""
        return unit.TruncatedNormal(*self._split(output))

    def _starting_location(self, mean: Tensor, scale: Tensor) -> Tensor:
        def function(t: Tensor) -> Tensor:
            return unit.TruncatedNormal(t, scale.expand(t.shape)).mean

        return solve_increasing(function, mean.clamp(5e-3, 1 - 5e-3), low=-20, high=21)
