import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import LinearGaussian

from pyro_vae import analysis


def test_gaps_of_a_linear_gaussian():
    """Exact: approximation gap KL(best diagonal || posterior), amortization gap the rest."""
    lg = LinearGaussian(latent_dim=3, event_dim=5, n=60, scale=0.7, seed=2)
    gaps = analysis.inference_gaps(lg.model, lg.wide_guide, lg.x, samples=2000)
    precision = torch.linalg.inv(lg.covariance)
    approximation = 0.5 * (precision.diagonal().log().sum() + torch.logdet(lg.covariance))
    total = 3 * (math.log(1 / 1.3) + (1.3**2 - 1) / 2)
    assert gaps.approximation.mean().item() == pytest.approx(approximation.item(), abs=0.02)
    assert gaps.inference.mean().item() == pytest.approx(total, abs=0.02)
    torch.testing.assert_close(gaps.inference, gaps.approximation + gaps.amortization)
    assert "amortization gap" in str(gaps)


def _half_collapsed(x):
    """q = N(x, .1) in the first dimension, the prior in the second."""
    with pyro.plate("data", len(x)):
        loc = torch.stack([x[:, 0], torch.zeros(len(x)).to(x)], -1)
        scale = torch.tensor([0.1, 1.0]).to(x)
        pyro.sample("z", dist.Normal(loc, scale).to_event(1))


def _model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2).to(x), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z[..., :1], 0.1).to_event(1), obs=x)


def test_active_units():
    x = torch.randn(2000, 1, dtype=torch.float64)
    units = analysis.active_units(_model, _half_collapsed, x)
    assert units.number == 1
    assert units.total == 2
    first, second = units.variance["z"].tolist()
    assert first == pytest.approx(x.var().item(), abs=0.01)
    assert second < 1e-3


def test_rate_and_its_parts():
    """KL in closed form; the aggregate posterior of N(0, 1) data is nearly the prior."""
    x = torch.randn(1000, 1, dtype=torch.float64)
    result = analysis.rate(_model, _half_collapsed, x)
    kl = 0.5 * (x.square().mean().item() + 0.01 - 1 - math.log(0.01))
    assert result.rate == pytest.approx(kl, abs=4 * result.error)
    assert result.rate == pytest.approx(result.mutual_information + result.marginal)
    # I(x; z) of x ~ N(0, 1), z = x + N(0, .01): 0.5 log(1 + 100), up to the draw of 1,000
    assert result.mutual_information == pytest.approx(0.5 * math.log(101), abs=0.15)
    assert abs(result.marginal) < 0.15
    assert result.cap == pytest.approx(math.log(1000))
    assert result.verdict == "informative"


def test_verdicts():
    def prior(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2).to(x), 1.0).to_event(1))

    x = torch.randn(200, 1, dtype=torch.float64)
    assert "collapsed" in analysis.rate(_model, prior, x).verdict
    sharp = torch.linspace(-3, 3, 50, dtype=torch.float64).reshape(-1, 1)

    def pointed(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.expand(-1, 2), 1e-4).to_event(1))

    assert "at its cap" in analysis.rate(_model, pointed, sharp).verdict

    def displaced(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(5 + 0.1 * x.expand(-1, 2), 0.3).to_event(1))

    assert "do not fill the prior" in analysis.rate(_model, displaced, x).verdict


def test_kl_per_dimension():
    """Closed form of the used dimension, zero of the other; they add up to the rate."""
    x = torch.randn(1000, 1, dtype=torch.float64)
    kl = analysis.kl_per_dimension(_model, _half_collapsed, x)["z"]
    first = 0.5 * (x.square().mean().item() + 0.01 - 1 - math.log(0.01))
    assert kl.tolist() == [pytest.approx(first), pytest.approx(0, abs=1e-12)]
    result = analysis.rate(_model, _half_collapsed, x)
    assert kl.sum().item() == pytest.approx(result.rate, abs=4 * result.error)


def test_kl_per_dimension_leaves_out_what_does_not_factor():
    lg = LinearGaussian()  # its exact posterior has a full covariance
    assert analysis.kl_per_dimension(lg.model, lg.guide, lg.x) == {}


def test_scalar_latents():
    """Latents without event dimensions are one unit each."""
    x = torch.randn(80, generator=torch.Generator().manual_seed(0)).double() * 2

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))

    units = analysis.active_units(model, guide, x, samples=2000)
    assert units.total == units.number == 1
    # the noise of 2,000 draws is taken off again, up to its own error
    assert units.variance["z"].item() == pytest.approx((x / 2).var().item(), rel=0.02)
    kl = analysis.kl_per_dimension(model, guide, x)["z"]
    exact = 0.5 * (0.5 + (x / 2).square() - 1 - math.log(0.5))
    torch.testing.assert_close(kl, exact.mean()[None])


def test_one_datum_has_no_active_units():
    x = torch.randn(3, 1, dtype=torch.float64)
    with pytest.raises(ValueError, match="need at least two; got one"):
        analysis.active_units(_model, _half_collapsed, x[:1])
    rate = analysis.rate(_model, _half_collapsed, x[:1])
    assert math.isnan(rate.error)  # and torch does not warn
