"""Neural networks between event shapes, for the encoder and the decoder."""

from typing import NamedTuple

from .amortized import Amortized, MakesNetwork
from .base import ACTIVATIONS, Network
from .conv import ConvDecoder, ConvEncoder, ResidualDecoder, ResidualEncoder
from .dense import MLP, GatedMLP
from .joint import Joint

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "NETWORKS",
    "Amortized",
    "ConvDecoder",
    "ConvEncoder",
    "GatedMLP",
    "Joint",
    "MakesNetwork",
    "Network",
    "NetworkKind",
    "ResidualDecoder",
    "ResidualEncoder",
]


class NetworkKind(NamedTuple):
    """Encoder and decoder class of one kind of network; one class if both directions are alike."""

    encoder: type[Network]
    decoder: type[Network]


NETWORKS: dict[str, NetworkKind] = {
    "mlp": NetworkKind(MLP, MLP),
    "gated": NetworkKind(GatedMLP, GatedMLP),
    "conv": NetworkKind(ConvEncoder, ConvDecoder),
    "residual": NetworkKind(ResidualEncoder, ResidualDecoder),
}
