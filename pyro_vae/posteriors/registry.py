"""Posteriors by name."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..common.registry import check_options, lookup
from .flow import FlowPosterior
from .hierarchical import HierarchicalPosterior
from .normal import DiagonalNormal, FullNormal, LowRankNormal

__all__ = ["POSTERIORS", "build_posterior", "posterior_network_shape"]

POSTERIORS: dict[str, type[nn.Module]] = {
    "normal": DiagonalNormal,
    "full": FullNormal,
    "low-rank": LowRankNormal,
    "flow": FlowPosterior,
    "hierarchical": HierarchicalPosterior,
}


def build_posterior(name: str, network: nn.Module, latent_dim: int, **options: Any) -> nn.Module:
    """Build a posterior by name.

    Args:
        name: a key of ``POSTERIORS``.
        network: the encoder, with an output of shape :func:`posterior_network_shape`.
        latent_dim: number of latent dimensions.
        options: keyword arguments of the posterior's constructor.

    Raises:
        ValueError: an unknown posterior, or an option which that posterior has not.
    """
    posterior: nn.Module = _checked(name, options)(network, latent_dim, **options)
    return posterior


def posterior_network_shape(name: str, latent_dim: int, **options: Any) -> tuple[int, ...]:
    """Return the shape that the output of a posterior's network must have.

    Args:
        name: a key of ``POSTERIORS``.
        latent_dim: number of latent dimensions.
        options: keyword arguments of the posterior's constructor.

    Raises:
        ValueError: an unknown posterior, or an option which that posterior has not.
    """
    shape: tuple[int, ...] = _checked(name, options).network_shape(latent_dim, **options)
    return shape


def _checked(name: str, options: dict[str, Any]) -> Any:
    """Class of a posterior that has these options."""
    kind = lookup("posterior", name, POSTERIORS)
    check_options("posterior", name, kind, options)
    return kind
