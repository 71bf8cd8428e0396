"""Pyro programs as compiled functions."""

from .functions import compile_function, quietly, reason, state_of
from .hoisted import HoistedFunction
from .products import onednn_is_faster
from .step import CompiledGradients, CompiledStep, Gradients

__all__ = [
    "CompiledGradients",
    "CompiledStep",
    "Gradients",
    "HoistedFunction",
    "compile_function",
    "onednn_is_faster",
    "quietly",
    "reason",
    "state_of",
]
