"""Priors p(z): modules that return a Pyro distribution over z, event shape ``(latent_dim,)``."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from ..common.registry import build, lookup
from .factorized import Fixed, Laplace, LearnedNormal, StandardNormal, StudentT
from .mixtures import ExemplarPrior, MixtureOfNormals, VampPrior
from .structured import FlowPrior, HierarchicalPrior

__all__ = [
    "PRIORS",
    "ExemplarPrior",
    "Fixed",
    "FlowPrior",
    "HierarchicalPrior",
    "Laplace",
    "LearnedNormal",
    "MixtureOfNormals",
    "StandardNormal",
    "StudentT",
    "VampPrior",
    "build_prior",
]

PRIORS: dict[str, type[nn.Module]] = {
    "normal": StandardNormal,
    "diagonal": LearnedNormal,
    "student-t": StudentT,
    "laplace": Laplace,
    "mixture": MixtureOfNormals,
    "vamp": VampPrior,
    "exemplar": ExemplarPrior,
    "flow": FlowPrior,
    "hierarchical": HierarchicalPrior,
}


def build_prior(
    name: str,
    latent_dim: int,
    *,
    posterior: nn.Module | None = None,
    event_shape: tuple[int, ...] | None = None,
    **options: Any,
) -> nn.Module:
    """Build a prior by name.

    Args:
        name: a key of ``PRIORS``.
        latent_dim: number of latent dimensions.
        posterior: the model's q(z|x), for the priors that are made of it.
        event_shape: shape of one datum, likewise.
        options: further keyword arguments of the prior's constructor.

    Raises:
        ValueError: an unknown prior, or an option which that prior has not.
    """
    takes = inspect.signature(lookup("prior", name, PRIORS)).parameters
    context = {"posterior": posterior, "event_shape": event_shape}
    context = {key: value for key, value in context.items() if key in takes}
    missing = [key for key, value in context.items() if value is None]
    if missing:
        raise ValueError(
            f"prior {name!r} is made of the model's {' and '.join(missing)}, a posterior of the "
            "data alone, and this program has none to give (a VAE and the top-down form have one); "
            "take another prior, or another program."
        )
    return build("prior", name, PRIORS, latent_dim, *context.values(), **options)
