"""Training: SVI with a history, early stopping, and runs that survive being killed."""

from . import checkpoint
from .fit import fit
from .history import Epoch, History

__all__ = ["Epoch", "History", "checkpoint", "fit"]
