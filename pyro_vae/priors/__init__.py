"""Priors p(z): modules that return a Pyro distribution over z, event shape ``(latent_dim,)``.

Each takes ``latent_dim``, the number of latent dimensions, first.
"""

from torch import nn

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
