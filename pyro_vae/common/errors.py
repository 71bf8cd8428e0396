"""The package's own errors and warnings."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

__all__ = [
    "CheckpointError",
    "Interrupted",
    "NonFiniteLoss",
    "NotEnoughMemory",
    "PyroVAEWarning",
    "UnreliableEvidence",
    "warn",
]

_PACKAGE = str(Path(__file__).parents[1])


class PyroVAEWarning(UserWarning):
    """Base class of every warning of this package."""


class UnreliableEvidence(PyroVAEWarning):
    """Estimates of log p(x) whose error bars cannot be trusted."""


class CheckpointError(ValueError):
    """A checkpoint or run folder that cannot be read or does not fit."""


class NonFiniteLoss(FloatingPointError):
    """Training met a NaN or infinite loss; the message names the step and the cause."""


class NotEnoughMemory(MemoryError):
    """A computation that does not fit into memory; says how much it needs and how much there is."""


class Interrupted(KeyboardInterrupt):
    """Training was stopped by a signal after it had saved its state."""


def warn(message: str, category: type[PyroVAEWarning] = PyroVAEWarning) -> None:
    """Warn at the line of the caller's own code that called this package."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and _is_ours(frame.f_code.co_filename):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def _is_ours(file: str) -> bool:
    """Whether a frame is of this package, or of what stands between it and its caller."""
    return file.startswith(_PACKAGE) or file.endswith(("contextlib.py", "_contextlib.py"))
