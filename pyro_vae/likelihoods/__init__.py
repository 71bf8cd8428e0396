"""Likelihoods p(x|z): modules that own the decoder and return a Pyro distribution over x."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ..common.registry import check_options, lookup
from .base import Likelihood
from .binary import Bernoulli, ContinuousBernoulli
from .counts import Binomial, NegativeBinomial, Poisson
from .levels import Categorical, DiscretizedLogistic, LogisticMixture
from .real import Laplace, Normal, StudentT

__all__ = [
    "LIKELIHOODS",
    "Bernoulli",
    "Binomial",
    "Categorical",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "Laplace",
    "Likelihood",
    "LogisticMixture",
    "NegativeBinomial",
    "Normal",
    "Poisson",
    "StudentT",
    "build_likelihood",
    "likelihood_network_shape",
]

LIKELIHOODS: dict[str, type[Likelihood]] = {
    "bernoulli": Bernoulli,
    "continuous-bernoulli": ContinuousBernoulli,
    "normal": Normal,
    "laplace": Laplace,
    "student-t": StudentT,
    "discretized-logistic": DiscretizedLogistic,
    "logistic-mixture": LogisticMixture,
    "categorical": Categorical,
    "binomial": Binomial,
    "poisson": Poisson,
    "negative-binomial": NegativeBinomial,
}


def build_likelihood(
    name: str, network: nn.Module, event_shape: Sequence[int], **options: float | str
) -> Likelihood:
    """Build a likelihood by name.

    Args:
        name: a key of ``LIKELIHOODS``.
        network: the decoder; its output has the shape that :func:`likelihood_network_shape` gives.
        event_shape: shape of one datum.
        options: keyword arguments of the likelihood's constructor.

    Raises:
        ValueError: an unknown likelihood, an option which that likelihood has not, or a wrong
            value of one.
    """
    kind: type = _checked(name, options)
    likelihood: Likelihood = kind(network, event_shape, **options)
    return likelihood


def likelihood_network_shape(
    name: str, event_shape: Sequence[int], **options: float | str
) -> tuple[int, ...]:
    """Event shape of the output that a likelihood's network must have.

    Args:
        name: a key of ``LIKELIHOODS``.
        event_shape: shape of one datum.
        options: keyword arguments of the likelihood's constructor.

    Raises:
        ValueError: as :func:`build_likelihood`.
    """
    return _checked(name, options).network_shape(event_shape, **options)


def _checked(name: str, options: dict[str, float | str]) -> type[Likelihood]:
    """Return a registered likelihood that has all the options."""
    kind = lookup("likelihood", name, LIKELIHOODS)
    check_options("likelihood", name, kind, options)
    return kind
