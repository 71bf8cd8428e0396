"""Approximate posteriors q(z|x): modules that own the encoder and return a Pyro distribution."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor, nn
from torch.nn.functional import softplus

__all__ = ["POSTERIORS", "DiagonalNormal"]

_LEAST_SCALE = 1e-5


class DiagonalNormal(nn.Module):
    r""":math:`q(z \mid x) = N(z; \mu(x), \mathrm{diag}(\sigma(x)^2))`.

    :math:`\sigma = 10^{-5} + \mathrm{softplus}(\cdot)`, so that a collapsing scale stays a density.

    Args:
        network: maps x of shape ``(*, *event_shape)`` to ``(*, 2, latent_dim)``: the means, then
            the raw scales.
    """

    outputs_per_latent = 2

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> dist.TorchDistribution:
        """Return q(z|x), batch shape ``(*,)``, event shape ``(latent_dim,)``."""
        loc, raw_scale = self.network(x).unbind(-2)
        scale = _LEAST_SCALE + softplus(raw_scale)
        posterior: dist.TorchDistribution = dist.Normal(loc, scale).to_event(1)
        return posterior


POSTERIORS: dict[str, type[DiagonalNormal]] = {"normal": DiagonalNormal}
