"""Heavy tails, funnels and outliers."""

from __future__ import annotations

from typing import Any

import pyro
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

_PRIORS = {
    "Cauchy": dist.Cauchy(0.0, 1.0),
    "Student-t (3)": dist.StudentT(3.0, 0.0, 1.0),
    "Laplace": dist.Laplace(0.0, 1.0),
}


@situation(
    "{prior} prior, noise {noise}",
    "tails of the posterior that are those of the prior, or of the likelihood",
    *each(prior=_PRIORS, noise=(3.0, 0.1)),
)
def heavy_prior(prior: str, noise: float) -> Posed:
    """A normal guide for a posterior with the prior's tails or a precise datum."""
    chosen = _PRIORS[prior]

    def likelihood(z: Tensor) -> Any:
        return dist.Normal(z, noise)

    def proposal(x: Tensor) -> Any:
        mean, sd = moments(chosen, likelihood, x, around(x, 2001))
        return dist.Normal(mean, 1.2 * sd)

    def around(x: Tensor, number: int) -> Tensor:
        return x + noise * torch.linspace(-14, 14, number, dtype=torch.float64)[:, None]

    x = simulate(chosen, likelihood)
    exact = log_integral(chosen, likelihood, x, around(x, 40_001))
    return one_latent(chosen, likelihood, proposal, x, exact)


@situation("Student-t likelihood, 3 observations", "observations that contradict each other")
def heavy_likelihood() -> Posed:
    """Outliers give a posterior of several modes."""
    prior, line = dist.Normal(0.0, 1.0), torch.linspace(-9, 9, 20_001)

    def likelihood(z: Tensor) -> Any:
        return dist.StudentT(2.0, z[..., None].expand(*z.shape, 3), 0.3).to_event(1)

    x = simulate(prior, likelihood)
    exact = log_integral(prior, likelihood, x, line)
    return one_latent(prior, likelihood, normal_of(prior, likelihood, line[::10]), x, exact)


@situation(
    "funnel, {children} under a scale",
    "latents whose scale is a latent",
    *each(children=(1, 5, 20)),
)
def funnel(children: int) -> Posed:
    """Pose s ~ N(0, 1.5), z_c ~ N(0, e^s), x_c ~ N(z_c, .5), with a guide of independent sites."""
    log_scale = dist.Normal(0.0, 1.5)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            s = pyro.sample("s", log_scale)
            scale = s.exp()[..., None].expand(*s.shape, children)
            z = pyro.sample("z", dist.Normal(0.0, scale).to_event(1))
            pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            size = x.square().mean(-1, keepdim=True).clamp_min(0.1)
            kept = size / (size + 0.25)
            pyro.sample("s", dist.Normal(size[:, 0].log() / 2, 0.8))
            pyro.sample("z", dist.Normal(kept * x, 0.55 * kept.sqrt()).to_event(1))

    def given_scale(s: Tensor) -> Any:
        sd = ((2 * s).exp() + 0.25).sqrt()
        return dist.Normal(0.0, sd[..., None].expand(*s.shape, children)).to_event(1)

    x = simulate(log_scale, given_scale, NUMBER)
    points = torch.linspace(-14, 14, 8001, dtype=torch.float64)
    return Posed(model, guide, (x,), log_integral(log_scale, given_scale, x, points))
