"""Programs of which no proposal can be fitted: auto gives the guide's answer, with its verdict."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv


def check(evidence, exact):
    difference = evidence.log_px - exact
    assert (difference.abs() < 4.5 * evidence.standard_error + 1e-3).all()
    assert set(evidence.verdicts()) == {"trusted"}


def test_discrete_latents():
    """k ~ Poisson(2), x ~ N(k, 1): log p(x) by the sum over k."""

    def model(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Poisson(2.0))
            pyro.sample("x", dist.Normal(k, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Poisson(1 + x.clamp_min(0) / 2))

    x = torch.linspace(0, 4, 7)
    k = torch.arange(60.0).double()[:, None]
    terms = dist.Poisson(2.0).log_prob(k) + dist.Normal(k, 1.0).log_prob(x.double())
    check(pv.log_evidence(model, guide, x, samples=4000, method="auto"), terms.logsumexp(0))
    with pytest.raises(ValueError, match="latent site 'k' is discrete"):
        pv.log_evidence(model, guide, x, method="laplace")


def test_rows_of_a_fixed_number():
    def model(x):
        with pyro.plate("data", 20, 5):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(x):
        with pyro.plate("data", 20, 5):
            pyro.sample("z", dist.Normal(0.7 * x, 0.6))

    x = torch.linspace(-1, 1, 15)
    exact = dist.Normal(0.0, math.sqrt(1.25)).log_prob(x.double())
    check(pv.log_evidence(model, guide, x, samples=2000, method="auto"), exact)
    with pytest.raises(ValueError, match="needs programs that take any number of data"):
        pv.log_evidence(model, guide, x, method="refined")


def test_two_rows_that_mix_are_one_data_set():
    """A program of two data alone, each with the other's value as its mean: one log p(x)."""

    def model(batch):
        size = 2
        with pyro.plate("data", size):
            z = pyro.sample("z", dist.Normal(torch.zeros(size), 1.0))
            pyro.sample("x", dist.Normal(z + z.sum() + 0 * batch["x"], 1.0), obs=batch["x"])

    def guide(batch):
        with pyro.plate("data", 2):
            pyro.sample("z", dist.Normal(torch.zeros(2), 0.9))

    x = torch.tensor([0.3, -0.4])
    a = torch.eye(2).double() + 1
    normal = dist.MultivariateNormal(torch.zeros(2).double(), a @ a.T + torch.eye(2).double())
    evidence = pv.log_evidence(model, guide, {"x": x}, samples=4000, method="auto")
    assert evidence.data_set == 2
    assert len(evidence) == 1
    mean = evidence.mean()
    assert abs(mean.value - normal.log_prob(x.double())) < 4 * mean.mc_error + 1e-3
