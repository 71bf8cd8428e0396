import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import LinearGaussian

import pyro_vae as pv
from pyro_vae.evidence.bounds import Certificate


def test_bounds_hold_the_exact_value():
    """100 simulated data of a linear Gaussian with a wrong guide: the interval with its margin of
    three standard errors holds the exact value for at least 97 (expected: all but 0.3)."""
    lg = LinearGaussian(latent_dim=4, event_dim=6, n=10, scale=0.5, seed=3)
    certificate = pv.certify(lg.model, lg.wide_guide, lg.x, number=100, samples=500)
    assert len(certificate) == 100
    gap, error = certificate.gap
    assert -3 * error < gap < 0.05
    # The data were simulated inside: exact values from the bounds' own evidence.
    assert abs(certificate.shortfall[0]) < 0.05
    assert "within" in str(certificate)


def test_interval_against_the_closed_form(monkeypatch):
    lg = LinearGaussian(latent_dim=4, event_dim=6, n=10, scale=0.5, seed=3)
    from pyro_vae.evidence import bounds

    seen = {}
    estimate = bounds.estimate

    def recording(evaluation, ladder, **options):
        seen["x"] = next(evaluation.source.blocks(100))[0]
        return estimate(evaluation, ladder, **options)

    monkeypatch.setattr(bounds, "estimate", recording)
    settings = pv.Annealing(temperatures=20, chains=32)
    certificate = pv.certify(
        lg.model, lg.wide_guide, lg.x, number=100, samples=500, annealing=settings
    )
    marginal = lg.weight @ lg.weight.T + lg.scale**2 * torch.eye(6).double()
    exact = torch.distributions.MultivariateNormal(lg.bias, marginal).log_prob(seen["x"])
    low, high = certificate.interval()
    assert ((low <= exact) & (exact <= high)).sum() >= 97
    # on average each bound is on its side, up to 4 standard errors
    for bound, sign in ((certificate.lower, -1), (certificate.upper, 1)):
        error = (bound - exact).std() / math.sqrt(100)
        assert sign * (bound - exact).mean() > -4 * error
    # simulated data follow the model: mean within 5 standard errors
    spread = (marginal.diagonal() / 100).sqrt()
    assert ((seen["x"].mean(0) - lg.bias).abs() < 5 * spread).all()


@pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence")
def test_two_latents_and_counts():
    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Gamma(2.0, 1.0))
            b = pyro.sample("b", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Poisson(a * b.exp()), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("a", dist.Gamma(2.0, 1.0))
            pyro.sample("b", dist.Normal(0.0, 1.0))

    x = torch.zeros(5, dtype=torch.float64)
    certificate = pv.certify(model, guide, x, number=30, samples=500)
    gap, error = certificate.gap
    assert -3 * error < gap < 0.2


def test_errors(linear_gaussian):
    lg = linear_gaussian

    with pytest.raises(ValueError, match="at least 1; got 0"):
        pv.certify(lg.model, lg.guide, lg.x, number=0)


def test_an_estimate_above_the_bounds_is_not_within():
    """``within`` looks to both sides of the estimate that is printed, which is bias-corrected."""
    zeros = torch.zeros(4, dtype=torch.float64)
    shifts = torch.tensor([0.9, 1.1, 1.0, 1.0], dtype=torch.float64)
    for sign in (1, -1):
        ones = torch.ones_like(zeros)
        evidence = pv.Evidence(
            log_px=sign * shifts - 0.5,
            standard_error=zeros,
            ess=ones,
            pareto_k=zeros,
            jackknife=sign * shifts,
            elbo=zeros,
            draws=ones,
            rung=zeros,
            samples=100,
            seed=0,
            event_size=1,
            data_sha256="",
        )
        certificate = Certificate(zeros, zeros, zeros, zeros, evidence, pv.Annealing())
        error = shifts.std().item() / 2
        assert certificate.within == pytest.approx(1 + 3.182 * error, abs=1e-3)  # t of 3 degrees
        assert certificate.shortfall[0] == pytest.approx(-sign)
        assert certificate.excess[0] == pytest.approx(sign)
        assert f"within {certificate.within:.3f} nats" in str(certificate)
