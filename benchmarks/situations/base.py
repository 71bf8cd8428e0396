"""What a situation is, the table of all of them, and quadrature for those with one latent."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

__all__ = [
    "NUMBER",
    "SITUATIONS",
    "Posed",
    "Situation",
    "each",
    "log_integral",
    "moments",
    "normal_of",
    "one_latent",
    "simulate",
    "situation",
]

NUMBER = 64
"""Data of a situation, unless it says otherwise."""

Distribution = Any  # of Pyro, which is untyped
Likelihood = Callable[[Tensor], Distribution]


@dataclass(frozen=True)
class Posed:
    """Programs and data, with what log p(x) must come out.

    Attributes:
        model: Pyro program in float32, as users write it.
        guide: Pyro program.
        data: arguments of both programs.
        exact: log p(x) of each datum in nats, shape ``(N,)``, float64.
        options: keyword arguments of ``log_evidence`` that belong to the situation.
    """

    model: Callable[..., Any]
    guide: Callable[..., Any]
    data: tuple[Tensor, ...]
    exact: Tensor
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Situation:
    """Something that happens to estimates of log p(x).

    Attributes:
        name: what it is, in the table.
        tries: what it puts to the test.
        make: poses it, with torch's random state as it finds it.
        kind: what it has in common with those in the same file.
        short: whether it is one of the few that a quick look takes.
    """

    name: str
    tries: str
    make: Callable[[], Posed]
    kind: str = ""
    short: bool = False

    def build(self, seed: int = 0) -> Posed:
        """Pose it with data of a seed; the caller's random state is left as it was."""
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            return self.make()


SITUATIONS: dict[str, Situation] = {}
"""All situations by name."""


def situation(
    name: str, tries: str, *variants: Mapping[str, Any], short: bool = False
) -> Callable[[Callable[..., Posed]], Callable[..., Posed]]:
    """Enter the decorated function in the table, once for each set of its arguments.

    Args:
        name: may hold the arguments in braces.
        tries: likewise.
        variants: arguments of the function; by default it is called once, without any.
        short: whether the (first) situation is one that a quick look takes.
    """

    def register(make: Callable[..., Posed]) -> Callable[..., Posed]:
        kind = (sys.modules[make.__module__].__doc__ or "").partition(".")[0]
        for position, arguments in enumerate(variants or ({},)):
            own = name.format(**arguments)
            if own in SITUATIONS:
                raise ValueError(f"there is a situation {own!r} already; give it another name.")
            SITUATIONS[own] = Situation(
                own,
                tries.format(**arguments),
                partial(make, **arguments),
                kind,
                short=short and position == 0,
            )
        return make

    return register


def each(**choices: Iterable[Any]) -> list[dict[str, Any]]:
    """All combinations of some choices, as sets of arguments."""
    names, values = list(choices), itertools.product(*choices.values())
    return [dict(zip(names, chosen, strict=True)) for chosen in values]


def one_latent(
    prior: Distribution,
    likelihood: Likelihood,
    proposal: Callable[[Tensor], Distribution],
    x: Tensor,
    exact: Tensor,
    **options: Any,
) -> Posed:
    """Pose the programs of one latent site in a plate over the data."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior)
            pyro.sample("x", likelihood(z), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", proposal(x))

    return Posed(model, guide, (x,), exact, options)


def simulate(prior: Distribution, likelihood: Likelihood, number: int = NUMBER) -> Tensor:
    """Draw data from a model of one latent site, shape ``(number, ...)``."""
    return likelihood(prior.sample((number,))).sample()


def log_integral(prior: Distribution, likelihood: Likelihood, x: Tensor, points: Tensor) -> Tensor:
    r"""Log of :math:`\int p(z) p(x_n \mid z) dz` by the trapezoidal rule, ``(N,)``, float64.

    Args:
        prior: of a scalar latent.
        likelihood: of x given z of shape ``(G, N)`` or ``(G, 1)``.
        x: N data.
        points: ascending values of z, shape ``(G,)`` or, for each datum its own, ``(G, N)``.
    """
    return _log_terms(prior, likelihood, x, points)[1].logsumexp(0)


def moments(
    prior: Distribution, likelihood: Likelihood, x: Tensor, points: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each datum's posterior by quadrature, ``(N,)``, float32."""
    points, terms = _log_terms(prior, likelihood, x, points)
    weights = terms.softmax(0)
    mean = (weights * points).sum(0)
    variance = (weights * (points - mean).square()).sum(0)
    return mean.float(), variance.sqrt().float()


def normal_of(
    prior: Distribution, likelihood: Likelihood, points: Tensor, widen: float = 1.2
) -> Callable[[Tensor], Distribution]:
    """Return a guide of the posterior's mean, somewhat too wide."""

    def proposal(x: Tensor) -> Distribution:
        mean, sd = moments(prior, likelihood, x, points)
        return dist.Normal(mean, widen * sd)

    return proposal


def _log_terms(
    prior: Distribution, likelihood: Likelihood, x: Tensor, points: Tensor
) -> tuple[Tensor, Tensor]:
    """Points, and log terms of the sum that the integral becomes."""
    points = points.double()
    points = points[:, None] if points.dim() == 1 else points
    steps = points.diff(dim=0)
    widths = torch.cat([steps[:1], steps[:-1] + steps[1:], steps[-1:]]) / 2
    if x.is_floating_point():
        x = x.double()
    return points, prior.log_prob(points) + likelihood(points).log_prob(x) + widths.log()
