"""Distributions of Pyro's kind that priors, posteriors and likelihoods are made of."""

from .flows import FLOWS, FlowDistribution, FlowKind, FlowTransform
from .mixtures import BlockAutoregressive, LastDraw, NormalMixture, bound

__all__ = [
    "FLOWS",
    "BlockAutoregressive",
    "FlowDistribution",
    "FlowKind",
    "FlowTransform",
    "LastDraw",
    "NormalMixture",
    "bound",
]
