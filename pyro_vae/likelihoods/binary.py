"""Likelihoods of bits and of values between 0 and 1."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor

from ..distributions import densities
from ..distributions.special import solve_increasing
from .base import Likelihood

__all__ = ["Bernoulli", "ContinuousBernoulli"]


class Bernoulli(Likelihood):
    r"""Independent bits :math:`p(x \mid z) = \prod_d p_d^{x_d} (1 - p_d)^{1 - x_d}`, 0/1 data.

    Arguments are those of :class:`Likelihood`; ``network`` gives logits ``(*, *event_shape)``.
    """

    def values(self, output: Tensor) -> dist.TorchDistribution:
        """Return the distributions of single bits."""
        return densities.Bernoulli(logits=output)

    def starting_output(self, x: Tensor) -> Tensor:
        """Logit of the data's mean, clipped to [0.001, 0.999]."""
        return x.mean(0).clamp(1e-3, 1 - 1e-3).logit()


class ContinuousBernoulli(Likelihood):
    r"""Density :math:`p(x \mid z) \propto \prod_d p_d^{x_d} (1 - p_d)^{1 - x_d}` on [0, 1].

    The Bernoulli likelihood of gray values in [0, 1] is not a density; this one has the normalizing
    constant, :math:`2 \tanh^{-1}(1 - 2p) / (1 - 2p)` for each value. Arguments are those of
    :class:`Bernoulli`.

    References:
        Loaiza-Ganem and Cunningham (2019). https://arxiv.org/abs/1907.06845
    """

    def values(self, output: Tensor) -> dist.TorchDistribution:
        """Return the densities of single values."""
        return densities.ContinuousBernoulli(logits=output)

    def starting_output(self, x: Tensor) -> Tensor:
        """Logits at which the distribution's mean is the data's, clipped to [0.02, 0.98]."""
        mean = x.mean(0).clamp(0.02, 0.98)
        return solve_increasing(lambda t: self.values(t).mean, mean, low=-100, high=100)
