"""A prior by a normalizing flow."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..distributions.flows import FlowDistribution, FlowKind, FlowTransform

__all__ = ["FlowPrior"]


class FlowPrior(nn.Module):
    r"""Prior :math:`p(z)` by a flow to standard normal noise, :math:`f(z) \sim N(0, I)`.

    The density takes one parallel pass and draws one pass for each dimension (two in all for
    ``"realnvp"``). Starts near :math:`N(0, I)`. With one dimension ``"maf"`` and ``"realnvp"`` are
    normal distributions.

    Args:
        latent_dim: number of latent dimensions.
        kind: ``"maf"``, ``"nsf"`` or ``"realnvp"``; see :class:`FlowTransform`.
        transforms: number of transforms.
        width: width of the two hidden layers of each.

    Raises:
        ValueError: an unknown kind, or a size less than one.
        ImportError: zuko is not installed.

    References:
        Papamakarios et al. (2017). https://arxiv.org/abs/1705.07057
        Huang et al. (2017), flow priors of VAEs. https://arxiv.org/abs/1710.05279
    """

    loc: Tensor
    scale: Tensor

    def __init__(
        self, latent_dim: int, *, kind: FlowKind = "maf", transforms: int = 3, width: int = 128
    ) -> None:
        super().__init__()
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)
        self.flow = FlowTransform(latent_dim, kind=kind, transforms=transforms, width=width)

    def forward(self) -> dist.TorchDistribution:
        """Return p(z)."""
        normalize, generate = self.flow.maps()
        return FlowDistribution(dist.Normal(self.loc, self.scale).to_event(1), generate, normalize)
