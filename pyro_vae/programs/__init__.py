"""A pair of Pyro programs, model and guide: its traces, its densities per datum, its data."""

from .masks import Masked
from .module import ProgramModule
from .pair import Pair
from .stored import as_program

__all__ = ["Masked", "Pair", "ProgramModule", "as_program"]
