"""Figures of data, latent spaces, training and evidence, from plain arrays or tensors.

Every function has a default ``title`` (an empty one leaves it out) and raises ``ValueError`` for
input that is empty, ragged, not finite or of another shape than documented. Pictures are
``(*, H, W)``, ``(*, 1, H, W)``, ``(*, 3, H, W)`` or ``(*, D)``, D a square of at least 16; they are
clipped to [0, 1].
"""

from .charts import comparison, evidence_diagnostics, latent_space, learning_curves
from .checks import calibration_curves, predictive_checks
from .pictures import are_pictures, images, interpolation, manifold, picture_rows, reconstructions
from .style import Figure, save
from .tables import marginals
from .values import evidence_by_value

__all__ = [
    "Figure",
    "are_pictures",
    "calibration_curves",
    "comparison",
    "evidence_by_value",
    "evidence_diagnostics",
    "images",
    "interpolation",
    "latent_space",
    "learning_curves",
    "manifold",
    "marginals",
    "picture_rows",
    "predictive_checks",
    "reconstructions",
    "save",
]
