"""The package's own errors and warnings."""

from __future__ import annotations

__all__ = [
    "CheckpointError",
    "Interrupted",
    "NonFiniteLoss",
    "PyroVAEWarning",
    "UnreliableEvidence",
]


class PyroVAEWarning(UserWarning):
    """Base class of every warning of this package."""


class UnreliableEvidence(PyroVAEWarning):
    """Estimates of log p(x) whose error bars cannot be trusted."""


class CheckpointError(ValueError):
    """A checkpoint or run folder that cannot be read or does not fit."""


class NonFiniteLoss(FloatingPointError):
    """Training met a NaN or infinite loss; the message names the step and the cause."""


class Interrupted(KeyboardInterrupt):
    """Training was stopped by a signal after it had saved its state."""
