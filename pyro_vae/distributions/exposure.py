"""Counts under an exposure: the same rate over a longer time, a larger area, a deeper library."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from . import masses

__all__ = ["exposed"]


@singledispatch
def exposed(counts: Any, exposure: Tensor) -> Any:
    r"""Return the distribution of counts whose mean is :math:`e \, m`, for one whose mean is m.

    A negative binomial keeps its dispersion, and an inflation of zeros its gate: an exposure scales
    the rate alone. Another distribution of counts takes part by
    ``exposed.register(Kind)(function)``.

    Args:
        counts: Poisson or negative binomial, zero-inflated or not, of the package, of torch or of
            Pyro; or several of them as one event.
        exposure: e, positive, of a shape that broadcasts with the batch shape.

    Raises:
        TypeError: a distribution without a rate.
    """
    raise TypeError(
        f"{type(counts).__name__} has no rate that an exposure could scale; use a likelihood of "
        "counts: poisson, negative-binomial, or one of their zero-inflated forms."
    )


@exposed.register(torch.distributions.Independent)
def _independent(counts: Any, exposure: Tensor) -> Any:
    number = counts.reinterpreted_batch_ndims
    inner = exposure.reshape(exposure.shape + (1,) * number)
    return exposed(counts.base_dist, inner).to_event(number)


@exposed.register(masses.Poisson)
def _poisson(counts: Any, exposure: Tensor) -> Any:
    return masses.Poisson(exposure * counts.rate)


@exposed.register(masses.NegativeBinomial)
def _negative_binomial(counts: Any, exposure: Tensor) -> Any:
    return masses.NegativeBinomial(exposure * counts.rate, counts.dispersion)


@exposed.register(masses.ZeroInflated)
def _zero_inflated(counts: Any, exposure: Tensor) -> Any:
    return masses.ZeroInflated(exposed(counts.base_dist, exposure), counts.gate_logits)


@exposed.register(torch.distributions.Poisson)
def _poisson_of_torch(counts: Any, exposure: Tensor) -> Any:
    return dist.Poisson(exposure * counts.rate)


@exposed.register(torch.distributions.NegativeBinomial)
def _negative_binomial_of_torch(counts: Any, exposure: Tensor) -> Any:
    return dist.NegativeBinomial(counts.total_count, logits=counts.logits + exposure.log())


@exposed.register(dist.GammaPoisson)
def _gamma_poisson(counts: Any, exposure: Tensor) -> Any:
    return dist.GammaPoisson(counts.concentration, counts.rate / exposure)


@exposed.register(dist.ZeroInflatedDistribution)
def _zero_inflated_of_pyro(counts: Any, exposure: Tensor) -> Any:
    inner = exposed(counts.base_dist, exposure)
    return dist.ZeroInflatedDistribution(inner, gate_logits=counts.gate_logits)
