"""Approximate posteriors q(z|x): modules that own the encoder and return a Pyro distribution."""

from .flow import FlowPosterior
from .hierarchical import HierarchicalPosterior
from .normal import DiagonalNormal, FullNormal, LowRankNormal
from .registry import POSTERIORS, build_posterior, posterior_network_shape

__all__ = [
    "POSTERIORS",
    "DiagonalNormal",
    "FlowPosterior",
    "FullNormal",
    "HierarchicalPosterior",
    "LowRankNormal",
    "build_posterior",
    "posterior_network_shape",
]
