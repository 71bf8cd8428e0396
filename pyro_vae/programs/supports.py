"""Supports of distributions: what they are, and whether one reaches as far as another."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import SineBivariateVonMises
from pyro.distributions.constraints import integer
from torch import Tensor
from torch.distributions import (
    ComposeTransform,
    Independent,
    TransformedDistribution,
    VonMises,
    constraints,
)

__all__ = [
    "bounds",
    "differs",
    "is_discrete",
    "is_everywhere",
    "just_outside",
    "shared",
    "support_of",
]


def support_of(fn: Any) -> Any | None:
    """Support of a distribution, or ``None`` if it says nothing of it.

    Angles (von Mises) lie in [-pi, pi]: torch's density is periodic, so that it is none on all real
    numbers, which torch calls its support. A mixture's reaches as far as any of its components.
    """
    if isinstance(fn, (VonMises, SineBivariateVonMises)):
        turn = constraints.interval(-math.pi, math.pi)
        return constraints.independent(turn, len(fn.event_shape))
    if isinstance(fn, TransformedDistribution):  # a family, such as Gumbel, knows its own
        derived = type(fn).support is TransformedDistribution.support
        return (_of_transformed(fn) if derived else None) or _said(fn)
    if (components := getattr(fn, "_component_distribution", None)) is not None:
        support = support_of(components)
        return None if support is None else _of_components(support)
    if (base := getattr(fn, "base_dist", None)) is None:
        return _said(fn)
    support = support_of(base)  # of an expanded or masked distribution
    if support is None or not isinstance(fn, Independent):
        return support
    return constraints.independent(support, fn.reinterpreted_batch_ndims)


def _said(fn: Any) -> Any | None:
    """Support that a distribution states itself, or ``None``."""
    try:
        support = fn.support
    except (AttributeError, NotImplementedError):
        return None
    return None if constraints.is_dependent(support) else support


def _of_transformed(fn: Any) -> Any | None:
    """Support of numbers that transforms have moved, or ``None`` where they are no monotone ones.

    torch names the codomain of the last transform, which is all numbers for an affine one, however
    narrow what it moves.
    """
    found = _range(support_of(fn.base_dist) or constraints.dependent)
    transforms = [t for t in fn.transforms if not isinstance(t, ComposeTransform) or t.parts]
    if found is None or not all(t.bijective and not t.domain.event_dim for t in transforms):
        return None  # the absolute value folds its range
    ends = [torch.as_tensor(bound, dtype=torch.float64) for bound in found]
    try:
        for transform in transforms:
            ends = [torch.as_tensor(transform(end)).double() for end in ends]
    except (RuntimeError, TypeError, ValueError, NotImplementedError):  # of another shape, or type
        return None
    low, high = torch.minimum(*ends), torch.maximum(*ends)
    if low.isnan().any() or high.isnan().any():
        return None
    if (low == -math.inf).all() and (high == math.inf).all():
        support: Any = constraints.real
    elif (high == math.inf).all():
        support = constraints.greater_than_eq(low)
    elif (low == -math.inf).all():
        support = constraints.less_than(high)
    else:
        support = constraints.interval(low, high)
    return constraints.independent(support, fn.event_dim) if fn.event_dim else support


def _of_components(support: Any) -> Any:
    """Support of a mixture; torch's own takes only what lies in the support of each component."""
    found, axis = _range(support), -1 - support.event_dim  # components are right of the batch
    if found is None or not any(isinstance(b, Tensor) and b.dim() >= -axis for b in found):
        return support
    low, high = map(torch.as_tensor, found)
    low = low.amin(axis) if low.dim() >= -axis else low
    high = high.amax(axis) if high.dim() >= -axis else high
    kind = constraints.integer_interval if is_discrete(support) else constraints.interval
    return constraints.independent(kind(low, high), support.event_dim)


def is_everywhere(support: Any) -> bool:
    """Whether a support is all real numbers or vectors."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support is constraints.real or support is constraints.real_vector


def is_discrete(support: Any) -> bool:
    """Whether a support is of separate values."""
    return bool(getattr(support, "is_discrete", False))


def just_outside(
    value: Tensor, wide: tuple[Tensor, Tensor], narrow: tuple[Tensor, Tensor], *, whole: bool
) -> Tensor:
    """Values beyond narrow bounds and inside wide ones; as they are where there are none."""
    (least, most), (low, high) = wide, narrow
    below, above = least < low - _rounding(low), most > high + _rounding(high)
    width = high - low
    step = torch.ones_like(width) if whole else (width / 100).where(width.isfinite(), 0.01)
    share = 1.0 if whole else 0.5
    under = low - step.minimum(share * (low - least))
    over = high + step.minimum(share * (most - high))
    return torch.where(below, under, torch.where(above, over, value))


def _rounding(bound: Tensor) -> Tensor:
    return (1e-6 * (1 + bound.abs())).nan_to_num(posinf=0.0)


def bounds(support: Any, like: Tensor) -> tuple[Tensor, Tensor] | None:
    """Least and greatest values of a support of single numbers, in a value's shape."""
    found = _range(support)
    if found is None:
        return None
    try:
        low, high = (torch.as_tensor(b, device=like.device).double() for b in found)
        return low.expand(like.shape), high.expand(like.shape)
    except RuntimeError:  # of another shape
        return None


def _range(support: Any) -> tuple[Any, Any] | None:
    if hasattr(support, "base_constraint"):
        return _range(support.base_constraint)
    if support is constraints.boolean:
        return 0, 1
    low, high = (getattr(support, name, None) for name in ("lower_bound", "upper_bound"))
    unbounded = any(support is all_ for all_ in (constraints.real, integer))
    if support.event_dim > 0 or (low is None and high is None and not unbounded):
        return None
    return -torch.inf if low is None else low, torch.inf if high is None else high


def differs(p: Any, q: Any) -> bool:
    """Whether q is a support of vectors or matrices of a kind of its own, and p is another."""
    while hasattr(p, "base_constraint"):
        p = p.base_constraint
    while hasattr(q, "base_constraint"):
        q = q.base_constraint
    known = type(q).__module__.startswith(("torch.", "pyro."))
    return known and q.event_dim > 0 and type(p) is not type(q)


def shared(name: str, support: Any, *, advice: str = "use method='guide'") -> Any:
    """Support of a site with scalar bounds, since one bijection serves all data.

    Args:
        name: the site.
        support: its support.
        advice: what the message says to do.

    Raises:
        ValueError: a bound that is not the same everywhere.
    """
    if type(support).__name__ == "MixtureSameFamilyConstraint":  # that of its components
        return shared(name, support.base_constraint, advice=advice)
    if isinstance(support, constraints.independent):
        base = shared(name, support.base_constraint, advice=advice)
        return constraints.independent(base, support.reinterpreted_batch_ndims)
    for bound in ("lower_bound", "upper_bound"):
        value = getattr(support, bound, None)
        if isinstance(value, Tensor) and value.numel() > 1:
            if not (value == value.flatten()[0]).all():
                raise ValueError(
                    f"latent site {name!r} has a support whose {bound.replace('_', ' ')} is not "
                    f"the same everywhere; {advice}."
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
