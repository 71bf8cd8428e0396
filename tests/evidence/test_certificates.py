"""certify of programs that hold their data, of guides that know no others, of exact values."""

import math
import warnings
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, autoguide

import pyro_vae as pv
from pyro_vae.evidence import bounds
from pyro_vae.evidence.refinement import fitted_from, moments_of_prior
from pyro_vae.evidence.space import Space
from pyro_vae.programs.pair import Pair

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

    def test_a_guide_that_does_not_see_the_simulated_values(self, simulated):
        """Of a function of the argument the model gets others, and the guide the old argument."""

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(0.4 * x, 0.45))

        def model(x):
            self.model(x / 2)

        certificate = certified(model, guide, 2 * self.x, number=40)
        check(certificate, self.exact(simulated["data"][1]))
        with pytest.raises(ValueError, match="the guide knows those alone"):
            certified(model, guide, 2 * self.x, method="guide")

    def test_the_prior_stands_for_a_blind_guide(self):
        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(0.8 * x, 0.5))

        pair = replace(Pair.inspect(self.model, guide, (self.x,)), blind=True)
        with torch.no_grad():
            values, log_q = pair.propose((self.x,), 500)
            again = pair.log_guide((self.x,), values)
        expected = dist.Normal(0.0, 1.0).log_prob(values["z"].double()).reshape(500, 12)
        torch.testing.assert_close(log_q, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(again, expected, rtol=1e-5, atol=1e-5)
        assert abs(values["z"].mean()) < 4 / math.sqrt(6000)

    def test_proposals_are_found_far_from_a_wide_prior(self):
        """z ~ N(0, 100²), x = 120 ± 0.5: the fit starts 120 units away, in steps of the prior."""

        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 100.0))
                pyro.sample("x", dist.Normal(z, 0.5), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x, 1.0))

        batch = (torch.full((4,), 120.0),)
        pair = replace(Pair.inspect(model, guide, batch), blind=True)
        with torch.no_grad():
            space = Space.of(pair, batch)
            found = fitted_from(space, batch, moments_of_prior(space, batch))
        assert ((found.mean - 120).abs() < 5).all()  # 200 steps of 0.05 would not leave 10

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


def test_linear_algebra_that_fails_in_the_program_is_a_sentence():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            torch.linalg.cholesky(z[..., None, None] * torch.eye(2))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.5 * x, 0.7))

    with pytest.raises(ValueError, match="the program fails at some draws of its latents"):
        pv.log_evidence(model, guide, torch.zeros(8))


@pytest.mark.parametrize("taken_out", [lambda z: z.numpy(), lambda z: torch.tensor(z.tolist())])
def test_a_simulator_without_slopes_is_refused_at_once(taken_out):
    """It leaves torch: what the bounds follow is not there. ``log_evidence`` works."""
    runs = []

    def model(x):
        runs.append(1)
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        loc = torch.as_tensor(taken_out(z) * 2.0)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    def guide(x):
        pyro.sample("z", dist.Normal(2 * x.sum() / (1 + 4 * len(x)), (1 + 4 * len(x)) ** -0.5))

    x = torch.tensor([0.5, 1.0, 1.5])
    exact = dist.MultivariateNormal(torch.zeros(3), torch.eye(3) + 4.0).log_prob(x)
    found = pv.log_evidence(model, guide, x, samples=20, progress=False)
    assert found.log_px.item() == pytest.approx(exact.item(), abs=1e-4)  # the guide is exact
    runs.clear()
    with pytest.raises(ValueError, match=r"cannot be differentiated.*bounds follow its slopes"):
        certified(model, guide, x, number=2)
    assert len(runs) < 100
