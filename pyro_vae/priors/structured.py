"""Priors made of networks: a normalizing flow, and two stochastic layers."""

from __future__ import annotations

import pyro.distributions as dist
from torch import nn

from ..distributions.flows import FlowDistribution, FlowKind, FlowTransform
from ..distributions.vectors import BlockAutoregressive
from ..networks import MLP
from ..posteriors import DiagonalNormal
from .factorized import StandardNormal

__all__ = ["FlowPrior", "HierarchicalPrior"]


class FlowPrior(nn.Module):
    r"""Prior :math:`p(z)` by a flow to standard normal noise, :math:`f(z) \sim N(0, I)`.

    The density takes one parallel pass and draws take one pass for each dimension (two in all for
    ``"realnvp"``). It starts near :math:`N(0, I)`. In one dimension ``"maf"`` and ``"realnvp"`` are
    normal distributions. Arguments and errors are those of
    :class:`~pyro_vae.distributions.flows.FlowTransform`.

    References:
        Papamakarios et al. (2017). https://arxiv.org/abs/1705.07057
        Huang et al. (2017), flow priors of VAEs. https://arxiv.org/abs/1710.05279
    """

    def __init__(
        self, latent_dim: int, *, kind: FlowKind = "maf", transforms: int = 3, width: int = 128
    ) -> None:
        super().__init__()
        self.noise = StandardNormal(latent_dim)
        self.flow = FlowTransform(latent_dim, kind=kind, transforms=transforms, width=width)

    def forward(self) -> dist.TorchDistribution:
        """Return p(z)."""
        normalize, generate = self.flow.maps()
        return FlowDistribution(self.noise(), generate, normalize)


class HierarchicalPrior(nn.Module):
    r"""Two stochastic layers in one vector, :math:`p(z) = N(z_2; 0, I) \, p(z_1 \mid z_2)`.

    :math:`z = [z_2, z_1]`, the top layer first; :math:`p(z_1 \mid z_2)` is a diagonal normal whose
    means and scales a network computes from :math:`z_2`. The decoder sees both layers, as in the
    two-layer model of Tomczak and Welling; the ``hierarchical`` posterior has the same structure,
    and any other works. For the sizes, their errors and the difference from the program
    ``top-down`` see :class:`~pyro_vae.posteriors.HierarchicalPosterior`.

    References:
        Tomczak and Welling (2018). https://arxiv.org/abs/1705.07120
    """

    def __init__(self, latent_dim: int, *, top: int | None = None, width: int = 100) -> None:
        super().__init__()
        top = latent_dim // 2 if top is None else top
        if not 0 < top < latent_dim:
            raise ValueError(
                f"both layers need a dimension: top must be between 1 and latent_dim - 1 = "
                f"{latent_dim - 1}; got {top}."
            )
        self.top, self.size = StandardNormal(top), latent_dim - top
        self.conditional = DiagonalNormal(
            lambda shape: MLP((top,), shape, hidden=(width,)), self.size
        )

    def forward(self) -> dist.TorchDistribution:
        """Return p(z)."""
        return BlockAutoregressive(self.top(), self.conditional, size=self.size)
