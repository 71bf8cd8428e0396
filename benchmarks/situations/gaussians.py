"""Linear Gaussians in many dimensions: the proposal, the number of draws, data and scales."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from .base import NUMBER, Posed, each, one_latent, situation

__all__ = ["LinearGaussian"]


class LinearGaussian:
    """z ~ N(0, I_d), x ~ N(W z, s² I), with its exact posterior and log p(x)."""

    def __init__(self, d: int, event_dim: int | None = None, noise: float = 1.0) -> None:
        self.d, self.noise = d, noise
        self.weight = torch.randn(event_dim or d + 2, d) / math.sqrt(d)
        w, eye = self.weight.double(), torch.eye(d, dtype=torch.float64)
        covariance = torch.linalg.inv(eye + w.T @ w / noise**2)
        covariance = (covariance + covariance.T) / 2
        self.tril = torch.linalg.cholesky(covariance).float()
        self.gain = (covariance @ w.T / noise**2).float()
        self.marginal = w @ w.T + noise**2 * torch.eye(len(w), dtype=torch.float64)

    def sample(self, number: int) -> Tensor:
        """Draw data."""
        z = torch.randn(number, self.d)
        return z @ self.weight.T + self.noise * torch.randn(number, len(self.weight))

    def log_px(self, x: Tensor) -> Tensor:
        """Exact log p(x), float64."""
        zero = torch.zeros(len(self.marginal), dtype=torch.float64)
        return dist.MultivariateNormal(zero, self.marginal).log_prob(x.double())

    def prior(self) -> Any:
        """Return p(z)."""
        return dist.Normal(torch.zeros(self.d), 1.0).to_event(1)

    def likelihood(self, z: Tensor) -> Any:
        """Return p(x | z)."""
        return dist.Normal(z @ self.weight.T, self.noise).to_event(1)

    def posterior(self, x: Tensor, widen: float = 1.0, shift: float = 0.0) -> Any:
        """Return p(z | x), its scale multiplied and its mean off by so many of its own."""
        mean = x @ self.gain.T + shift * self.tril[:, 0]
        return dist.MultivariateNormal(mean, scale_tril=widen * self.tril)

    def posed(
        self, proposal: Callable[[Tensor], Any], number: int = NUMBER, **options: Any
    ) -> Posed:
        """Pose it with a guide."""
        x = self.sample(number)
        return one_latent(self.prior(), self.likelihood, proposal, x, self.log_px(x), **options)


@situation(
    "linear Gaussian, d = {d}",
    "guide 1.1 times too wide",
    *each(d=(1, 2, 5, 10, 20, 50, 100, 200, 500)),
)
def dimensions(d: int) -> Posed:
    """Weights whose spread grows with the dimension."""
    lg = LinearGaussian(d)
    return lg.posed(lambda x: lg.posterior(x, 1.1), number=NUMBER if d < 500 else 16)


@situation("guide exact, d = {d}", "constant weights", *each(d=(10, 1)), short=True)
def exact_guide(d: int) -> Posed:
    """Weights without spread."""
    lg = LinearGaussian(d)
    return lg.posed(lg.posterior)


@situation(
    "guide x {widen}, d = {d}",
    "guide of another width than the posterior",
    {"widen": 0.5, "d": 1},
    *each(widen=(0.7,), d=(1, 10)),
    *each(widen=(2.0,), d=(2, 10)),
    short=True,
)
def width(widen: float, d: int) -> Posed:
    """Weights of infinite variance below 1/√2, tame above 1."""
    lg = LinearGaussian(d)
    return lg.posed(lambda x: lg.posterior(x, widen))


@situation(
    "guide shifted by {shift} sd, d = {d}",
    "guide beside the posterior",
    *each(shift=(1.0, 3.0), d=(2,)),
)
def shifted(shift: float, d: int) -> Posed:
    """Log-normal weights."""
    lg = LinearGaussian(d)
    return lg.posed(lambda x: lg.posterior(x, shift=shift))


@situation("prior as guide, d = {d}", "few draws near the posterior", *each(d=(2, 10)))
def prior_as_guide(d: int) -> Posed:
    """The guide of no inference."""
    lg = LinearGaussian(d, noise=0.5)
    return lg.posed(lambda x: lg.prior().expand([len(x)]))


@situation("mean-field guide, d = {d}", "guide without correlations", *each(d=(3, 10)))
def mean_field(d: int) -> Posed:
    """The guide that the ELBO of independent latents has: too narrow."""
    lg = LinearGaussian(d, noise=0.7)
    sd = (lg.tril @ lg.tril.T).inverse().diagonal().rsqrt()
    return lg.posed(lambda x: dist.Normal(x @ lg.gain.T, sd).to_event(1))


@situation("Student-t guide, d = 1", "guide with heavier tails than the posterior")
def heavy_guide() -> Posed:
    """Bounded weights."""
    lg = LinearGaussian(1)
    return lg.posed(lambda x: dist.StudentT(3.0, x @ lg.gain.T, lg.tril[0]).to_event(1))


@situation("K = {samples}", "number of draws", *each(samples=(2, 5, 10, 25, 10_000)))
def draws(samples: int) -> Posed:
    """Errors estimated from few draws, and errors so small that all else shows."""
    lg = LinearGaussian(3)
    return lg.posed(lambda x: lg.posterior(x, 1.3), number=256, samples=samples)


@situation("N = 1", "a single datum")
def single() -> Posed:
    """No mean over the data to hide behind."""
    lg = LinearGaussian(3)
    return lg.posed(lambda x: lg.posterior(x, 1.3), number=1)


@situation("N = 5000, K = 30", "the bias of log p(x) does not average out")
def many_data() -> Posed:
    """The error of the mean shrinks with the data, its bias does not."""
    lg = LinearGaussian(3)
    return lg.posed(lambda x: lg.posterior(x, 1.5), number=5000, samples=30)


@situation("target_error = 0.01, N = 1000", "draws until the error of the mean is small")
def target() -> Posed:
    """The bias has to be below the target, too."""
    lg = LinearGaussian(3)
    return lg.posed(lambda x: lg.posterior(x, 1.5), number=1000, target_error=0.01)


@situation(
    "latent of sd {sd}",
    "scales far from 1, guide too narrow",
    *each(sd=(30.0, 300.0, 1e-3)),
)
def scales(sd: float) -> Posed:
    """A wide or narrow prior, its datum as precise as it."""
    prior = dist.Normal(0.0, sd)

    def likelihood(z: Tensor) -> Any:
        return dist.Normal(z, sd)

    x = likelihood(prior.sample((NUMBER,))).sample()
    exact = dist.Normal(0.0, math.sqrt(2) * sd).log_prob(x.double())
    return one_latent(prior, likelihood, lambda x: dist.Normal(x / 2, 0.4 * sd), x, exact)


@situation("latents of sd 0.001, 1 and 300", "scales that differ within a vector")
def mixed_scales() -> Posed:
    """Three independent pairs of a latent and its datum."""
    sd = torch.tensor([1e-3, 1.0, 300.0])

    def likelihood(z: Tensor) -> Any:
        return dist.Normal(z, sd).to_event(1)

    prior = dist.Normal(torch.zeros(3), sd).to_event(1)
    x = likelihood(prior.sample((NUMBER,))).sample()
    exact = dist.Normal(0.0, math.sqrt(2) * sd.double()).log_prob(x.double()).sum(1)
    return one_latent(
        prior, likelihood, lambda x: dist.Normal(x / 2, 0.8 * sd).to_event(1), x, exact
    )


@situation("posterior of sd 0.001", "posterior much narrower than the prior")
def narrow_posterior() -> Posed:
    """A precise datum."""
    prior, noise = dist.Normal(0.0, 1.0), 1e-3

    def likelihood(z: Tensor) -> Any:
        return dist.Normal(z, noise)

    x = likelihood(prior.sample((NUMBER,))).sample()
    exact = dist.Normal(0.0, math.sqrt(1 + noise**2)).log_prob(x.double())
    return one_latent(prior, likelihood, lambda x: dist.Normal(x, 1.3 * noise), x, exact)


@situation("two latent sites in a chain", "latents that depend on each other")
def chain() -> Posed:
    """Pose a ~ N(0, 1), b ~ N(a, .8), x ~ N(b, .6), with a guide of independent sites."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            b = pyro.sample("b", dist.Normal(a, 0.8))
            pyro.sample("x", dist.Normal(b, 0.6), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("b", dist.Normal(0.82 * x, 0.55))
            pyro.sample("a", dist.Normal(0.5 * x, 0.75))

    marginal = dist.Normal(0.0, math.sqrt(1 + 0.64 + 0.36))
    x = marginal.sample((NUMBER,))
    return Posed(model, guide, (x,), marginal.log_prob(x.double()))
