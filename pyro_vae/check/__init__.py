"""Checks of a model against data, and of a guide against the model."""

from .calibration import Calibration, calibration
from .predictive import Check, Predictive, predictive
from .statistics import default_statistics
from .uniformity import Uniformity

__all__ = [
    "Calibration",
    "Check",
    "Predictive",
    "Uniformity",
    "calibration",
    "default_statistics",
    "predictive",
]
