"""Draws of whole data sets at once: their distributions, and that each is a draw of its own."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv
from pyro_vae.programs.evaluation import evaluating
from pyro_vae.programs.randomness import of_each_draw
from pyro_vae.programs.traces import run

N = 4000

FAMILIES = {
    "normal": dist.Normal(1.0, 2.0),
    "uniform": dist.Uniform(-1.0, 3.0),
    "exponential": dist.Exponential(2.0),
    "cauchy": dist.Cauchy(1.0, 2.0),
    "gamma": dist.Gamma(2.0, 3.0),
    "beta": dist.Beta(0.5, 2.0),
    "lognormal": dist.LogNormal(0.0, 0.5),
}
_CDF = {
    "gamma": lambda x: torch.special.gammainc(torch.tensor(2.0), 3 * x),
    "beta": lambda x: (3 * x.sqrt() - x.sqrt() ** 3) / 2,
}


@pytest.mark.parametrize("name", FAMILIES)
def test_draws_under_vmap_follow_the_distribution(name):
    """Kolmogorov's distance of N independent draws exceeds 1.95 / sqrt(N) once in a thousand."""
    torch.manual_seed(0)
    fn = FAMILIES[name]

    def draw(_):
        return pyro.sample("z", fn)

    with torch.no_grad(), of_each_draw():
        z = torch.vmap(draw, randomness="different")(torch.zeros(N))
    assert len(z.unique()) > 0.99 * N
    below = _CDF.get(name, fn.cdf)(z.sort().values)
    distance = (below - (torch.arange(N) + 0.5) / N).abs().max()
    assert distance < 1.95 / math.sqrt(N)


def test_dirichlet_under_vmap():
    torch.manual_seed(0)
    fn = dist.Dirichlet(torch.tensor([0.5, 1.0, 2.5]))
    with torch.no_grad(), of_each_draw():
        z = torch.vmap(lambda _: pyro.sample("z", fn), randomness="different")(torch.zeros(N))
    torch.testing.assert_close(z.sum(-1), torch.ones(N))
    error = (fn.variance / N).sqrt()
    assert ((z.mean(0) - fn.mean).abs() < 4 * error).all()
    assert ((z.var(0) / fn.variance - 1).abs() < 0.15).all()


class TestControlFlowOnData:
    """A model that branches on its data: p(y) is that of a mean, y ~ N(m, 1), m ~ N(0, 1)."""

    y = torch.tensor([0.5, 1.5, 1.0, 9.0])

    def model(self, y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        kept = [float(v) for v in y if v < 5]
        for n, value in enumerate(kept):
            pyro.sample(f"y{n}", dist.Normal(m, 1.0), obs=torch.tensor(value))

    def guide(self, y):
        pyro.sample("m", dist.Normal(0.6, 0.6))

    def test_draws_go_through_at_once(self):
        with evaluating(self.model, self.guide, self.y) as evaluation:
            pair = evaluation.pair
            assert pair.vectorized
            assert not pair.sets_at_once
            assert pair.drawn_at_once == ("model", "guide")
            batch = next(evaluation.blocks()).batch
            values, log_q = pair.propose(batch, 5)
            m = values["m"].double()
            joint = dist.Normal(0.0, 1.0).log_prob(m)
            joint = joint + sum(dist.Normal(m, 1.0).log_prob(v) for v in self.y[:3].double())
            torch.testing.assert_close(pair.log_joint(batch, values), joint, rtol=1e-5, atol=1e-5)
            expected = dist.Normal(0.6, 0.6).log_prob(m)
            torch.testing.assert_close(log_q, expected, rtol=1e-5, atol=1e-5)

    def test_log_evidence(self):
        evidence = pv.log_evidence(self.model, self.guide, self.y, samples=3000, method="auto")
        covariance = torch.eye(3).double() + 1.0
        exact = dist.MultivariateNormal(torch.zeros(3).double(), covariance)
        exact = exact.log_prob(self.y[:3].double())
        mean = evidence.mean()
        assert abs(mean.value - exact) < 4 * mean.mc_error + 1e-3


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("concentration", [0.7, 2.0])
def test_correlations_have_the_moments_of_their_density(concentration, at_once):
    """r of LKJ(d, eta) is 2 Beta(a, a) - 1 with a = eta + d / 2 - 1: E r² = 1 / (2 a + 1)."""
    d, a = 4, concentration + 1

    def draw(_):
        traced = run(lambda: pyro.sample("L", dist.LKJCholesky(d, concentration)), ())
        return traced.nodes["L"]["value"]

    torch.manual_seed(0)
    if at_once:
        with of_each_draw():
            factor = torch.vmap(draw, randomness="different")(torch.zeros(N))
    else:
        factor = torch.stack([draw(None) for _ in range(N)])
    correlation = factor @ factor.mT
    torch.testing.assert_close(correlation.diagonal(dim1=1, dim2=2), torch.ones(N, d))
    rows, columns = torch.tril_indices(d, d, -1)
    squares = correlation[:, rows, columns].square()
    error = squares.std(0) / math.sqrt(N)
    assert ((squares.mean(0) - 1 / (2 * a + 1)).abs() < 4 * error).all()
    assert (correlation[:, rows, columns].mean(0).abs() < 4 * (1 / (2 * a + 1) / N) ** 0.5).all()
    one = run(lambda: pyro.sample("R", dist.LKJ(3, 2 * torch.ones(5))), ()).nodes["R"]["value"]
    assert one.shape == (5, 3, 3)
    torch.testing.assert_close(one.diagonal(dim1=1, dim2=2), torch.ones(5, 3))
