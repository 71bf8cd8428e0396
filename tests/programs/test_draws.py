"""Pyro's hidden Markov chains, of many draws of their parameters at once."""

import pyro
import pyro.distributions as dist
import torch

from pyro_vae.programs.draws import over_draws
from pyro_vae.programs.evaluation import evaluating

X = torch.tensor([0.3, -1.0, 2.0, 0.5]).double()


def _log_density(values):
    chain = dist.DiscreteHMM(
        torch.zeros(2).double(),
        torch.stack([values["stay"], -values["stay"]]).reshape(2, 1) * torch.eye(2).double(),
        dist.Normal(values["loc"], 1.0),
        duration=len(X),
    )
    return {"log p": chain.log_prob(X)}


def _model(x):
    loc = pyro.sample("loc", dist.Normal(torch.zeros(2).double(), 2.0).to_event(1))
    stay = pyro.sample("stay", dist.Normal(torch.zeros(()).double(), 1.0))
    pyro.factor("x", _log_density({"loc": loc, "stay": stay})["log p"] + 0 * x.sum())
    pyro.sample("y", dist.Normal(loc.sum(), 1.0), obs=x.sum())


def _guide(x):
    pyro.sample("loc", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
    pyro.sample("stay", dist.Normal(torch.zeros(()).double(), 1.0))


def test_are_those_one_by_one():
    generator = torch.Generator().manual_seed(0)
    values = {
        "stay": torch.randn(5, generator=generator).double(),
        "loc": torch.randn(5, 2, generator=generator).double(),
    }
    found, slopes = [], []
    for at_once in (True, False):
        given = {name: value.clone().requires_grad_() for name, value in values.items()}
        density = over_draws(_log_density, 1, 0, at_once=at_once, randomness="error")
        log_p = density(given)["log p"]
        found.append(log_p.detach())
        slopes.append(torch.autograd.grad(log_p.sum(), list(given.values())))
    torch.testing.assert_close(*found)
    torch.testing.assert_close(*slopes)


def test_programs_of_them_are_run_at_once():
    with evaluating(_model, _guide, X[None]) as evaluation:
        assert evaluation.pair.vectorized
