"""Likelihoods of counts."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
from torch import Tensor
from torch.nn.functional import softplus

from ..distributions import masses
from ..distributions.special import inverse_softplus
from ..networks import MakesNetwork
from .base import Likelihood, whole_number
from .scale import Dispersed

__all__ = ["Binomial", "NegativeBinomial", "Poisson"]

_LEAST_MEAN = 1e-6


class Binomial(Likelihood):
    r"""Counts of successes :math:`P(x \mid z) = \prod_d \binom{n}{x_d} p_d^{x_d} (1-p_d)^{n-x_d}`.

    Arguments are those of :class:`Likelihood` (``network`` gives logits ``(*, *event_shape)``), and
    ``count``, the number of trials n of each value, which is its largest value.
    """

    def __init__(
        self, network: MakesNetwork, event_shape: Sequence[int], *, count: int = 255
    ) -> None:
        super().__init__(network, event_shape)
        self.count = whole_number("count", count, least=1)

    @property
    def description(self) -> str:
        """The likelihood in words, with the number of trials."""
        return f"Binomial of {self.count} trials"

    def values(self, output: Tensor) -> dist.TorchDistribution:
        """Return the mass functions of single values."""
        return masses.Binomial(output.new_full((), self.count), logits=output)

    def starting_output(self, x: Tensor) -> Tensor:
        """Logit of the data's mean proportion, clipped to [0.001, 0.999]."""
        return (x.mean(0) / self.count).clamp(1e-3, 1 - 1e-3).logit()


class Poisson(Likelihood):
    r"""Counts :math:`P(x \mid z) = \prod_d e^{-m_d} m_d^{x_d} / x_d!`.

    The rate is :math:`m = 10^{-6} + \mathrm{softplus}(f(z))`: it grows linearly with the network's
    output, where an exponential would overflow. Arguments are those of :class:`Likelihood`;
    ``network`` gives raw rates ``(*, *event_shape)``.
    """

    def values(self, output: Tensor) -> dist.TorchDistribution:
        """Return the mass functions of single values."""
        return masses.Poisson(_rate(output))

    def starting_output(self, x: Tensor) -> Tensor:
        """Raw rates at which the rates are the data's means, at least 0.001."""
        return _raw_rate(x.mean(0))


class NegativeBinomial(Dispersed):
    r"""Counts with more variance than Poisson's: mean m(z), variance :math:`m + a m^2`.

    The mean is :math:`m = 10^{-6} + \mathrm{softplus}(f(z))`; the Poisson distribution has
    a = 0. Arguments are those of :class:`~pyro_vae.likelihoods.scale.Dispersed`.
    """

    def values(self, output: Tensor) -> dist.TorchDistribution:
        """Return the mass functions of single values."""
        raw_mean, dispersion = self._split(output)
        return masses.NegativeBinomial(_rate(raw_mean), dispersion)

    def _starting_location(self, mean: Tensor, scale: Tensor) -> Tensor:
        return _raw_rate(mean)

    def _starting_scale(self, x: Tensor) -> Tensor:
        """Dispersion that gives the data's variance, clipped to [0.01, 10]."""
        mean = x.mean(0)
        excess = x.var(0, correction=0) - mean
        overall = excess.sum() / mean.square().sum().clamp_min(1e-6)
        each = excess / mean.square().clamp_min(1e-6)
        return (overall if self.scale_kind == "shared" else each).clamp(1e-2, 10.0)


def _rate(raw: Tensor) -> Tensor:
    return _LEAST_MEAN + softplus(raw)


def _raw_rate(mean: Tensor) -> Tensor:
    return inverse_softplus(mean.clamp_min(1e-3) - _LEAST_MEAN)
