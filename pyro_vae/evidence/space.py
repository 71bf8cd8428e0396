"""Latents of a program as one unconstrained vector per datum."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints

from ..common.seeding import seeded
from ..programs.pair import Pair, Values
from ..programs.traces import Batch, is_discrete

__all__ = ["Space"]


@dataclass(frozen=True)
class _Part:
    """One latent site: where it lies in the vector, and how it is laid out per datum."""

    name: str
    transform: Any
    shape: torch.Size  # of one datum, unconstrained: other plates, then the event
    start: int
    stop: int


@dataclass(frozen=True)
class Space:
    r"""Bijection between the latents of the model and :math:`u \in R^D`, datum by datum.

    Sites with constrained support go through ``torch.distributions.biject_to``; densities of u hold
    the Jacobian: :math:`p(x, u) = p(x, z(u)) \, |\partial z / \partial u|`.

    Build it with :meth:`of`.

    Attributes:
        pair: the programs.
        parts: where each latent site lies in the vector.
        size: number of dimensions D.
    """

    pair: Pair
    parts: tuple[_Part, ...]
    size: int

    @classmethod
    def of(cls, pair: Pair, batch: Batch) -> Space:
        """Read the sites and their supports from a run of the programs.

        Raises:
            ValueError: a discrete latent, or a support that differs from datum to datum.
        """
        with seeded("describe", 0):
            values, sites = pair.describe(batch)
        parts, start = [], 0
        for name, support in sites.items():
            if is_discrete(support):
                raise ValueError(
                    f"latent site {name!r} is discrete; use method='guide', which draws it from "
                    "the guide, or sum it out of the model."
                )
            transform = biject_to(_shared(name, support))
            value = values[name].movedim(pair.data_axis, 1)
            shape = transform.inv(value).shape[2:]
            size = math.prod(shape)
            parts.append(_Part(name, transform, shape, start, start + size))
            start += size
        return cls(pair, tuple(parts), start)

    def values(self, u: Tensor) -> tuple[Values, Tensor]:
        """Map vectors to latent values.

        Args:
            u: shape ``(S, N, D)``.

        Returns:
            Values by site, and log absolute Jacobian determinants ``(S, N)``, float64.
        """
        values = {}
        jacobian = torch.zeros(u.shape[:2], dtype=torch.float64, device=u.device)
        axis = self.pair.data_axis
        for part in self.parts:
            piece = u[..., part.start : part.stop].reshape(*u.shape[:2], *part.shape)
            value = part.transform(piece)
            if not _is_identity(part.transform):
                determinant = part.transform.log_abs_det_jacobian(piece, value).double()
                jacobian = jacobian + determinant.reshape(*u.shape[:2], -1).sum(-1)
            values[part.name] = value.movedim(1, axis)
        return values, jacobian

    def vector(self, values: Values) -> Tensor:
        """Map latent values to vectors of shape ``(S, N, D)``."""
        axis = self.pair.data_axis
        pieces = []
        for part in self.parts:
            value = values[part.name].movedim(axis, 1)
            pieces.append(part.transform.inv(value).reshape(*value.shape[:2], -1))
        return torch.cat(pieces, -1)

    def log_joint(self, batch: Batch, u: Tensor) -> Tensor:
        """Log p(x, u), shape ``(S, N)``, float64; differentiable in u."""
        values, jacobian = self.values(u)
        return self.pair.log_joint(batch, values) + jacobian

    def divergence(self, batch: Batch, u: Tensor) -> Tensor:
        r"""Function of u whose Hessian at the given u is the Gauss-Newton precision.

        :math:`KL(p(x' \mid u_0) \,\|\, p(x' \mid u)) - \log p(u)` with :math:`u_0` the given u held
        fixed; or :math:`-\log p(x, u)` where torch has no closed form for the first.

        Args:
            batch: N data.
            u: shape ``(N, D)``.

        Returns:
            Tensor of shape ``(N,)``, float64, differentiable in u.
        """
        values, jacobian = self.values(u[None])
        fixed, _ = self.values(u.detach()[None])
        try:
            information = self.pair.divergence(batch, fixed, values)
        except NotImplementedError:
            return -self.log_joint(batch, u[None])[0]
        return (information - self.pair.log_prior(batch, values) - jacobian)[0]


def _is_identity(transform: Any) -> bool:
    return isinstance(transform, torch.distributions.ComposeTransform) and not transform.parts


def _shared(name: str, support: Any) -> Any:
    """Support with scalar bounds, since one bijection serves all data."""
    if type(support).__name__ == "MixtureSameFamilyConstraint":  # that of its components
        return _shared(name, support.base_constraint)
    if isinstance(support, constraints.independent):
        return constraints.independent(
            _shared(name, support.base_constraint), support.reinterpreted_batch_ndims
        )
    for bound in ("lower_bound", "upper_bound"):
        value = getattr(support, bound, None)
        if isinstance(value, Tensor) and value.numel() > 1:
            if not (value == value.flatten()[0]).all():
                raise ValueError(
                    f"latent site {name!r} has a support whose {bound.replace('_', ' ')} is not "
                    "the same everywhere; use method='guide'."
                )
            support = _with_bound(support, bound, value.flatten()[0])
    return support


def _with_bound(support: Any, bound: str, value: Tensor) -> Any:
    bounds = {
        key: value if key == bound else getattr(support, key)
        for key in ("lower_bound", "upper_bound")
        if hasattr(support, key)
    }
    return type(support)(**bounds)
