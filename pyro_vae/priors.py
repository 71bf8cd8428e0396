"""Priors p(z): modules that return a Pyro distribution over z, event shape ``(latent_dim,)``."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from .errors import lookup

__all__ = ["PRIORS", "MixtureOfNormals", "StandardNormal", "build_prior"]


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


class MixtureOfNormals(nn.Module):
    r"""Learned mixture :math:`p(z) = \sum_j \pi_j N(z; m_j, \mathrm{diag}(s_j^2))`.

    Weights start equal, means at draws from :math:`N(0, I)`, scales at one.

    Args:
        latent_dim: number of latent dimensions.
        components: number of components J.
    """

    def __init__(self, latent_dim: int, *, components: int = 20) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(torch.randn(components, latent_dim))
        one = torch.ones(components, latent_dim).expm1().log()  # softplus(one) = 1
        self.raw_scale = nn.Parameter(one)

    def forward(self) -> dist.TorchDistribution:
        """Return p(z)."""
        components = dist.Normal(self.loc, softplus(self.raw_scale)).to_event(1)
        weights = dist.Categorical(logits=self.logits)
        prior: dist.TorchDistribution = dist.MixtureSameFamily(weights, components)
        return prior


PRIORS: dict[str, type[nn.Module]] = {"normal": StandardNormal, "mixture": MixtureOfNormals}


def build_prior(name: str, latent_dim: int, **options: int) -> nn.Module:
    """Build a prior by name.

    Args:
        name: a key of ``PRIORS``.
        latent_dim: number of latent dimensions.
        options: keyword arguments of the prior's constructor.

    Raises:
        ValueError: an unknown prior, or an option which that prior has not.
    """
    kind = lookup("prior", name, PRIORS)
    try:
        return kind(latent_dim, **options)
    except TypeError as error:
        raise ValueError(f"prior {name!r} does not take {', '.join(options)}: {error}.") from error
