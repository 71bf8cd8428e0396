"""Priors without networks: independent latents of one family, or a given distribution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ..distributions import densities

__all__ = ["ONE", "Fixed", "Laplace", "LearnedNormal", "StandardNormal", "StudentT"]

ONE = 0.541324854612918  # softplus(ONE) = 1


class _Centred(nn.Module):
    """Base of priors about the origin; its buffer ``loc`` has the module's device and dtype."""

    loc: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)


class StandardNormal(_Centred):
    """:math:`p(z) = N(z; 0, I)`."""

    def forward(self) -> dist.TorchDistribution:
        """Return p(z)."""
        return dist.Normal(self.loc, torch.ones_like(self.loc)).to_event(1)


class LearnedNormal(nn.Module):
    r"""Learned normal :math:`p(z) = N(z; m, \mathrm{diag}(s^2))`, which starts at N(0, I)."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(latent_dim))
        self.raw_scale = nn.Parameter(torch.full((latent_dim,), ONE))

    def forward(self) -> dist.TorchDistribution:
        """Return p(z)."""
        return dist.Normal(self.loc, softplus(self.raw_scale)).to_event(1)


class StudentT(_Centred):
    r"""Independent Student-t latents :math:`p(z) = \prod_d t_\nu(z_d)`: heavier tails than N(0, I).

    Args:
        latent_dim: number of latent dimensions.
        degrees_of_freedom: :math:`\nu`; N(0, I) is the limit of large values.

    Raises:
        ValueError: degrees of freedom that are not positive.
    """

    degrees: Tensor

    def __init__(self, latent_dim: int, *, degrees_of_freedom: float = 5.0) -> None:
        super().__init__(latent_dim)
        if not degrees_of_freedom > 0:
            raise ValueError(f"degrees_of_freedom must be positive; got {degrees_of_freedom}.")
        degrees = torch.tensor(float(degrees_of_freedom))
        self.register_buffer("degrees", degrees, persistent=False)

    def forward(self) -> dist.TorchDistribution:
        """Return p(z)."""
        ones = torch.ones_like(self.loc)
        return densities.DeviceStudentT(self.degrees, self.loc, ones).to_event(1)


class Laplace(_Centred):
    r"""Independent Laplace latents, variance 1: :math:`p(z) \propto e^{-\sqrt 2 \sum_d |z_d|}`."""

    def forward(self) -> dist.TorchDistribution:
        """Return p(z)."""
        return dist.Laplace(self.loc, torch.full_like(self.loc, 0.5**0.5)).to_event(1)


class Fixed(nn.Module):
    """A given distribution over z, without parameters to learn.

    Its tensors follow the module to another device or dtype.

    Args:
        distribution: of event shape ``(latent_dim,)`` and no batch shape.

    Raises:
        TypeError: not a distribution.
        ValueError: another event or batch shape.
    """

    def __init__(self, distribution: dist.TorchDistribution) -> None:
        super().__init__()
        if not hasattr(distribution, "log_prob") or not hasattr(distribution, "event_shape"):
            raise TypeError(
                "a prior is an nn.Module or a Pyro distribution; got "
                f"{type(distribution).__name__}."
            )
        if tuple(distribution.batch_shape) or len(distribution.event_shape) != 1:
            raise ValueError(
                "a prior has event shape (latent_dim,) and no batch shape; got event shape "
                f"{tuple(distribution.event_shape)}, batch shape {tuple(distribution.batch_shape)}."
                " Write .to_event(1)."
            )
        self.distribution = distribution

    def forward(self) -> dist.TorchDistribution:
        """Return p(z)."""
        return self.distribution

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Fixed:
        super()._apply(fn, recurse)
        _move(self.distribution, fn, set())
        return self


def _move(item: Any, fn: Callable[[Tensor], Tensor], seen: set[int]) -> None:
    """Apply ``fn`` to the tensors of a distribution, its parts and its transforms."""
    if id(item) in seen:
        return
    seen.add(id(item))
    for name, value in vars(item).items():
        if isinstance(value, Tensor):
            setattr(item, name, fn(value))
        elif isinstance(value, nn.Module):
            value._apply(fn)
        for part in value if isinstance(value, list | tuple) else (value,):
            if hasattr(part, "log_prob") or hasattr(part, "log_abs_det_jacobian"):
                _move(part, fn, seen)
