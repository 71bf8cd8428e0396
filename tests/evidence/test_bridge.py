"""Bridge sampling and predictive densities from draws of the posterior."""

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from test_whole import _EFFECTS, _ERRORS, Regression, schools, schools_exact

import pyro_vae as pv
from pyro_vae.evidence.bridge import _iterate


def posterior_of(r, number, seed=0):
    """Exact posterior draws of a linear regression, by site."""
    x = torch.cat([r.x, torch.ones(len(r.x), 1)], 1).double()
    prior = torch.tensor([r.scale] * r.x.shape[1] + [1.0]).double()
    precision = x.T @ x / 0.25 + (1 / prior**2).diag()
    mean = torch.linalg.solve(precision, x.T @ r.y.double() / 0.25)
    pyro.set_rng_seed(seed)
    draws = dist.MultivariateNormal(mean, precision_matrix=precision).sample((number,)).float()
    return {"w": draws[:, :-1], "b": draws[:, -1]}, mean, precision.inverse()


def test_bridge_of_exact_draws():
    r = Regression()
    draws, *_ = posterior_of(r, 2000)
    evidence = pv.bridge(r.model, (r.x, r.y), draws)
    assert len(evidence) == 1
    assert evidence.method == "bridge"
    assert evidence.verdict == "trusted"
    error = evidence.standard_error.item()
    assert 1e-4 < error < 0.02
    assert abs(evidence.log_px.item() - r.exact) < 4 * error + 1e-3


def test_error_of_the_bridge():
    """Over replicates its spread is the error that it states, also of a chain's draws."""
    r = Regression(number=8, features=2)
    values, errors = [], []
    warnings.simplefilter("ignore", pv.UnreliableEvidence)  # k̂ of so few draws
    for seed in range(30):
        draws, *_ = posterior_of(r, 400, seed)
        sticky = {name: value.repeat_interleave(16, 0) for name, value in draws.items()}
        evidence = pv.bridge(r.model, (r.x, r.y), sticky, seed=seed)
        values.append(evidence.log_px.item())
        errors.append(evidence.standard_error.item())
    z = (torch.tensor(values) - r.exact) / torch.tensor(errors)
    assert 0.65 < z.square().mean() < 1.6  # of 30 squares, with sd .26
    plain = pv.bridge(r.model, (r.x, r.y), posterior_of(r, 6400, 0)[0])
    assert plain.standard_error < 0.8 * torch.tensor(errors).mean()


def test_error_of_draws_of_a_chain():
    """Between two normals, as many draws of a chain that stays where it is 16 times in a row."""
    p, g = dist.Normal(torch.tensor(0.0).double(), 1.0), dist.Normal(torch.tensor(1.0).double(), 1)
    squares = []
    for seed in range(200):
        pyro.set_rng_seed(seed)
        draws = p.sample((100,)).repeat_interleave(16)
        others = g.sample((100,))
        ratios = [p.log_prob(z) - g.log_prob(z) for z in (draws, others)]
        log_r, error, *_ = _iterate(*ratios, 1)  # exactly 0
        squares.append((log_r / error) ** 2)
    mean, spread = torch.tensor(squares).mean(), 2**0.5 / 200**0.5
    assert abs(mean - 1) < 4 * spread + 0.2  # the number of effective draws is estimated


@pytest.mark.slow
def test_eight_schools_by_chains_of_nuts():
    pyro.set_rng_seed(0)
    kernel = pyro.infer.NUTS(schools, adapt_step_size=True, target_accept_prob=0.95)
    mcmc = pyro.infer.MCMC(kernel, num_samples=300, warmup_steps=200, disable_progbar=True)
    mcmc.run(_EFFECTS, _ERRORS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pv.UnreliableEvidence)  # the neck of the funnel
        evidence = pv.bridge(schools, (_EFFECTS, _ERRORS), mcmc.get_samples())
    error = evidence.standard_error.item()
    assert error < 0.5
    assert abs(evidence.log_px.item() - schools_exact()) < 4 * error + 0.02


def test_bridge_and_importance_sampling_compare():
    r = Regression()
    draws, *_ = posterior_of(r, 1000)
    one = pv.bridge(r.model, (r.x, r.y), draws)
    two = pv.log_evidence(r.model, r.guide, (r.x, r.y), method="laplace")
    rows = pv.compare({"bridge": one, "laplace": two}).rows
    assert abs(rows[1].difference) < 4 * rows[1].difference_error + 1e-3


def test_predictive_density_in_closed_form():
    r = Regression()
    draws, mean, covariance = posterior_of(r, 3000)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(6, 3, generator=generator)
    y = x.sum(1) + torch.randn(6, generator=generator) * 0.7
    one = torch.cat([x, torch.ones(6, 1)], 1).double()
    spread = ((one @ covariance * one).sum(1) + 0.25).sqrt()
    exact = dist.Normal(one @ mean, spread).log_prob(y.double())
    few = {name: value[:400] for name, value in draws.items()}
    evidence = pv.log_predictive(r.model, (x, y), few)
    error = (evidence.corrected() - exact).abs()
    assert (error < 4.5 * evidence.standard_error + 1e-3).all()
    assert len(evidence) == 6
    assert evidence.data_set == 0


def test_predictive_density_with_latents_of_each_datum():
    """x_n ~ N(z_n, 1), z_n ~ N(mu, 1), mu ~ N(0, 1): given five data all is normal."""
    data = torch.tensor([0.3, 1.2, -0.4, 0.8, 2.0])

    def model(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(mu, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x + mu) / 2, 0.75))

    variance = 1 / (1 + 5 / 2)
    mean = variance * data.sum() / 2
    pyro.set_rng_seed(0)
    draws = {"mu": mean + variance**0.5 * torch.randn(60)}
    new = torch.tensor([0.0, 1.0, 3.0])
    evidence = pv.log_predictive(model, new, draws, guide=guide, samples=200)
    exact = dist.Normal(mean, (variance + 2) ** 0.5).log_prob(new)
    assert ((evidence.corrected() - exact).abs() < 4.5 * evidence.standard_error + 1e-3).all()


class TestErrors:
    def test_draws_that_lack_a_latent(self):
        r = Regression()
        draws, *_ = posterior_of(r, 100)
        with pytest.raises(ValueError, match=r"draws lack latent sites \['b'\]"):
            pv.bridge(r.model, (r.x, r.y), {"w": draws["w"]})
        with pytest.raises(ValueError, match=r"'b' of the model is missing .* add it to the draws"):
            pv.log_predictive(r.model, (r.x, r.y), {"w": draws["w"][:2]})

    def test_draws_of_another_shape(self):
        r = Regression()
        draws, *_ = posterior_of(r, 100)
        with pytest.raises(ValueError, match=r"'b' have shape \(100, 1\); expected \(100,\)"):
            pv.bridge(r.model, (r.x, r.y), draws | {"b": draws["b"][:, None]})
        with pytest.raises(ValueError, match=r"expected .* for every latent site, S the same"):
            pv.log_predictive(r.model, (r.x, r.y), draws | {"b": draws["b"][:5]})

    def test_few_draws(self):
        r = Regression()
        draws, *_ = posterior_of(r, 60)
        with pytest.raises(ValueError, match="at least 20 of each"):
            pv.bridge(r.model, (r.x, r.y), draws, chains=4)

    def test_latents_of_each_datum(self, linear_gaussian):
        lg = linear_gaussian
        with pytest.raises(ValueError, match="bridge is for latents of the whole data set"):
            pv.bridge(lg.model, lg.x, {"z": torch.zeros(50, 2)})
