"""Networks by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..common.registry import check_options, lookup
from .base import Network
from .conv import ConvDecoder, ConvEncoder
from .dense import MLP, GatedMLP
from .residual import ResidualDecoder, ResidualEncoder

__all__ = ["NETWORKS", "NetworkKind", "build_network"]


@dataclass(frozen=True)
class NetworkKind:
    """The two classes of one kind of network; the same class where direction does not matter."""

    encoder: type[Network]
    decoder: type[Network]


NETWORKS: dict[str, NetworkKind] = {
    "mlp": NetworkKind(MLP, MLP),
    "gated": NetworkKind(GatedMLP, GatedMLP),
    "conv": NetworkKind(ConvEncoder, ConvDecoder),
    "residual": NetworkKind(ResidualEncoder, ResidualDecoder),
}


def build_network(
    name: str,
    role: Literal["encoder", "decoder"],
    in_shape: Sequence[int],
    out_shape: Sequence[int],
    **options: Any,
) -> Network:
    """Build a network by name.

    Args:
        name: a key of ``NETWORKS``.
        role: ``"encoder"`` (from data) or ``"decoder"`` (to data).
        in_shape: event shape of the input.
        out_shape: event shape of the output.
        options: keyword arguments of the network's constructor, such as ``hidden`` (widths from
            the input on) and ``activation``; ``None`` means the network's default.

    Raises:
        ValueError: an unknown network or role, an option which that network has not, or shapes
            that do not suit it.
    """
    kind = lookup("network", name, NETWORKS)
    constructor: Any = lookup("role", role, {"encoder": kind.encoder, "decoder": kind.decoder})
    given = {option: value for option, value in options.items() if value is not None}
    check_options("network", name, constructor, given)
    network: Network = constructor(in_shape, out_shape, **given)
    return network
