"""Latents of a program as one unconstrained vector per datum."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints

from ..common.seeding import seeded
from ..programs.discrete import without_discrete
from ..programs.evaluation import Evaluation
from ..programs.layout import NONE
from ..programs.pair import Pair, Values
from ..programs.supports import is_discrete, shared
from ..programs.traces import Batch

__all__ = ["Edges", "Space", "can_be_fitted", "made_fit"]

_DRAWN = "use method='guide', which draws it from the guide, or"


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
    the Jacobian: :math:`p(x, u) = p(x, z(u)) \, |\partial z / \partial u|`. A latent that the model
    masks has no density there, so that it is no latent of that datum; its dimensions are given a
    standard normal one, which leaves p(x) as it is.

    Build it with :meth:`of`.

    Attributes:
        pair: the programs.
        parts: where each latent site lies in the vector.
        size: number of dimensions D.
        idle: True for dimensions of latents that the model masks, ``(N, D)``; none if it masks no
            latent.
    """

    pair: Pair
    parts: tuple[_Part, ...]
    size: int
    idle: Tensor | None = None

    @classmethod
    def of(cls, pair: Pair, batch: Batch, *, cure: str = _DRAWN) -> Space:
        """Read the sites and their supports from a run of the programs.

        ``cure`` says what to do about a discrete latent.

        Raises:
            ValueError: a latent that is discrete, or whose support is unknown to torch or differs
                from datum to datum.
        """
        with seeded("describe", 0):
            values, sites = pair.describe(batch)
        parts, idle, start, axis = [], [], 0, pair.data_axis
        for name, (support, active) in sites.items():
            if is_discrete(support):
                raise ValueError(
                    f"latent site {name!r} is discrete; {cure} sum it out of the model."
                )
            try:
                transform = biject_to(shared(name, support))
            except NotImplementedError:
                raise ValueError(
                    f"latent site {name!r} has the support {support}, which no bijection of torch "
                    "reaches from real vectors, so no normal can be fitted; use method='guide'."
                ) from None
            value, active = values[name].movedim(axis, 1), active.movedim(axis, 1)[0]
            shape = transform.inv(value).shape[2:]
            size = math.prod(shape)
            parts.append(_Part(name, transform, shape, start, start + size))
            rest = shape[active.dim() - 1 :]  # of the event
            active = active.reshape(*active.shape, *[1] * len(rest)).expand(-1, *shape)
            idle.append(~active.reshape(len(active), size))
            start += size
        masked = torch.cat(idle, 1) if idle else torch.zeros(len(batch[0]), 0).bool()
        return cls(pair, tuple(parts), start, masked if masked.any() else None)

    def select(self, chosen: Tensor) -> Space:
        """Return the space of some of the data."""
        return self if self.idle is None else replace(self, idle=self.idle[chosen])

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
                determinant = determinant.reshape(*u.shape[:2], -1)
                if self.idle is not None:  # what stands for no latent is not transformed
                    idle = self.idle[:, part.start : part.stop]
                    if determinant.shape[-1] != idle.shape[-1]:  # of events such as simplices
                        idle = idle.reshape(len(idle), determinant.shape[-1], -1).all(-1)
                    determinant = determinant.masked_fill(idle, 0.0)
                jacobian = jacobian + determinant.sum(-1)
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
        volume = jacobian + self._log_idle(u)
        return self.pair.log_joint(batch, values) + volume

    def log_terms(self, batch: Batch, u: Tensor) -> tuple[Tensor, Tensor]:
        """Log p(u) and log p(x, u), each of shape ``(S, N)``, float64; differentiable in u."""
        values, jacobian = self.values(u)
        log_prior, log_joint = self.pair.log_terms(batch, values)
        volume = jacobian + self._log_idle(u)
        return log_prior + volume, log_joint + volume

    def check_slopes(self, batch: Batch, u: Tensor, *, cure: str = "use method='guide'") -> None:
        """Check that the likelihood can be differentiated at latents u, ``(N, D)``.

        ``cure`` says what to do if not.

        Raises:
            ValueError: it cannot; says why, if the program does.
        """
        why = ""
        with torch.enable_grad():
            at = u.detach()[None].requires_grad_()
            try:
                if self.pair.log_likelihood(batch, self.values(at)[0]).requires_grad:
                    return
            except RuntimeError as error:  # values are taken out of torch, as by numpy()
                if "requires grad" not in str(error):
                    raise
                why = f" ({str(error).split('. ')[0]})"
        raise ValueError(f"the likelihood cannot be differentiated in the latents{why}; {cure}.")

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
        volume = jacobian + self._log_idle(u)
        return (information - self.pair.log_prior(batch, values) - volume)[0]

    def _log_idle(self, u: Tensor) -> Tensor | float:
        """Standard normal log density of the dimensions that stand for no latent."""
        if self.idle is None:
            return 0.0
        density = -0.5 * u.double().square() - 0.5 * math.log(2 * math.pi)
        return density.where(self.idle, 0.0).sum(-1)


def can_be_fitted(pair: Pair, batch: Batch) -> bool:
    """Whether proposals can be fitted: continuous latents, of data in any number."""
    if pair.fixed_rows:
        return False
    try:
        Space.of(pair, batch)
    except ValueError:
        return NONE in pair.latents  # there is nothing to be fitted
    return True


def made_fit(evaluation: Evaluation, *, exact: bool) -> Evaluation:
    """Sum discrete latents out of the programs, if proposals can be fitted to what is left.

    ``exact`` says whether it may be nothing.
    """
    without = without_discrete(evaluation)
    if NONE in without.pair.latents and not exact:
        return evaluation
    if without is evaluation or can_be_fitted(without.pair, next(without.blocks()).batch):
        return without
    return evaluation


@dataclass(frozen=True)
class Edges:
    """Where floating-point numbers end before the support of a latent does.

    A Beta(0.05, 0.05) variable has much of its mass nearer to one than single precision can tell,
    so its draws, and those of a transformed normal, stop short of it: what log p(x) makes of them
    is wrong in either direction.

    Attributes:
        data_axis: axis of the data in a latent's value.
        bounds: by site, least and greatest value (a number, a tensor, or ``None``).
    """

    data_axis: int
    bounds: dict[str, tuple[Any, Any]]

    @classmethod
    def of(cls, pair: Pair, batch: Batch) -> Edges:
        """Read the bounds of the continuous latents from a run of the model."""
        bounds = {}
        with seeded("describe", 0):
            for name, support in pair.supports(batch).items():
                element = support
                while hasattr(element, "base_constraint"):
                    element = element.base_constraint
                if support is None or is_discrete(support):
                    continue
                least = 0.0 if element is constraints.simplex else None
                least = getattr(element, "lower_bound", least)
                greatest = getattr(element, "upper_bound", None)
                if least is not None or greatest is not None:
                    bounds[name] = (_one_draw(least), _one_draw(greatest))
        return cls(pair.data_axis, bounds)

    def hit(self, values: Values) -> Tensor | None:
        """Which draws have a latent at an edge, ``(S, N)``; none where no latent has an edge."""
        hits = []
        for name, (least, greatest) in self.bounds.items():
            value = values[name]
            at = ~value.isfinite()
            for bound, distance in ((least, 1), (greatest, -1)):
                if bound is not None:
                    at = at | (distance * (value - bound) <= _resolution(value, bound))
            at = at.movedim(self.data_axis, 1)
            hits.append(at.reshape(*at.shape[:2], -1).any(2))
        return torch.stack(hits).any(0) if hits else None


def _one_draw(bound: Any) -> Any:
    """A bound without a dimension of samples."""
    return bound[:1] if isinstance(bound, Tensor) and bound.dim() > 1 else bound


def _resolution(value: Tensor, bound: Any) -> Any:
    """Distance from a bound up to which there are but a few numbers."""
    info = torch.finfo(value.dtype)
    if not isinstance(bound, Tensor):
        return max(4 * info.eps * abs(bound), 4 * info.tiny)
    size = bound.to(value.dtype).abs()
    return (4 * info.eps * size).clamp_min(4 * info.tiny)


def _is_identity(transform: Any) -> bool:
    return isinstance(transform, torch.distributions.ComposeTransform) and not transform.parts
