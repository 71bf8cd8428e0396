"""Neural networks between event shapes, for the encoder and the decoder."""

from .amortized import Amortized, MakesNetwork
from .base import ACTIVATIONS, Network
from .cells import CellFeatures, Featured
from .conv import ConvDecoder, ConvEncoder, ResidualDecoder, ResidualEncoder
from .dense import MLP, GatedMLP
from .joint import Joint
from .named import NETWORKS, NetworkKind

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "NETWORKS",
    "Amortized",
    "CellFeatures",
    "ConvDecoder",
    "ConvEncoder",
    "Featured",
    "GatedMLP",
    "Joint",
    "MakesNetwork",
    "Network",
    "NetworkKind",
    "ResidualDecoder",
    "ResidualEncoder",
]
