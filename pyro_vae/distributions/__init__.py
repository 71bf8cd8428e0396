"""Pyro distributions that priors, posteriors and likelihoods are made of."""

from .base import LastDraw, bound
from .constrained import ConstrainedDistribution
from .exposure import exposed
from .flows import FLOWS, FlowDistribution, FlowKind, FlowTransform
from .vectors import BlockAutoregressive, NormalMixture

__all__ = [
    "FLOWS",
    "BlockAutoregressive",
    "ConstrainedDistribution",
    "FlowDistribution",
    "FlowKind",
    "FlowTransform",
    "LastDraw",
    "NormalMixture",
    "bound",
    "exposed",
]
