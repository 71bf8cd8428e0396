"""Normal posteriors: diagonal, full and low-rank covariance."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor

from ..distributions import vectors
from ..networks import MakesNetwork
from .base import Posterior, diagonal_normal, positive_scale

__all__ = ["DiagonalNormal", "FullNormal", "LowRankNormal"]

_LARGEST_FACTOR = 30.0


class DiagonalNormal(Posterior):
    r""":math:`q(z \mid x) = N(z; \mu(x), \mathrm{diag}(\sigma(x)^2))`.

    :math:`\sigma = 10^{-5} + \mathrm{softplus}(\cdot)`, so that a collapsing scale still gives a
    density. Arguments are those of :class:`Posterior`; ``network`` gives ``(*, 2, latent_dim)``,
    the means and then the raw scales.

    References:
        Kingma and Welling (2014). https://arxiv.org/abs/1312.6114
    """

    def __init__(self, network: MakesNetwork, latent_dim: int | None = None) -> None:
        super().__init__(network, latent_dim, rows=2)

    def distribution(self, output: Tensor) -> dist.TorchDistribution:
        """Return q(z|x), batch shape ``(*,)``, event shape ``(latent_dim,)``."""
        return diagonal_normal(output)


class FullNormal(Posterior):
    r"""Normal with any covariance, :math:`q(z \mid x) = N(z; \mu, L L^T)`.

    :math:`L = \mathrm{diag}(s) (I + N)` with N strictly lower triangular: :math:`s_i` is the
    standard deviation of :math:`z_i` given those before it, so that a collapsing scale shrinks its
    whole row and solving for L stays accurate. N is :math:`D^{-1/2}` times the network's output.

    Arguments are those of :class:`Posterior`; ``network`` gives ``(*, 1 + latent_dim,
    latent_dim)``, the means and then a matrix with the raw scales on its diagonal and N below it,
    of which the upper triangle is not used.

    References:
        Kingma and Welling (2019), section 2.5.1. https://arxiv.org/abs/1906.02691
    """

    def __init__(self, network: MakesNetwork, latent_dim: int) -> None:
        super().__init__(network, latent_dim, rows=1 + latent_dim)

    def distribution(self, output: Tensor) -> dist.TorchDistribution:
        """Return q(z|x), batch shape ``(*,)``, event shape ``(latent_dim,)``."""
        loc, matrix = output[..., 0, :], output[..., 1:, :]
        scale = positive_scale(matrix.diagonal(dim1=-2, dim2=-1))
        below = matrix.tril(-1) * matrix.shape[-1] ** -0.5
        scale_tril = torch.diag_embed(scale) + scale.unsqueeze(-1) * below
        return dist.MultivariateNormal(loc, scale_tril=scale_tril)


class LowRankNormal(Posterior):
    r"""Normal with a diagonal plus low-rank covariance, :math:`N(z; \mu, S (I + F F^T) S)`.

    S is diagonal and F of shape ``(latent_dim, rank)``. F is in units of S, so that the formulas
    for the density stay accurate when S collapses, and bounded by 30, so that :math:`I + F^T F` has
    a Cholesky factor in float32.

    Arguments are those of :class:`Posterior`, and ``rank``, the number of columns of F; ``network``
    gives ``(*, 2 + rank, latent_dim)``: the means, the raw scales S, then the columns of F.

    Raises:
        ValueError: a rank less than one.

    References:
        Ong, Nott and Smith (2018). https://arxiv.org/abs/1701.03208
    """

    def __init__(self, network: MakesNetwork, latent_dim: int, *, rank: int = 2) -> None:
        if rank < 1:
            raise ValueError(f"rank must be at least 1; got {rank}. Without it, use 'normal'.")
        super().__init__(network, latent_dim, rows=2 + rank)

    def distribution(self, output: Tensor) -> dist.TorchDistribution:
        """Return q(z|x), batch shape ``(*,)``, event shape ``(latent_dim,)``."""
        loc, raw_scale = output[..., :2, :].unbind(-2)
        scale = positive_scale(raw_scale)
        columns = _LARGEST_FACTOR * (output[..., 2:, :] / _LARGEST_FACTOR).tanh()
        return vectors.LowRankNormal(
            loc, cov_factor=scale.unsqueeze(-1) * columns.mT, cov_diag=scale.square()
        )
