"""Pairs of Pyro programs whose log p(x) is known exactly, from the tame to the treacherous."""

from . import boundaries, gaussians, modes, structures, tails
from .base import SITUATIONS, Posed, Situation

__all__ = [
    "SITUATIONS",
    "Posed",
    "Situation",
    "boundaries",
    "gaussians",
    "modes",
    "structures",
    "tails",
]
