"""What all posteriors share: a network whose output has rows of the latent vector's size."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import softplus

from ..networks import Amortized, MakesNetwork

__all__ = ["Posterior", "diagonal_normal", "positive_scale"]

_LEAST_SCALE = 1e-5


class Posterior(Amortized):
    """Base of posteriors q(z|x), distributions over vectors of event shape ``(latent_dim,)``.

    Args:
        network: maps its inputs, x of shape ``(*, *event_shape)`` and whatever else it takes, to
            ``(*, rows, latent_dim)``; or a function that makes such a network from its output shape
            ``(rows, latent_dim)``.
        latent_dim: number of latent dimensions D; ``None`` for what the network gives.
        rows: number of rows.

    Raises:
        ValueError: fewer than one latent dimension.
    """

    def __init__(self, network: MakesNetwork, latent_dim: int | None, *, rows: int) -> None:
        if latent_dim is not None and latent_dim < 1:
            raise ValueError(f"latent_dim must be at least 1; got {latent_dim}.")
        super().__init__(network, (rows, -1 if latent_dim is None else latent_dim))
        self.latent_dim = latent_dim

    def output(self, *inputs: Tensor) -> Tensor:
        """Return the network's output, at least in single precision."""
        output = super().output(*inputs)
        # Under autocast, networks give half precision, too coarse for a density.
        return output.to(torch.promote_types(output.dtype, torch.float32))


def diagonal_normal(parameters: Tensor) -> dist.TorchDistribution:
    """Normal whose means and raw scales are the two rows of ``(*, 2, D)``."""
    loc, raw_scale = parameters.unbind(-2)
    return dist.Normal(loc, positive_scale(raw_scale)).to_event(1)


def positive_scale(raw: Tensor) -> Tensor:
    """Positive scale with a floor, so that a collapsing scale still gives a density."""
    return _LEAST_SCALE + softplus(raw)
