"""Posteriors beyond the normal ones: an inverse autoregressive flow, and two stochastic layers."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor

from ..distributions.base import bound
from ..distributions.flows import FlowDistribution, FlowTransform
from ..distributions.vectors import BlockAutoregressive
from ..networks import MLP, MakesNetwork
from .base import Posterior, diagonal_normal

__all__ = ["FlowPosterior", "HierarchicalPosterior"]


class FlowPosterior(Posterior):
    r"""Inverse autoregressive flow, :math:`z = f(\mu(x) + \sigma(x) \epsilon; h(x))`.

    Autoregressive transforms f, conditioned on features h of x, change draws of a diagonal normal,
    near which the flow starts. A draw with its density takes one parallel pass; the density of any
    other z is exact, too, and takes one pass for each dimension. ``mean`` is the image of
    :math:`\mu`, a central point: the flow's mean has no closed form.

    Args:
        network: maps x of shape ``(*, *event_shape)`` to ``(*, 3, latent_dim)``: the means, the raw
            scales and h.
        latent_dim: number of latent dimensions.
        transforms: number of autoregressive transforms.
        width: width of each one's two hidden layers.

    Raises:
        ValueError: a size less than one.
        ImportError: zuko is not installed.

    References:
        Kingma et al. (2016). https://arxiv.org/abs/1606.04934
    """

    def __init__(
        self, network: MakesNetwork, latent_dim: int, *, transforms: int = 2, width: int = 128
    ) -> None:
        super().__init__(network, latent_dim, rows=3)
        self.flow = FlowTransform(
            latent_dim, context=latent_dim, transforms=transforms, width=width
        )

    def distribution(self, output: Tensor) -> dist.TorchDistribution:
        """Return q(z|x), batch shape ``(*,)``, event shape ``(latent_dim,)``."""
        base = diagonal_normal(output[..., :2, :])
        return FlowDistribution(base, *self.flow.maps(output[..., 2, :]))


class HierarchicalPosterior(Posterior):
    r"""Two stochastic layers in one vector, :math:`q(z \mid x) = q(z_2 \mid x) q(z_1 \mid x, z_2)`.

    :math:`z = [z_2, z_1]`, the top layer first, as in the ``hierarchical`` prior; both factors are
    diagonal normals. The means and raw scales of :math:`z_1` are those of the encoder plus the
    output of a small network of :math:`z_2` and features of x. ``mean`` is the mean of :math:`z_2`
    and the mean of :math:`z_1` given it. Unlike the program ``top-down``, which has a site for each
    layer, this is a part of any program with one z, with any prior and likelihood.

    Args:
        network: maps x of shape ``(*, *event_shape)`` to ``(*, 3, latent_dim)``: the means, the raw
            scales and features of x.
        latent_dim: number of latent dimensions, both layers together.
        top: number of dimensions of :math:`z_2`; by default half.
        width: width of the small network's hidden layer.

    Raises:
        ValueError: fewer than two latent dimensions, or a layer without one.

    References:
        Tomczak and Welling (2018), section 4. https://arxiv.org/abs/1705.07120
    """

    def __init__(
        self, network: MakesNetwork, latent_dim: int, *, top: int | None = None, width: int = 100
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

    def distribution(self, output: Tensor) -> dist.TorchDistribution:
        """Return q(z|x), batch shape ``(*,)``, event shape ``(latent_dim,)``."""
        normal, features = output[..., :2, :], output[..., 2, :]
        top, bottom = normal.split([self.top, self.bottom], -1)
        network = bound(self.conditional)

        def conditional(z2: Tensor) -> dist.TorchDistribution:
            batch_shape = torch.broadcast_shapes(z2.shape[:-1], features.shape[:-1])
            joined = torch.cat([x.expand(*batch_shape, -1) for x in (features, z2)], -1)
            return diagonal_normal(bottom + network(joined))

        return BlockAutoregressive(diagonal_normal(top), conditional, size=self.bottom)
