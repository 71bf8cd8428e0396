"""Approximate posteriors q(z|x): modules that own the encoder and return a Pyro distribution."""

from .base import Posterior
from .normal import DiagonalNormal, FullNormal, LowRankNormal
from .structured import FlowPosterior, HierarchicalPosterior

__all__ = [
    "POSTERIORS",
    "DiagonalNormal",
    "FlowPosterior",
    "FullNormal",
    "HierarchicalPosterior",
    "LowRankNormal",
    "Posterior",
]

POSTERIORS: dict[str, type[Posterior]] = {
    "normal": DiagonalNormal,
    "full": FullNormal,
    "low-rank": LowRankNormal,
    "flow": FlowPosterior,
    "hierarchical": HierarchicalPosterior,
}
