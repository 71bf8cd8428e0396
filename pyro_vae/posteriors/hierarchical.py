"""A posterior in two stochastic layers."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..distributions.mixtures import BlockAutoregressive, bound
from ..networks import MLP
from .base import AmortizedPosterior, positive_scale

__all__ = ["HierarchicalPosterior"]


class HierarchicalPosterior(AmortizedPosterior):
    r"""Two stochastic layers in one vector, :math:`q(z \mid x) = q(z_2 \mid x) q(z_1 \mid x, z_2)`.

    :math:`z = [z_2, z_1]`, the top layer first, as in the ``hierarchical`` prior; both factors are
    diagonal normals. The means and raw scales of :math:`z_1` are those of the encoder plus what a
    small network makes of :math:`z_2` and features of x. ``mean`` is the mean of :math:`z_2`, and
    that of :math:`z_1` there.

    Args:
        network: maps x of shape ``(*, *event_shape)`` to ``(*, 3, latent_dim)``: the means, the raw
            scales and features of x.
        latent_dim: number of latent dimensions, both layers together.
        top: of these, the dimensions of :math:`z_2`; by default half.
        width: width of the small network's hidden layer.

    Raises:
        ValueError: fewer than two latent dimensions, or a layer without one.

    References:
        Tomczak and Welling (2018), section 4. https://arxiv.org/abs/1705.07120
    """

    def __init__(
        self, network: nn.Module, latent_dim: int, *, top: int | None = None, width: int = 100
    ) -> None:
        super().__init__(network, latent_dim, rows=3)
        self.top = latent_dim // 2 if top is None else top
        if not 0 < self.top < latent_dim:
            raise ValueError(
                "both layers need a dimension: top must be between 1 and latent_dim - 1 = "
                f"{latent_dim - 1}; got {self.top}."
            )
        self.bottom = latent_dim - self.top
        self.conditional = MLP((latent_dim + self.top,), (2, self.bottom), hidden=(width,))

    @classmethod
    def network_shape(
        cls, latent_dim: int, *, top: int | None = None, width: int = 100
    ) -> tuple[int, int]:
        """Return the shape that the network's output must have, whatever the options."""
        return 3, latent_dim

    def forward(self, *inputs: Tensor) -> dist.TorchDistribution:
        """Return q(z|x), batch shape ``(*,)``, event shape ``(latent_dim,)``."""
        parameters = self.network_output(*inputs)
        normal, features = parameters[..., :2, :], parameters[..., 2, :]
        top, bottom = normal.split([self.top, self.bottom], -1)
        network = bound(self.conditional)

        def conditional(z2: Tensor) -> dist.TorchDistribution:
            batch_shape = torch.broadcast_shapes(z2.shape[:-1], features.shape[:-1])
            joined = torch.cat([x.expand(*batch_shape, -1) for x in (features, z2)], -1)
            return _diagonal_normal(bottom + network(joined))

        return BlockAutoregressive(_diagonal_normal(top), conditional, size=self.bottom)


def _diagonal_normal(parameters: Tensor) -> dist.TorchDistribution:
    loc, raw_scale = parameters.unbind(-2)
    normal: dist.TorchDistribution = dist.Normal(loc, positive_scale(raw_scale)).to_event(1)
    return normal
