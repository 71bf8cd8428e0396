"""Likelihoods p(x|z): modules that own the decoder and return a Pyro distribution over x."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

__all__ = ["LIKELIHOODS", "Bernoulli", "Normal"]


class Bernoulli(nn.Module):
    r"""Independent bits :math:`p(x \mid z) = \prod_d p_d^{x_d} (1 - p_d)^{1 - x_d}`, 0/1 data.

    Args:
        network: maps z of shape ``(*, latent_dim)`` to logits of shape ``(*, *event_shape)``.
        event_shape: shape of one datum.
    """

    def __init__(self, network: nn.Module, event_shape: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.event_dim = len(event_shape)

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        """Return p(x|z), batch shape ``(*,)``."""
        bits = dist.Bernoulli(logits=self.network(z))
        likelihood: dist.TorchDistribution = bits.to_event(self.event_dim)
        return likelihood

    def initialize(self, x: Tensor) -> None:
        """Start the output at the logit of the data's mean, clipped to [0.001, 0.999]."""
        mean = x.mean(0).clamp(1e-3, 1 - 1e-3)
        _initialize_output(self.network, mean.logit())


class Normal(nn.Module):
    r"""Independent normals :math:`p(x \mid z) = N(x; f(z), s^2 I)`, real-valued data.

    A learned scale makes the likelihood unbounded when the decoder fits a datum exactly, so the
    scale has a floor; it is part of the model and so of every number computed from it.

    Args:
        network: maps z of shape ``(*, latent_dim)`` to means of shape ``(*, *event_shape)``.
        event_shape: shape of one datum.
        scale: s if fixed; ``None`` to learn one s for all of x, starting at the data's scale.
        floor: least value of a learned s, in units of x.
    """

    def __init__(
        self,
        network: nn.Module,
        event_shape: Sequence[int],
        *,
        scale: float | None = None,
        floor: float = 1e-2,
    ) -> None:
        super().__init__()
        self.network = network
        self.event_dim = len(event_shape)
        self.floor = floor
        self.raw_scale: Tensor
        if scale is None:
            self.raw_scale = nn.Parameter(torch.zeros(()))
        else:
            if not scale > 0:
                raise ValueError(f"scale must be positive; got {scale}.")
            self.floor = 0.0
            self.register_buffer("raw_scale", _inverse_softplus(torch.tensor(float(scale))))

    @property
    def scale(self) -> Tensor:
        """Standard deviation s, a scalar."""
        return self.floor + softplus(self.raw_scale)

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        """Return p(x|z), batch shape ``(*,)``."""
        values = dist.Normal(self.network(z), self.scale)
        likelihood: dist.TorchDistribution = values.to_event(self.event_dim)
        return likelihood

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Start the output at the data's mean and a learned scale at its standard deviation."""
        mean = x.mean(0)
        _initialize_output(self.network, mean)
        if isinstance(self.raw_scale, nn.Parameter):
            spread = (x - mean).std(correction=0)
            self.raw_scale.copy_(_inverse_softplus((spread - self.floor).clamp_min(self.floor)))


LIKELIHOODS: dict[str, type[nn.Module]] = {"bernoulli": Bernoulli, "normal": Normal}


def _inverse_softplus(y: Tensor) -> Tensor:
    return y + torch.log(-torch.expm1(-y))


def _initialize_output(network: nn.Module, value: Tensor) -> None:
    """Start a network's output at ``value`` where the network knows how."""
    initialize = getattr(network, "initialize_output", None)
    if callable(initialize):
        initialize(value)
