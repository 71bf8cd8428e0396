"""Parts of one or several inputs, chosen by the names in a config."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Literal

from torch import nn

from ..config import Config
from ..likelihoods import build_likelihood, likelihood_network_shape
from ..networks import Joint, build_network
from ..posteriors import build_posterior, posterior_network_shape

__all__ = ["decoder_part", "encoder_part", "inner_part", "joint_network", "one_layer"]

Shape = Sequence[int]
Widths = Sequence[int] | None

_DENSE = ("mlp", "gated")


def one_layer(config: Config, program: str) -> None:
    """Check that a config does not ask for two layers of latents.

    Raises:
        ValueError: it does, and ``program`` has one.
    """
    if config.program != "vae" or config.top_dim is not None:
        raise ValueError(
            f"{program} has one layer of latents, but the config says program={config.program!r}, "
            f"top_dim={config.top_dim}; use pv.build_program(config, ...), or leave these out."
        )


def joint_network(
    config: Config,
    role: Literal["encoder", "decoder"],
    in_shapes: Sequence[Shape],
    out_shape: Shape,
) -> nn.Module:
    """Build the config's network, of one input or of several side by side.

    Args:
        config: names the network and gives its widths.
        role: ``"encoder"`` (from data) or ``"decoder"`` (to data, the widths in reverse).
        in_shapes: event shape of each input.
        out_shape: event shape of the output.

    Raises:
        ValueError: an encoder of several inputs that is not fully connected.
    """
    alone = len(in_shapes) == 1
    if not alone and role == "encoder" and config.network not in _DENSE:
        raise ValueError(
            f"network {config.network!r} takes one image, but this encoder has {len(in_shapes)} "
            "inputs; use network='mlp' or 'gated', or build the parts yourself."
        )
    hidden = config.hidden and config.hidden[:: 1 if role == "encoder" else -1]
    return _build(config, config.network, role, in_shapes, out_shape, hidden)


def decoder_part(config: Config, in_shapes: Sequence[Shape], event_shape: Shape) -> nn.Module:
    """Build p(x | inputs), the config's likelihood on its network."""
    options = config.options("likelihood")
    shape = likelihood_network_shape(config.likelihood, tuple(event_shape), **options)
    network = joint_network(config, "decoder", in_shapes, shape)
    return build_likelihood(config.likelihood, network, tuple(event_shape), **options)


def encoder_part(config: Config, in_shapes: Sequence[Shape], latent_dim: int) -> nn.Module:
    """Build q(z | inputs), the config's posterior on its network."""
    options = config.options("posterior")
    shape = posterior_network_shape(config.posterior, latent_dim, **options)
    network = joint_network(config, "encoder", in_shapes, shape)
    return build_posterior(config.posterior, network, latent_dim, **options)


def inner_part(
    config: Config, in_shape: Shape, latent_dim: int, *, hidden: Widths, name: str = "normal"
) -> nn.Module:
    """Build a distribution over latents given a vector, on a fully connected network.

    Args:
        config: names the network, if it is a fully connected one.
        in_shape: event shape of the input.
        latent_dim: number of latent dimensions.
        hidden: widths of the network, from the input on; ``None`` for its own.
        name: a key of ``POSTERIORS``; the config's options are taken with the config's posterior.
    """
    options = config.options("posterior") if name == config.posterior else {}
    shape = posterior_network_shape(name, latent_dim, **options)
    kind = config.network if config.network in _DENSE else "mlp"
    network = _build(config, kind, "encoder", [in_shape], shape, hidden)
    return build_posterior(name, network, latent_dim, **options)


def _build(
    config: Config,
    kind: str,
    role: Literal["encoder", "decoder"],
    in_shapes: Sequence[Shape],
    out_shape: Shape,
    hidden: Widths,
) -> nn.Module:
    alone = len(in_shapes) == 1
    in_shape = in_shapes[0] if alone else (sum(prod(shape) for shape in in_shapes),)
    network = build_network(
        kind, role, in_shape, out_shape, hidden=hidden, activation=config.activation
    )
    return network if alone else Joint(network, *in_shapes)
