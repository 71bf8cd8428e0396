"""certify of programs that hold their data, of guides that know no others, of exact values."""

import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, autoguide

import pyro_vae as pv
from pyro_vae.evidence import bounds

SETTINGS = pv.Annealing(temperatures=20, chains=16)


@pytest.fixture
def simulated(monkeypatch):
    """What certify simulates, as the arguments of the evaluation it bounds."""
    seen = {}
    estimate = bounds.estimate

    def recording(evaluation, ladder, **options):
        seen["data"] = next(evaluation.blocks(100)).batch
        return estimate(evaluation, ladder, **options)

    monkeypatch.setattr(bounds, "estimate", recording)
    return seen


def certified(model, guide, x, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pv.UnreliableEvidence)
        return pv.certify(model, guide, x, samples=400, annealing=SETTINGS, **options)


def check(certificate, exact):
    """Bounds on their side of the exact values, and not far; up to 4 standard errors."""
    assert len(certificate) == len(exact)
    low, high = certificate.interval()
    assert ((low <= exact + 1e-3) & (exact <= high + 1e-3)).double().mean() >= 0.9
    number = math.sqrt(len(exact))
    for bound, sign in ((certificate.lower, -1), (certificate.upper, 1)):
        off = bound - exact
        assert sign * off.mean() > -4 * off.std() / number - 1e-3
        assert off.abs().mean() < 0.3
    difference = certificate.evidence.log_px - exact
    assert difference.mean().abs() < 4 * difference.std() / number + 0.02


class TestOfAWholeDataSet:
    """A mean of all the data: p(y) is normal with covariance s² I + t² 1 1'."""

    y = torch.tensor([1.2, 0.4, 1.9, 0.8, 1.1])

    def exact(self, y):
        covariance = 0.25 * torch.eye(5).double() + 4.0
        return dist.MultivariateNormal(torch.zeros(5).double(), covariance).log_prob(y.double())

    def model(self, y):
        mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
        with pyro.plate("data", 5):
            pyro.sample("y", dist.Normal(mean, 0.5), obs=y)

    def guide(self, *data):
        pyro.sample("mean", dist.Normal(self.y.mean(), 0.25))

    def test_data_in_the_closure(self, simulated):
        certificate = certified(lambda: self.model(self.y), self.guide, (), number=24)
        _, y = simulated["data"]
        assert not torch.equal(y[0], y[1])
        check(certificate, self.exact(y))

    def test_data_by_condition(self, simulated):
        model = poutine.condition(lambda: self.model(None), data={"y": self.y})
        certificate = certified(model, self.guide, (), number=24)
        check(certificate, self.exact(simulated["data"][1]))

    def test_a_function_of_the_argument(self, simulated):
        certificate = certified(lambda x: self.model(x / 2), self.guide, 2 * self.y, number=24)
        check(certificate, self.exact(simulated["data"][1]))

    def test_an_automatic_guide(self, simulated):
        pyro.clear_param_store()
        guide = autoguide.AutoNormal(self.model)
        certificate = certified(self.model, guide, self.y, number=24)
        check(certificate, self.exact(simulated["data"][0]))

    def test_the_guide_itself_is_of_no_use(self):
        with pytest.raises(ValueError, match="certify simulates other data, and the guide knows"):
            certified(lambda: self.model(self.y), self.guide, (), method="guide")

    def test_observations_that_depend_on_the_ones_before(self):
        def model(y):
            scale = pyro.sample("mean", dist.LogNormal(0.0, 1.0))
            before = torch.zeros(())
            for t in range(3):
                pyro.sample(f"y{t}", dist.Normal(before, scale), obs=y[t])
                before = y[t]

        def guide(y):
            pyro.sample("mean", dist.LogNormal(0.0, 0.5))

        with pytest.raises(ValueError, match="'y1' depends on observed values"):
            certified(model, guide, torch.tensor([0.5, 1.0, 2.0]))

    def test_terms_without_data(self):
        def model(y):
            self.model(y)
            pyro.factor("penalty", torch.tensor(-1.0))

        with pytest.raises(ValueError, match=r"'penalty' is a pyro\.factor"):
            certified(model, self.guide, self.y)


class TestOfEachDatum:
    """z ~ N(0, 1), x ~ N(z, 1/4): p(x) = N(0, 5/4)."""

    x = torch.linspace(-2, 2, 12)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def exact(self, x):
        return dist.Normal(0.0, math.sqrt(1.25)).log_prob(x.double())

    def test_an_automatic_guide_of_other_data(self, simulated):
        pyro.clear_param_store()
        guide = autoguide.AutoDiagonalNormal(self.model)
        svi = SVI(self.model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
        for _ in range(50):
            svi.step(self.x)
        certificate = certified(self.model, guide, self.x, number=40)
        check(certificate, self.exact(simulated["data"][0]))

    def test_exact_where_no_latent_is_left(self, simulated):
        def model(x):
            with pyro.plate("data", len(x)):
                k = pyro.sample("k", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
                pyro.sample("x", dist.Normal(2 * k, 1.0), obs=x)

        certificate = certified(model, lambda x: None, self.x, number=10)
        x = simulated["data"][0].double()
        parts = [dist.Normal(m, 1.0).log_prob(x) + math.log(p) for m, p in ((0, 0.7), (2, 0.3))]
        exact = torch.logaddexp(*parts)
        torch.testing.assert_close(certificate.lower, exact, rtol=1e-5, atol=1e-5)
        assert certificate.gap == (0.0, 0.0)

    def test_a_subsample_of_a_size_of_its_own(self, simulated):
        def model(x):
            with pyro.plate("data", 12, 4):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z, 0.5), obs=x)

        def guide(x):
            with pyro.plate("data", 12, 4):
                pyro.sample("z", dist.Normal(0.8 * x, 0.5))

        certificate = certified(model, guide, self.x[:4], number=22)
        assert len(certificate) == 24  # whole subsamples
        gap, error = certificate.gap
        assert -4 * error - 1e-3 < gap < 0.1
        shortfall, error = certificate.shortfall
        assert abs(shortfall) < 4 * error + 0.02
