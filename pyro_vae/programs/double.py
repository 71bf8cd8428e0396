"""Log densities that are small differences of large numbers, in float64.

At a count of ten million each term of a Poisson's is some 1e8 nats and the density ten: float32
keeps no digit of it. So it is for all that divide one Gamma function by another.
"""

from __future__ import annotations

import copy
from typing import Any

from pyro.distributions import MultivariateStudentT
from pyro.distributions.constraints import integer
from torch import Tensor
from torch.distributions import (
    Beta,
    Categorical,
    Dirichlet,
    Distribution,
    FisherSnedecor,
    Gamma,
    StudentT,
    constraints,
)
from torch.distributions.utils import lazy_property

from .supports import support_of

__all__ = ["cancels", "in_double", "is_exact"]


def cancels(fn: Any) -> bool:
    """Whether a log density is a difference of large numbers: of counts, or of Gamma functions.

    Class indices are no counts, and bits have no large terms.
    """
    support: Any = support_of(fn)
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    inside = fn
    while inside is not None:
        fn, inside = inside, _inside(inside)
    if isinstance(support, _COUNTS):
        return not isinstance(fn, Categorical)
    return isinstance(fn, _OF_GAMMA_FUNCTIONS)


def is_exact(fn: Any) -> bool:
    """Whether a distribution computes its density in float64 by itself, as the package's do."""
    inside = fn
    while inside is not None:
        fn, inside = inside, _inside(inside)
    return getattr(fn, "in_float64", False)


def _inside(fn: Any) -> Any | None:
    return getattr(fn, "base_dist", getattr(fn, "_component_distribution", None))


def in_double(item: Any) -> Any:
    """Copy a distribution with its parameters, or those of its parts, as float64.

    The other parameterization that torch keeps after it was asked for is left out, to be computed
    again from the one given; probabilities of classes are made to sum to one again.
    """
    if isinstance(item, Tensor):
        return item.double() if item.is_floating_point() else item
    if type(item) in (list, tuple):
        return type(item)(map(in_double, item))
    if not isinstance(item, Distribution):
        return item
    new = copy.copy(item)
    given = vars(item)
    for name, value in given.items():
        lazy = isinstance(getattr(type(item), name, None), lazy_property)
        if lazy and value is not given.get("_param", value):
            del vars(new)[name]
        else:
            vars(new)[name] = in_double(value)
    if isinstance(new, Categorical):
        if "logits" in vars(new):
            new.logits = new.logits - new.logits.logsumexp(-1, keepdim=True)
        else:
            new.probs = new.probs / new.probs.sum(-1, keepdim=True)
    return new


_COUNTS = (
    type(constraints.nonnegative_integer),
    type(integer),
    constraints.integer_interval,
    constraints.multinomial,
)
_OF_GAMMA_FUNCTIONS = (Beta, Dirichlet, FisherSnedecor, Gamma, MultivariateStudentT, StudentT)
