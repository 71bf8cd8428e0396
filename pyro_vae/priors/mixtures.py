"""Mixture priors: of learned normals, of posteriors of pseudo-inputs, of normals at exemplars."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ..common.options import Start
from ..distributions.vectors import NormalMixture
from .factorized import ONE

__all__ = ["ExemplarPrior", "MixtureOfNormals", "VampPrior", "mixture"]

_LEAST_SCALE = 1e-3


class MixtureOfNormals(nn.Module):
    r"""Learned mixture :math:`p(z) = \sum_j \pi_j N(z; m_j, \mathrm{diag}(s_j^2))`.

    Weights start equal, means at draws from :math:`N(0, I)`, scales at one. ``components`` is the
    number J of them.
    """

    def __init__(self, latent_dim: int, *, components: int = 20) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(torch.randn(components, latent_dim))
        self.raw_scale = nn.Parameter(torch.full((components, latent_dim), ONE))

    def forward(self) -> dist.TorchDistribution:
        """Return p(z)."""
        return NormalMixture(self.logits, self.loc, softplus(self.raw_scale) + _LEAST_SCALE)


class VampPrior(nn.Module):
    r"""Mixture of posteriors :math:`p(z) = \frac{1}{J} \sum_j q(z \mid u_j)`.

    The pseudo-inputs :math:`u_j` are learned, with the encoder that the prior shares with the
    model. They start at training data or, with ``start="random"``, near the mean of the data. As
    in the paper they are clipped to the data's range, beyond which a value has no gradient: a
    pixel that has become black or white stays so.

    Args:
        latent_dim: number of latent dimensions.
        posterior: the model's q(z|x), of any kind.
        event_shape: shape of one datum.
        components: number of pseudo-inputs J.
        start: ``"data"`` or ``"random"``.

    References:
        Tomczak and Welling (2018). https://arxiv.org/abs/1705.07120
    """

    logits: Tensor
    low: Tensor
    high: Tensor

    def __init__(
        self,
        latent_dim: int,
        posterior: nn.Module,
        event_shape: Sequence[int],
        *,
        components: int = 500,
        start: Start = "data",
    ) -> None:
        super().__init__()
        self.posterior = posterior
        self.start = start
        self.pseudo_inputs = nn.Parameter(0.05 + 0.01 * torch.randn(components, *event_shape))
        self.register_buffer("logits", torch.zeros(components), persistent=False)
        self.register_buffer("low", torch.tensor(-torch.inf))
        self.register_buffer("high", torch.tensor(torch.inf))

    def forward(self) -> dist.TorchDistribution:
        """Return p(z)."""
        return mixture(self.logits, self.posterior(self.pseudo_inputs.clamp(self.low, self.high)))

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Start the pseudo-inputs at data or near their mean, and note the data's range."""
        self.low.copy_(x.min())
        self.high.copy_(x.max())
        if self.start == "data":
            self.pseudo_inputs.copy_(_some(x, len(self.pseudo_inputs), "pseudo-inputs"))
        else:
            noise = torch.randn_like(self.pseudo_inputs)
            spread = 0.01 * (self.high - self.low)
            self.pseudo_inputs.copy_(x.mean(0).to(noise) + spread * noise)


class ExemplarPrior(nn.Module):
    r"""Mixture of normals at the codes of training data, :math:`\frac{1}{J} \sum_j r(z \mid x_j)`.

    :math:`r(z \mid x_j) = N(z; \mu(x_j), s^2 I)` with the encoder's mean and one learned scale s.
    The exemplars are a random subset of the training data, drawn once and kept in the model. (In
    the paper they are all of the training data, and a datum is left out of its own prior.)
    Arguments are those of :class:`VampPrior` but ``start``; only the posterior's ``mean`` is used.

    References:
        Norouzi et al. (2020). https://arxiv.org/abs/2004.04795
    """

    logits: Tensor
    exemplars: Tensor

    def __init__(
        self,
        latent_dim: int,
        posterior: nn.Module,
        event_shape: Sequence[int],
        *,
        components: int = 500,
    ) -> None:
        super().__init__()
        self.posterior = posterior
        self.raw_scale = nn.Parameter(torch.tensor(ONE))
        self.register_buffer("exemplars", torch.rand(components, *event_shape).round())
        self.register_buffer("logits", torch.zeros(components), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        """Return p(z)."""
        loc = self.posterior(self.exemplars).mean
        scale = softplus(self.raw_scale) + _LEAST_SCALE
        return NormalMixture(self.logits, loc, scale.expand(loc.shape))

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Choose the exemplars from the training data."""
        self.exemplars.copy_(_some(x, len(self.exemplars), "exemplars"))


def mixture(logits: Tensor, components: dist.TorchDistribution) -> dist.TorchDistribution:
    """Mixture of distributions of batch shape ``(J,)`` with weights ``softmax(logits)``."""
    base = getattr(components, "base_dist", None)
    if isinstance(components, dist.Independent) and type(base) is dist.Normal:
        return NormalMixture(logits, base.loc, base.scale)
    return dist.MixtureSameFamily(dist.Categorical(logits=logits), components)


def _some(x: Tensor, number: int, what: str) -> Tensor:
    """Choose random data, without replacement."""
    if number > len(x):
        raise ValueError(
            f"{number} {what} are to be chosen among {len(x)} training data; take at most "
            f"components={len(x)}."
        )
    chosen = torch.randperm(len(x))[:number]  # on the CPU: the same wherever the data are
    return x[chosen.to(x.device)]
