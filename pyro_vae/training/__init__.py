"""Training: SVI with a history, early stopping, and runs that can be killed and resumed."""

from . import checkpoint
from .fit import fit
from .history import Epoch, History

__all__ = ["Epoch", "History", "checkpoint", "fit"]
