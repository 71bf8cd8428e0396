"""Priors of independent latents."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

__all__ = ["ONE", "Laplace", "LearnedNormal", "StandardNormal", "StudentT"]

ONE = 0.541324854612918  # softplus(ONE) = 1


class StandardNormal(nn.Module):
    r""":math:`p(z) = N(z; 0, I)`.

    Args:
        latent_dim: number of latent dimensions.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        """Return p(z)."""
        prior: dist.TorchDistribution = dist.Normal(self.loc, self.scale).to_event(1)
        return prior


class LearnedNormal(nn.Module):
    r"""Learned normal :math:`p(z) = N(z; m, \mathrm{diag}(s^2))`, which starts at N(0, I).

    Args:
        latent_dim: number of latent dimensions.
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(latent_dim))
        self.raw_scale = nn.Parameter(torch.full((latent_dim,), ONE))

    def forward(self) -> dist.TorchDistribution:
        """Return p(z)."""
        normal = dist.Normal(self.loc, softplus(self.raw_scale))
        prior: dist.TorchDistribution = normal.to_event(1)
        return prior


class StudentT(nn.Module):
    r"""Independent Student-t latents :math:`p(z) = \prod_d t_\nu(z_d)`: heavier tails than N(0, I).

    Args:
        latent_dim: number of latent dimensions.
        degrees_of_freedom: degrees of freedom :math:`\nu`; large values come near N(0, I).

    Raises:
        ValueError: degrees of freedom that are not positive.
    """

    degrees: Tensor
    loc: Tensor

    def __init__(self, latent_dim: int, *, degrees_of_freedom: float = 5.0) -> None:
        super().__init__()
        if not degrees_of_freedom > 0:
            raise ValueError(f"degrees_of_freedom must be positive; got {degrees_of_freedom}.")
        degrees = torch.tensor(float(degrees_of_freedom))
        self.register_buffer("degrees", degrees, persistent=False)
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        """Return p(z)."""
        latents = dist.StudentT(self.degrees, self.loc, torch.ones_like(self.loc))
        prior: dist.TorchDistribution = latents.to_event(1)
        return prior


class Laplace(nn.Module):
    r"""Independent Laplace latents :math:`p(z) \propto \exp(-\sqrt 2 \sum_d |z_d|)`, variance one.

    Args:
        latent_dim: number of latent dimensions.
    """

    loc: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        """Return p(z)."""
        latents = dist.Laplace(self.loc, torch.full_like(self.loc, 0.5**0.5))
        prior: dist.TorchDistribution = latents.to_event(1)
        return prior
