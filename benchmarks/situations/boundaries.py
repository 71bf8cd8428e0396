"""Latents on an interval, a half line, a simplex, a circle; counts and choices."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from .base import (
    NUMBER,
    Posed,
    each,
    log_integral,
    moments,
    normal_of,
    one_latent,
    simulate,
    situation,
)

_LINE = torch.linspace(-12, 12, 20_001, dtype=torch.float64)


@situation("Beta({a}, {a}), one toss", "mass at 0 and 1", *each(a=(0.5, 0.1)))
def coin(a: float) -> Posed:
    """Draws that float32 rounds to the boundary."""
    x = dist.Bernoulli(0.5).sample((NUMBER,))
    exact = torch.full((NUMBER,), math.log(0.5), dtype=torch.float64)
    return one_latent(
        dist.Beta(a, a),
        dist.Bernoulli,
        lambda x: dist.Beta(0.8 * a + x, 0.8 * a + 1 - x),
        x,
        exact,
    )


@situation("Beta(2, 3), ten tosses", "a tame conjugate pair")
def coins() -> Posed:
    """Beta-binomial."""
    prior = dist.Beta(2.0, 3.0)

    def likelihood(p: Tensor) -> Any:
        return dist.Binomial(10, probs=p)

    x = simulate(prior, likelihood)
    two, three = torch.tensor([2.0, 3.0], dtype=torch.float64)
    exact = dist.BetaBinomial(two, three, 10).log_prob(x.double())
    return one_latent(prior, likelihood, lambda x: dist.Beta(2 + 0.8 * x, 11 - 0.8 * x), x, exact)


def _poisson(shape: float, rate: float, share: float) -> Posed:
    """Gamma-Poisson, its guide the posterior with less of its shape and rate."""
    x = simulate(dist.Gamma(shape, rate), dist.Poisson)
    own = torch.tensor([shape, rate], dtype=torch.float32).double()  # as the program has them
    exact = dist.GammaPoisson(*own).log_prob(x.double())
    return one_latent(
        dist.Gamma(shape, rate),
        dist.Poisson,
        lambda x: dist.Gamma(share * (shape + x), share * (rate + 1)),
        x,
        exact,
    )


@situation("Gamma(.1, .1), Poisson counts", "mass at 0, where draws underflow")
def small_shape() -> Posed:
    """Half of the data are 0."""
    return _poisson(0.1, 0.1, 0.9)


@situation("Exponential, Poisson counts", "a density that is highest at its boundary")
def exponential() -> Posed:
    """Geometric counts."""
    x = simulate(dist.Exponential(1.0), dist.Poisson)
    exact = math.log(0.5) * (x.double() + 1)
    return one_latent(
        dist.Exponential(1.0), dist.Poisson, lambda x: dist.Gamma(0.8 * (1 + x), 1.6), x, exact
    )


@situation("Poisson counts to 1e5", "float32 densities of large counts")
def large_counts() -> Posed:
    """Negative binomial, from a handful to 1e5."""
    return _poisson(1.0, 5e-5, 0.9)


@situation("negative binomial counts", "overdispersed counts with a log-odds latent")
def negative_binomial() -> Posed:
    """Counts of five failures."""
    prior = dist.Normal(0.0, 1.0)

    def likelihood(z: Tensor) -> Any:
        return dist.NegativeBinomial(5.0, logits=z)

    x = simulate(prior, likelihood)
    exact = log_integral(prior, likelihood, x, _LINE)
    return one_latent(prior, likelihood, normal_of(prior, likelihood, _LINE[::10]), x, exact)


@situation("Uniform(0, 1), noise {noise}", "a prior that ends", *each(noise=(0.3, 0.03)))
def uniform(noise: float) -> Posed:
    """Posteriors cut off at the boundary."""
    prior, inside = dist.Uniform(0.0, 1.0), torch.linspace(1e-4, 1 - 1e-4, 1001)

    def likelihood(z: Tensor) -> Any:
        return dist.Normal(z, noise)

    def proposal(x: Tensor) -> Any:
        mean, sd = moments(prior, likelihood, x, inside)
        size = 0.7 * (mean * (1 - mean) / sd.square() - 1)
        return dist.Beta(size * mean, size * (1 - mean))

    x = simulate(prior, likelihood)
    scale = math.sqrt(2) * torch.tensor(noise).double()
    exact = (((1 - x.double()) / scale).erf() + (x.double() / scale).erf()).log() - math.log(2)
    return one_latent(prior, likelihood, proposal, x, exact)


@situation("HalfNormal scale, 5 observations", "a scale as the latent")
def half_normal() -> Posed:
    """The guide is log-normal."""
    prior, log_line = dist.HalfNormal(1.0), torch.linspace(-12, 3, 20_001, dtype=torch.float64)

    def likelihood(s: Tensor) -> Any:
        return dist.Normal(0.0, s[..., None].expand(*s.shape, 5)).to_event(1)

    def proposal(x: Tensor) -> Any:
        size = x.square().mean(-1).sqrt().log()
        return dist.LogNormal(0.9 * size - 0.05, 0.4)

    x = simulate(prior, likelihood)
    exact = log_integral(prior, likelihood, x, log_line.exp())
    return one_latent(prior, likelihood, proposal, x, exact)


@situation("LogNormal rate, Poisson counts", "a skewed positive latent")
def log_normal() -> Posed:
    """The guide is log-normal, too."""
    prior, points = dist.LogNormal(1.0, 1.0), (_LINE / 1.5).exp()

    def likelihood(rate: Tensor) -> Any:
        return dist.Poisson(rate)

    x = simulate(prior, likelihood)
    exact = log_integral(prior, likelihood, x, points)
    return one_latent(
        prior,
        likelihood,
        lambda x: dist.LogNormal((x + 1).log() - 0.1, 1.1 / (x + 1.5).sqrt()),
        x,
        exact,
    )


@situation("Dirichlet(.3), one choice", "mass at the corners of a simplex")
def choice() -> Posed:
    """Three categories."""
    prior = dist.Dirichlet(torch.full((3,), 0.3))
    x = simulate(prior, dist.Categorical)
    exact = torch.full((NUMBER,), -math.log(3), dtype=torch.float64)

    def proposal(x: Tensor) -> Any:
        return dist.Dirichlet(0.25 + torch.nn.functional.one_hot(x, 3))

    return one_latent(prior, dist.Categorical, proposal, x, exact)


@situation("Dirichlet(1), 20 choices", "counts on a simplex")
def choices() -> Posed:
    """Dirichlet-multinomial of four categories."""
    prior = dist.Dirichlet(torch.ones(4))

    def likelihood(p: Tensor) -> Any:
        return dist.Multinomial(20, probs=p)

    x = simulate(prior, likelihood)
    ones = torch.ones(4, dtype=torch.float64)
    exact = dist.DirichletMultinomial(ones, 20).log_prob(x.double())
    return one_latent(prior, likelihood, lambda x: dist.Dirichlet(0.9 * (1 + x)), x, exact)


@situation("angle, prior VonMises({mean})", "a latent on a circle", *each(mean=(0.0, 3.0)))
def angle(mean: float) -> Posed:
    """Pose x ~ N((cos t, sin t), .5); the guide is the posterior, von Mises, made less sure."""
    prior = dist.VonMises(mean, 1.0)
    circle = torch.linspace(-math.pi, math.pi, 20_001, dtype=torch.float64)

    def likelihood(t: Tensor) -> Any:
        return dist.Normal(torch.stack([t.cos(), t.sin()], -1), 0.5).to_event(1)

    def proposal(x: Tensor) -> Any:
        across, up = 4 * x[:, 0] + math.cos(mean), 4 * x[:, 1] + math.sin(mean)
        return dist.VonMises(torch.atan2(up, across), 0.8 * torch.hypot(across, up))

    x = simulate(prior, likelihood)
    exact = log_integral(prior, likelihood, x, circle)
    return one_latent(prior, likelihood, proposal, x, exact)


@situation("probit, one toss", "a likelihood that hardly informs")
def probit() -> Posed:
    """p(x = 1) is a normal probability, too."""
    prior, sd, offset = dist.Normal(0.0, 2.0), 2.0, 0.5

    def likelihood(z: Tensor) -> Any:
        return dist.Bernoulli(probs=torch.special.ndtr(z + offset))

    x = simulate(prior, likelihood)
    argument = (2 * x.double() - 1) * offset / math.sqrt(1 + sd**2)
    exact = torch.special.log_ndtr(argument)
    return one_latent(prior, likelihood, normal_of(prior, likelihood, _LINE[::10]), x, exact)


@situation("logit, ten items", "item responses", short=True)
def logit() -> Posed:
    """Ten items of other difficulty and discrimination."""
    prior = dist.Normal(0.0, 1.0)
    slope, intercept = torch.linspace(0.5, 2.5, 10), torch.linspace(-2.0, 2.0, 10)

    def likelihood(z: Tensor) -> Any:
        return dist.Bernoulli(logits=z[..., None] * slope + intercept).to_event(1)

    x = simulate(prior, likelihood)
    exact = log_integral(prior, likelihood, x, _LINE)
    return one_latent(prior, likelihood, normal_of(prior, likelihood, _LINE[::10]), x, exact)
