"""A pair of Pyro programs, model and guide: its traces, its densities per datum, its forms."""

from .masked import Masked
from .module import ProgramModule
from .pair import Program
from .stored import as_program

__all__ = ["Masked", "Program", "ProgramModule", "as_program"]
