"""Pyro programs as compiled functions."""

from .functions import attempt, compile_function, state_of
from .hoisted import HoistedFunction
from .recorded import Recorded
from .step import CompiledGradients, CompiledStep, Gradients

__all__ = [
    "CompiledGradients",
    "CompiledStep",
    "Gradients",
    "HoistedFunction",
    "Recorded",
    "attempt",
    "compile_function",
    "state_of",
]
