"""A posterior by an inverse autoregressive flow."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor, nn

from ..distributions.flows import FlowDistribution, FlowTransform
from .base import AmortizedPosterior, positive_scale

__all__ = ["FlowPosterior"]


class FlowPosterior(AmortizedPosterior):
    r"""Inverse autoregressive flow, :math:`z = f(\mu(x) + \sigma(x) \epsilon; h(x))`.

    Autoregressive transforms f, conditioned on features h of x, change draws of a diagonal normal.
    A draw and its density take one parallel pass; the density of any other z is exact, too, and
    takes one pass for each dimension. Starts near the diagonal normal. ``mean`` is the image of
    :math:`\mu`, a central point: the flow's mean has no closed form.

    Args:
        network: maps x of shape ``(*, *event_shape)`` to ``(*, 3, latent_dim)``: the means, the raw
            scales and h.
        latent_dim: number of latent dimensions.
        transforms: number of autoregressive transforms.
        width: width of the two hidden layers of each.

    Raises:
        ValueError: a size less than one.
        ImportError: zuko is not installed.

    References:
        Kingma et al. (2016). https://arxiv.org/abs/1606.04934
    """

    def __init__(
        self, network: nn.Module, latent_dim: int, *, transforms: int = 2, width: int = 128
    ) -> None:
        super().__init__(network, latent_dim, rows=3)
        self.flow = FlowTransform(
            latent_dim, context=latent_dim, transforms=transforms, width=width
        )

    @classmethod
    def network_shape(
        cls, latent_dim: int, *, transforms: int = 2, width: int = 128
    ) -> tuple[int, int]:
        """Return the shape that the network's output must have, whatever the options."""
        return 3, latent_dim

    def forward(self, *inputs: Tensor) -> dist.TorchDistribution:
        """Return q(z|x), batch shape ``(*,)``, event shape ``(latent_dim,)``."""
        loc, raw_scale, context = self.network_output(*inputs).unbind(-2)
        base = dist.Normal(loc, positive_scale(raw_scale)).to_event(1)
        return FlowDistribution(base, *self.flow.maps(context))
