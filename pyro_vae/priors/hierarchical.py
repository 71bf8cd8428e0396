"""A two-layer prior over one latent vector."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..distributions.mixtures import BlockAutoregressive
from ..networks import MLP
from ..posteriors import DiagonalNormal

__all__ = ["HierarchicalPrior"]


class HierarchicalPrior(nn.Module):
    r"""Two stochastic layers in one vector, :math:`p(z) = N(z_2; 0, I) \, p(z_1 \mid z_2)`.

    :math:`z = [z_2, z_1]`, the top layer first, and :math:`p(z_1 \mid z_2)` a diagonal normal whose
    means and scales a network makes of :math:`z_2`. The decoder sees both layers, as in the
    two-layer model of Tomczak and Welling; its natural posterior is ``hierarchical``, and any other
    serves.

    Args:
        latent_dim: number of latent dimensions, both layers together.
        top: of these, the dimensions of the top layer; by default half.
        width: width of the network's hidden layer.

    Raises:
        ValueError: fewer than two latent dimensions, or a layer without one.

    References:
        Tomczak and Welling (2018). https://arxiv.org/abs/1705.07120
    """

    loc: Tensor

    def __init__(self, latent_dim: int, *, top: int | None = None, width: int = 100) -> None:
        super().__init__()
        top = latent_dim // 2 if top is None else top
        if not 0 < top < latent_dim:
            raise ValueError(
                f"both layers need a dimension: top must be between 1 and latent_dim - 1 = "
                f"{latent_dim - 1}; got {top}."
            )
        self.register_buffer("loc", torch.zeros(top), persistent=False)
        self.size = latent_dim - top
        shape = DiagonalNormal.network_shape(self.size)
        self.conditional = DiagonalNormal(MLP((top,), shape, hidden=(width,)))

    def forward(self) -> dist.TorchDistribution:
        """Return p(z)."""
        top = dist.Normal(self.loc, torch.ones_like(self.loc)).to_event(1)
        return BlockAutoregressive(top, self.conditional, size=self.size)
