"""Plates, masks, discrete latents, flows and supports: what programs look like."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as transforms
import torch
from pyro import poutine
from torch import Tensor

from .base import (
    NUMBER,
    Posed,
    each,
    log_integral,
    normal_of,
    one_latent,
    simulate,
    situation,
)
from .gaussians import LinearGaussian

_SHARES, _MEANS = torch.tensor([0.2, 0.3, 0.5]), torch.tensor([-2.0, 0.0, 2.0])


@situation("inner plate, 4 latents a datum", "latents in a plate inside the data's", short=True)
def inner_plate() -> Posed:
    """Pose z_t ~ N(0, 1), x_t ~ N(z_t, .5) in a plate at -1 within the data plate at -2."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-2), pyro.plate("inner", 4, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-2), pyro.plate("inner", 4, dim=-1):
            pyro.sample("z", dist.Normal(0.8 * x, 0.5))

    marginal = dist.Normal(0.0, math.sqrt(1.25))
    x = marginal.sample((NUMBER, 4))
    return Posed(model, guide, (x,), marginal.log_prob(x.double()).sum(1))


@situation("time plate around the data plate", "plates in the other order")
def outer_plate() -> Posed:
    """The same density with time at -2 and the data at -1."""

    def model(x: Tensor) -> None:
        with pyro.plate("time", 4, dim=-2), pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x.T)

    def guide(x: Tensor) -> None:
        with pyro.plate("time", 4, dim=-2), pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.8 * x.T, 0.5))

    marginal = dist.Normal(0.0, math.sqrt(1.25))
    x = marginal.sample((NUMBER, 4))
    return Posed(model, guide, (x,), marginal.log_prob(x.double()).sum(1))


@situation("series of 1 to 5 steps, padded", "latents and data masked by poutine.mask")
def padded_series() -> Posed:
    """An autoregressive latent seen in noise, over as many steps as a datum has."""
    steps, memory, noise = 5, 0.8, 0.7

    def model(x: Tensor, length: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = torch.zeros(len(x))
            for t in pyro.markov(range(steps)):
                with poutine.mask(mask=t < length):
                    z = pyro.sample(f"z{t}", dist.Normal(memory * z, 1.0))
                    pyro.sample(f"x{t}", dist.Normal(z, noise), obs=x[:, t])

    def guide(x: Tensor, length: Tensor) -> None:
        with pyro.plate("data", len(x)):
            for t in pyro.markov(range(steps)):
                with poutine.mask(mask=t < length):
                    pyro.sample(f"z{t}", dist.Normal(0.75 * x[:, t], 0.65))

    lag = torch.arange(steps)[:, None] - torch.arange(steps)
    response = torch.where(lag >= 0, memory ** lag.double(), 0.0)
    covariance = response @ response.T + noise**2 * torch.eye(steps, dtype=torch.float64)
    zero = torch.zeros(steps, dtype=torch.float64)
    x = dist.MultivariateNormal(zero, covariance).sample((NUMBER,)).float()
    length = 1 + torch.arange(NUMBER) % steps
    exact = [
        dist.MultivariateNormal(zero[:n], covariance[:n, :n]).log_prob(row[:n].double())
        for row, n in zip(x, length.tolist(), strict=True)
    ]
    return Posed(model, guide, (x, length), torch.stack(exact))


@situation(
    "missing values, mask=, {observed}",
    "log p of the observed values alone",
    *each(observed=("obs=x", "obs=x.reshape")),
)
def missing(observed: str) -> Posed:
    """A third of the values are not observed."""
    lg, flat = LinearGaussian(2, event_dim=6, noise=0.5), observed == "obs=x"

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", lg.prior())
            pyro.sample("x", lg.likelihood(z), obs=x if flat else x.reshape(-1, 6))

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", lg.posterior(x.reshape(-1, 6), 1.8))

    x, mask = lg.sample(NUMBER), torch.rand(NUMBER, 6) < 2 / 3
    exact = [
        dist.MultivariateNormal(
            torch.zeros(int(m.sum()), dtype=torch.float64), lg.marginal[m][:, m]
        ).log_prob(row[m].double())
        if m.any()
        else torch.zeros((), dtype=torch.float64)
        for row, m in zip(x, mask, strict=True)
    ]
    shape = (NUMBER, 6) if flat else (NUMBER, 2, 3)
    return Posed(
        model, guide, (x.reshape(shape),), torch.stack(exact), {"mask": mask.reshape(shape)}
    )


@situation(
    "poutine.scale left in, as {form}",
    "a weight for training that is no density",
    *each(form=("context", "decorator")),
)
def scaled(form: str) -> Posed:
    """Scales do not count in log p(x)."""
    prior, noise = dist.Normal(0.0, 1.0), 0.7

    def weighted(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior)
            pyro.sample("x", dist.Normal(z, noise), obs=x)

    def within(x: Tensor) -> None:
        with poutine.scale(scale=0.1):
            weighted(x)

    model = within if form == "context" else poutine.scale(scale=0.1)(weighted)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.67 * x, 0.65))

    marginal = dist.Normal(0.0, math.sqrt(1 + noise**2))
    x = marginal.sample((NUMBER,))
    return Posed(model, guide, (x,), marginal.log_prob(x.double()))


def _mixture(scale: float) -> Any:
    """p(x) of a normal mixture, float64."""
    return dist.MixtureSameFamily(dist.Categorical(_SHARES), dist.Normal(_MEANS, scale))


def _responsibilities(x: Tensor, scale: float) -> Tensor:
    """p(c | x) of it, made less sure."""
    joint = dist.Normal(_MEANS, scale).log_prob(x[..., None]) + _SHARES.log()
    return (0.8 * joint).softmax(-1)


@situation("discrete latent alone", "a latent that has no gradient", short=True)
def discrete() -> Posed:
    """Which of three normals a datum is from."""

    def likelihood(c: Tensor) -> Any:
        return dist.Normal(_MEANS[c], 0.8)

    x = _mixture(0.8).sample((NUMBER,))
    return one_latent(
        dist.Categorical(_SHARES),
        likelihood,
        lambda x: dist.Categorical(_responsibilities(x, 0.8)),
        x,
        _mixture(0.8).log_prob(x.double()),
    )


@situation(
    "discrete and continuous, {place}",
    "a latent of each kind",
    *each(place=("both in the guide", "discrete enumerated in the model")),
)
def mixed(place: str) -> Posed:
    """Pose c, then z ~ N(m_c, .5) and x ~ N(z, .5)."""
    enumerated = place == "discrete enumerated in the model"
    infer = {"enumerate": "parallel"} if enumerated else {}

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(_SHARES), infer=infer)
            z = pyro.sample("z", dist.Normal(_MEANS[c], 0.5))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            if enumerated:
                pyro.sample("z", dist.Normal(x, 0.6))
                return
            c = pyro.sample("c", dist.Categorical(_responsibilities(x, 0.5**0.5)))
            pyro.sample("z", dist.Normal((x + _MEANS[c]) / 2, 0.4))

    x = _mixture(0.5**0.5).sample((NUMBER,))
    return Posed(model, guide, (x,), _mixture(0.5**0.5).log_prob(x.double()))


@situation("flow prior, affine", "a TransformedDistribution as prior")
def affine_flow() -> Posed:
    """A linear flow of a Gaussian is a Gaussian: z = m + L e."""
    mean, tril = torch.tensor([1.0, -0.5]), torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    lg = LinearGaussian(2, noise=0.7)
    base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
    prior = dist.TransformedDistribution(base, [transforms.LowerCholeskyAffine(mean, tril)])
    factor = lg.weight.double() @ tril.double()
    marginal = dist.MultivariateNormal(
        lg.weight.double() @ mean.double(),
        factor @ factor.T + 0.49 * torch.eye(len(factor), dtype=torch.float64),
    )

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior)
            pyro.sample("x", lg.likelihood(z), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", lg.posterior(x, 1.3))

    x = marginal.sample((NUMBER,)).float()
    return Posed(model, guide, (x,), marginal.log_prob(x.double()))


@situation("flow prior, sinh-arcsinh", "a skewed TransformedDistribution as prior")
def skewed_flow() -> Posed:
    """Pose z = sinh(.6 asinh(e) + .5) of a standard normal e."""

    class SinhArcsinh(torch.distributions.Transform):
        domain = codomain = torch.distributions.constraints.real
        bijective, sign = True, 1

        def _call(self, e: Tensor) -> Tensor:
            return torch.sinh(0.6 * torch.asinh(e) + 0.5)

        def _inverse(self, z: Tensor) -> Tensor:
            return torch.sinh((torch.asinh(z) - 0.5) / 0.6)

        def log_abs_det_jacobian(self, e: Tensor, z: Tensor) -> Tensor:
            slope = 0.6 * torch.cosh(0.6 * torch.asinh(e) + 0.5)
            return slope.log() - torch.log1p(e * e) / 2

    prior = dist.TransformedDistribution(dist.Normal(0.0, 1.0), [SinhArcsinh()])

    def likelihood(z: Tensor) -> Any:
        return dist.Normal(z, 0.8)

    line = torch.linspace(-12, 14, 20_001, dtype=torch.float64)
    x = simulate(prior, likelihood)
    exact = log_integral(prior, likelihood, x, line)
    return one_latent(prior, likelihood, normal_of(prior, likelihood, line[::10]), x, exact)


@situation(
    "{guide} guide of a normal latent",
    "a guide that cannot reach all of the posterior: to refuse or to doubt",
    *each(guide=("HalfNormal", "Uniform")),
)
def narrower_support(guide: str) -> Posed:
    """Half of the posterior, or its tails, get no draws."""
    proposal = {"HalfNormal": dist.HalfNormal(1.0), "Uniform": dist.Uniform(-1.0, 1.0)}[guide]

    def likelihood(z: Tensor) -> Any:
        return dist.Normal(z, 2.0)

    prior = dist.Normal(0.0, 1.0)
    x = simulate(prior, likelihood)
    exact = dist.Normal(0.0, math.sqrt(5)).log_prob(x.double())
    return one_latent(prior, likelihood, lambda x: proposal.expand([len(x)]), x, exact)
