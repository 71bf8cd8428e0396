"""Programs of Pyro's examples, tutorials and tests, with their data and their log p(x)."""

from . import examples, hierarchies, sequences, tutorials
from .base import CASES, Brought, Case

__all__ = ["CASES", "Brought", "Case", "examples", "hierarchies", "sequences", "tutorials"]
