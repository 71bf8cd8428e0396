"""Neural networks between event shapes, for the encoder and the decoder."""

from .base import ACTIVATIONS, Network
from .conv import ConvDecoder, ConvEncoder
from .dense import MLP, GatedMLP
from .joint import Joint
from .registry import NETWORKS, NetworkKind, build_network
from .residual import ResidualDecoder, ResidualEncoder

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "NETWORKS",
    "ConvDecoder",
    "ConvEncoder",
    "GatedMLP",
    "Joint",
    "Network",
    "NetworkKind",
    "ResidualDecoder",
    "ResidualEncoder",
    "build_network",
]
