"""Posteriors of several modes, mostly with the guide on one of them."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyro_vae as pv

from .base import NUMBER, Posed, each, log_integral, one_latent, simulate, situation
from .gaussians import LinearGaussian

_LINE = torch.linspace(-9, 9, 40_001, dtype=torch.float64)


@situation("two modes of z², guide on one", "half of the posterior unseen", short=True)
def square() -> Posed:
    """Pose x ~ N(z², .3): modes at ±√x."""
    prior = dist.Normal(0.0, 1.0)

    def likelihood(z: Tensor) -> Any:
        return dist.Normal(z * z, 0.3)

    x = torch.linspace(1.5, 4.0, NUMBER)
    exact = log_integral(prior, likelihood, x, _LINE)
    return one_latent(prior, likelihood, lambda x: dist.Normal(x.sqrt(), 0.18 / x.sqrt()), x, exact)


@situation(
    "two modes {larger:.0%}, d = {d}, guide on one",
    "part of the posterior unseen",
    *each(larger=(0.8, 0.5), d=(1, 2, 10)),
)
def two_modes(larger: float, d: int, **options: Any) -> Posed:
    """Pose x ~ N(W z, s² I) or N(-W z, s² I): p(x) is that of the linear Gaussian."""
    lg = LinearGaussian(d, event_dim=2 * d, noise=0.3 if d > 1 else 0.1)
    shares = torch.tensor([larger, 1 - larger])

    def likelihood(z: Tensor) -> Any:
        mean = z @ lg.weight.T
        both = dist.Normal(torch.stack([mean, -mean], -2), lg.noise).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(shares.expand(both.batch_shape)), both)

    x = lg.sample(NUMBER)
    return one_latent(
        lg.prior(), likelihood, lambda x: lg.posterior(x, 1.1), x, lg.log_px(x), **options
    )


@situation(
    "two modes, d = {d}, defensive = 0.1",
    "draws from the prior that may find the other mode",
    *each(d=(1, 10)),
)
def defended(d: int) -> Posed:
    """A tenth of the draws can land anywhere."""
    return two_modes(0.5, d, defensive=0.1)


@situation("two modes, d = 10, annealed from prior", "chains that start all over the prior")
def annealed_from_prior() -> Posed:
    """The independent estimate that sees both modes."""
    settings = pv.Annealing(temperatures=300, start="prior")
    return two_modes(0.8, 10, annealing=settings)


@situation(
    "many modes, {guide}",
    "a likelihood that is periodic in z",
    *each(guide=("guide on one", "prior as guide")),
)
def many_modes(guide: str) -> Posed:
    """Pose x ~ N(cos 3z, .2): a dozen modes."""
    prior = dist.Normal(0.0, 2.0)

    def likelihood(z: Tensor) -> Any:
        return dist.Normal(torch.cos(3 * z), 0.2)

    def proposal(x: Tensor) -> Any:
        if guide == "prior as guide":
            return prior.expand([len(x)])
        return dist.Normal(x.clamp(-0.95, 0.95).acos() / 3, 0.12)

    x = simulate(prior, likelihood)
    exact = log_integral(prior, likelihood, x, 2 * _LINE)
    return one_latent(prior, likelihood, proposal, x, exact)


@situation("three modes from the prior, guide on all", "fitted normals cannot have three modes")
def mixture_prior() -> Posed:
    """A mixture prior, a weak likelihood, and a guide as good as the prior."""
    shares, means = torch.tensor([0.2, 0.5, 0.3]), torch.tensor([-6.0, 0.0, 6.0])

    def mixture(sd: float) -> Any:
        return dist.MixtureSameFamily(dist.Categorical(shares), dist.Normal(means, sd))

    prior = mixture(0.5)

    def likelihood(z: Tensor) -> Any:
        return dist.Normal(z, 4.0)

    x = simulate(prior, likelihood)
    exact = mixture(math.sqrt(0.25 + 16)).log_prob(x.double())
    return one_latent(prior, likelihood, lambda x: mixture(0.6).expand([len(x)]), x, exact)


@situation("banana, mean-field guide", "a curved posterior")
def banana() -> Posed:
    """Pose x₁ ~ N(a, 1), x₂ ~ N(b - a², .3) of standard normal a and b."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            b = pyro.sample("b", dist.Normal(0.0, 1.0))
            pyro.sample("x1", dist.Normal(a, 1.0), obs=x[:, 0])
            pyro.sample("x2", dist.Normal(b - a * a, 0.3), obs=x[:, 1])

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("a", dist.Normal(x[:, 0] / 2, 0.8))
            pyro.sample("b", dist.Normal(0.0, 1.1))

    def given_a(a: Tensor) -> Any:
        mean = torch.stack(torch.broadcast_tensors(a, -a * a), -1)
        return dist.Normal(mean, torch.tensor([1.0, math.sqrt(1.09)])).to_event(1)

    x = simulate(dist.Normal(0.0, 1.0), given_a)
    return Posed(model, guide, (x,), log_integral(dist.Normal(0.0, 1.0), given_a, x, _LINE))
