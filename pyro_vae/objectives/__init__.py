"""Objectives of SVI, on Pyro's classes: ELBO, IWAE, Rényi; gradient estimators; KL schedules."""

from .base import Objective
from .elbo import ELBO
from .enumeration import EnumeratedELBO
from .importance import IWAE, Renyi
from .registry import OBJECTIVES, build_objective, objective_of
from .schedules import kl_weight

__all__ = [
    "ELBO",
    "IWAE",
    "OBJECTIVES",
    "EnumeratedELBO",
    "Objective",
    "Renyi",
    "build_objective",
    "kl_weight",
    "objective_of",
]
