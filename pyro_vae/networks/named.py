"""Networks by name, of one input or of several."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Literal, NamedTuple

from torch import nn

from ..common.registry import build, lookup
from .base import Network
from .conv import ConvDecoder, ConvEncoder, ResidualDecoder, ResidualEncoder
from .dense import MLP, GatedMLP
from .joint import Joint, plane_shape

__all__ = ["NETWORKS", "NetworkKind", "Role", "build_network", "is_dense"]

Role = Literal["encoder", "decoder"]


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


def is_dense(kind: str) -> bool:
    """Whether a kind of network takes vectors of any size, and not images alone."""
    return not lookup("network", kind, NETWORKS).encoder.of_images


def build_network(
    kind: str,
    role: Role,
    in_shapes: Sequence[Sequence[int]],
    out_shape: Sequence[int],
    **options: Any,
) -> nn.Module:
    """Build a network by name, of one input or of several (:class:`Joint`).

    Args:
        kind: a key of ``NETWORKS``.
        role: ``"encoder"`` (from data, the first input) or ``"decoder"`` (to data).
        in_shapes: event shape of each input.
        out_shape: event shape of the output.
        options: of the network; those that are ``None`` keep its defaults.

    Raises:
        ValueError: an unknown kind, or an option or a shape that it does not take.
    """
    table = {name: getattr(pair, role) for name, pair in NETWORKS.items()}
    given = {name: value for name, value in options.items() if value is not None}
    first = tuple(in_shapes[0])
    if len(in_shapes) == 1:
        network: nn.Module = build("network", kind, table, first, out_shape, **given)
        return network
    of_images = lookup("network", kind, table).of_images and len(first) > 1
    in_shape = plane_shape(in_shapes) if of_images else (sum(map(prod, in_shapes)),)
    return Joint(build("network", kind, table, in_shape, out_shape, **given), *in_shapes)
