"""Means and variances of sites, each given the sites above it, over many draws of these."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import MaskedDistribution
from torch import Tensor
from torch.distributions import Categorical, Independent

from .layout import Layout

__all__ = ["Moments", "classes_of", "moments_of"]


def classes_of(fn: Any) -> int:
    """Return the number of classes of a categorical distribution of one or several values, or 0."""
    single = _single(fn)
    return single.probs.shape[-1] if isinstance(single, Categorical) else 0


def moments_of(layout: Layout, site: Any, samples: int) -> tuple[Tensor | None, Tensor | None]:
    """Return mean and variance of a site in a trace, given the sites above it.

    Of a class index they are those of its one-hot vector: probabilities p and p (1 - p).

    Args:
        layout: of the program that was traced.
        site: the site.
        samples: number of draws S in the trace.

    Returns:
        Both of shape ``(S, *batch dims of the plates, *event_shape)``, with the classes last;
        ``None`` for what the distribution does not tell. Without a variance its ``mean`` may be
        something else (such as the image of a flow's centre).
    """
    fn = site["fn"]
    classes = classes_of(fn)
    shape, event_dim = (*fn.batch_shape, *fn.event_shape), fn.event_dim
    if classes:
        shape, event_dim = (*shape, classes), event_dim + 1

    def told(name: str) -> Tensor | None:
        try:
            value = getattr(fn, name) if not classes else _of_indices(_single(fn).probs)[name]
        except (NotImplementedError, AttributeError):
            return None
        value = value.expand(shape)
        return value if layout.vectorized else layout.unfold(value, event_dim, samples)

    return told("mean"), told("variance")


def _of_indices(probabilities: Tensor) -> dict[str, Tensor]:
    return {"mean": probabilities, "variance": probabilities * (1 - probabilities)}


class Moments:
    r"""Moments of a site over S draws of those above, by the laws of total mean and variance.

    .. math:: E[z] = E[E[z | a]], \qquad Var[z] = E[Var[z | a]] + Var[E[z | a]]

    Where E[z|a] is the same at every draw, as at the top of a program, both are exact.
    """

    def __init__(self) -> None:
        self.draws = 0
        self.first: Tensor | Any = None

    def add(self, mean: Tensor, variance: Tensor | None) -> None:
        """Add conditional means and variances at some draws, ``(S, ...)``, or draws alone."""
        if self.first is None:
            self.dtype = mean.dtype if mean.is_floating_point() else torch.float64
            self.first = mean[0].double()
            self.sums = [torch.zeros_like(self.first) for _ in range(3)]
        apart = mean.double() - self.first  # zero where they are all the same
        within = torch.zeros_like(apart) if variance is None else variance.double()
        for total, part in zip(self.sums, (apart, apart.square(), within), strict=True):
            total += part.sum(0)
        self.draws += len(mean)

    def found(self) -> dict[str, Tensor]:
        """Return mean, scale, and the Monte-Carlo error of the mean, 0 where it is exact."""
        apart, squares, within = self.sums
        between = (squares - apart.square() / self.draws) / (self.draws - 1)
        between = between.clamp_min(0)
        found = {
            "mean": self.first + apart / self.draws,
            "scale": (between + within / self.draws).sqrt(),
            "error": (between / self.draws).sqrt(),
        }
        return {name: value.to(self.dtype) for name, value in found.items()}


def _single(fn: Any) -> Any:
    """Distribution of single values."""
    while isinstance(fn, Independent | MaskedDistribution):
        fn = fn.base_dist
    return fn
