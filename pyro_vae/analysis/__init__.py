"""What a trained model does with its latents, and with data: codes, reconstructions, collapse."""

from .encoding import Encoding, Reconstruction, encode, reconstruct
from .latents import (
    ActiveUnits,
    Gaps,
    Rate,
    active_units,
    inference_gaps,
    kl_per_dimension,
    rate,
)
from .monitoring import collapse

__all__ = [
    "ActiveUnits",
    "Encoding",
    "Gaps",
    "Rate",
    "Reconstruction",
    "active_units",
    "collapse",
    "encode",
    "inference_gaps",
    "kl_per_dimension",
    "rate",
    "reconstruct",
]
