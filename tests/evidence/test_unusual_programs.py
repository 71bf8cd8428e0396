"""Programs that break an assumption: the exact value, or a refusal that names the cause."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.contrib.easyguide import EasyGuide
from pyro.infer.autoguide import AutoNormalMessenger
from torch.distributions import constraints

import pyro_vae as pv

pytestmark = pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence")

FITTED = ("refined", "laplace", "modes", "annealed")
X = torch.tensor([0.4, -1.1, 2.0, 0.3, -0.2, 1.4, -0.7])


def check(evidence, exact, errors=4.5):
    assert evidence.log_px.shape == exact.shape
    assert not evidence.unreliable().any()
    assert ((evidence.log_px - exact).abs() < errors * evidence.standard_error + 1e-3).all()


def normal_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, 0.8))


class TestPointsAmongLatents:
    """A latent that is one point whatever the others are has no density to be fitted."""

    @staticmethod
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            double = pyro.sample("double", dist.Delta(2 * z))
            pyro.sample("x", dist.Normal(double / 2, 1.0), obs=x)

    @staticmethod
    def guide(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x / 2 + 0.5, 0.6))
            pyro.sample("double", dist.Delta(2 * z))

    @pytest.mark.parametrize("method", FITTED)
    def test_are_refused(self, method):
        with pytest.raises(ValueError, match=r"'double' is a Delta.*pyro\.deterministic"):
            pv.log_evidence(self.model, self.guide, X, method=method, samples=100)
        with pytest.raises(ValueError, match="'double' is a Delta"):
            pv.certify(self.model, self.guide, X, number=3, samples=50)

    def test_auto_keeps_to_the_guide(self):
        found = pv.log_evidence(self.model, self.guide, X, method="auto", samples=4000)
        exact = dist.Normal(0.0, math.sqrt(2)).log_prob(X)
        good = ~found.unreliable()
        assert good.sum() > 3
        assert ((found.log_px - exact).abs() < 4.5 * found.standard_error)[good].all()

    def test_as_a_deterministic_site_every_rung_is_right(self):
        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                double = pyro.deterministic("double", 2 * z)
                pyro.sample("x", dist.Normal(double / 2, 1.0), obs=x)

        found = pv.log_evidence(model, normal_guide, X, method="laplace", samples=500)
        check(found, dist.Normal(0.0, math.sqrt(2)).log_prob(X))


@pytest.mark.parametrize("whole", [False, True])
def test_enumerated_sites_masked_by_their_distribution(whole):
    """Where a site does not count, its values are not counted either."""
    counts = torch.tensor([1, 0, 1, 1, 0, 0, 1]).bool()
    shares, places = torch.tensor([0.2, 0.5, 0.3]), torch.tensor([-2.0, 0.0, 1.0])

    def model(x, counts):
        z = pyro.sample("z", dist.Normal(0.0, 1.0)) if whole else None
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0)) if z is None else z
            fn = dist.Categorical(shares).mask(counts)
            k = pyro.sample("k", fn, infer={"enumerate": "parallel"})
            mean = z + torch.where(counts, places[k], torch.zeros(()))
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    def guide(x, counts):
        if whole:
            pyro.sample("z", dist.Normal(0.0, 0.7))
        else:
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x / 2, 1.0))

    z = torch.linspace(-8, 8, 3201).double()[:, None, None]
    of_each = (shares.log() + dist.Normal(z + places, 1.0).log_prob(X[:, None])).logsumexp(-1)
    seen = torch.where(counts, of_each, dist.Normal(z[..., 0], 1.0).log_prob(X))
    joint = dist.Normal(0.0, 1.0).log_prob(z[..., 0]) + (
        seen.sum(1, keepdim=True) if whole else seen
    )
    exact = joint.logsumexp(0) + math.log(16 / 3200)
    check(pv.log_evidence(model, guide, (X, counts), samples=3000), exact)


def test_a_support_that_depends_on_another_latent_of_all_the_data():
    def model(x):
        top = pyro.sample("top", dist.Uniform(0.0, 4.0))
        low = pyro.sample("low", dist.Uniform(0.0, top))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(low, 0.5), obs=x)

    def guide(x):
        top = pyro.sample("top", dist.Uniform(0.0, 4.0))
        pyro.sample("low", dist.Uniform(0.0, top))

    x = X + 1
    low = (torch.arange(4000).double() + 0.5) / 1000
    density = (
        (4 / low).log().log() - math.log(4) + dist.Normal(low[:, None], 0.5).log_prob(x).sum(1)
    )
    exact = (density - math.log(1000)).logsumexp(0)[None]
    for method in ("modes", "annealed"):
        with pytest.raises(ValueError, match="support of latent site 'low' depends on other lat"):
            pv.log_evidence(model, guide, x, method=method, samples=100)
    check(pv.log_evidence(model, guide, x, method="auto", samples=4000), exact)


@pytest.mark.parametrize("seeds", ["poutine", "torch"])
def test_a_guide_that_seeds_is_refused(seeds):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def by_torch(x):
        torch.manual_seed(3)
        normal_guide(x)

    guide = by_torch if seeds == "torch" else pyro.poutine.seed(normal_guide, rng_seed=3)
    with pytest.raises(ValueError, match=r"draws the same value of 'z' each time .* seeds"):
        pv.log_evidence(model, guide, X)
    check(pv.log_evidence(model, normal_guide, X), dist.Normal(0.0, math.sqrt(2)).log_prob(X))


class TestMeansOfAllData:
    """mu ~ N(0, 2²), z_n ~ N(mu, 1), x_n ~ N(z_n, 1)."""

    @staticmethod
    def model(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(mu, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def test_predictions_do_not_take_the_latents_of_other_data(self):
        precision = 0.25 + len(X) / 2
        mean, scale = X.sum() / 2 / precision, precision**-0.5
        generator = torch.Generator().manual_seed(0)
        mu = mean + scale * torch.randn(2000, generator=generator)
        draws = {"mu": mu, "z": torch.zeros(2000, len(X))}
        new = X.flip(0) + 0.5
        for x in (new, new[:3]):
            with pytest.raises(ValueError, match=r"draws hold \['z'\], which each datum has"):
                pv.log_predictive(self.model, x, draws, guide=normal_guide)
        few = {"mu": mu[:150]}
        found = pv.log_predictive(self.model, new, few, guide=normal_guide, samples=60)
        exact = dist.Normal(mean, math.sqrt(scale**2 + 2)).log_prob(new)
        assert ((found.log_px - exact).abs() < 4.5 * found.standard_error).all()


@pytest.mark.parametrize(("rows", "features"), [(7, 3), (7, 5), (3, 3), (2, 2), (2, 1), (1, 3)])
def test_plates_that_are_as_long_as_some_of_the_data(rows, features):
    """mu_f ~ N(0, 1), x_nf ~ N(mu_f, 1): the latents' plate is not that of the data."""
    x = torch.randn(rows, features, generator=torch.Generator().manual_seed(0))

    def model(x):
        with pyro.plate("features", features):
            mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mu, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("features", features):
            pyro.sample("mu", dist.Normal(x.sum(0) / (1 + rows), 1.1 * (1 + rows) ** -0.5))

    covariance = torch.eye(rows) + torch.ones(rows, rows)
    exact = dist.MultivariateNormal(torch.zeros(rows), covariance).log_prob(x.T).sum()[None]
    found = pv.log_evidence(model, guide, x, samples=3000)
    assert found.data_set == rows
    check(found, exact)


def test_data_joined_by_one_site():
    """z_n ~ N(0, 1) and x ~ N(z, K): p(x) is normal, and has no factors."""
    covariance = 0.3 * torch.eye(7) + 0.2 * torch.ones(7, 7)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.MultivariateNormal(z, covariance), obs=x)

    inverse = torch.linalg.inv(torch.eye(7) + covariance)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(inverse @ x, 0.6))

    zero = torch.zeros(7)
    exact = dist.MultivariateNormal(zero, torch.eye(7) + covariance).log_prob(X)[None]
    check(pv.log_evidence(model, guide, X, samples=3000), exact)


def test_all_sites_in_a_plate_of_outputs():
    """w_k ~ N(0, 1), y_nk ~ N(w_k t_n, 1), all of it inside the plate over k."""
    t = torch.linspace(-1, 1, 7)
    y = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))

    def model(t, y):
        with pyro.plate("outputs", 4, dim=-1):
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
            with pyro.plate("data", len(t), dim=-2):
                pyro.sample("y", dist.Normal(w * t[:, None], 1.0), obs=y)

    def guide(t, y):
        with pyro.plate("outputs", 4, dim=-1):
            pyro.sample("w", dist.Normal((t[:, None] * y).sum(0) / (1 + t @ t), 0.5))

    covariance = torch.eye(7) + torch.outer(t, t)
    exact = dist.MultivariateNormal(torch.zeros(7), covariance).log_prob(y.T).sum()[None]
    check(pv.log_evidence(model, guide, (t, y), samples=3000), exact)


class TestImproperPriors:
    """A density of one for every mean: p(x) is finite, though no mean can be drawn."""

    @staticmethod
    def prior():
        return dist.ImproperUniform(constraints.real, (), ())

    def test_of_each_datum(self):
        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", self.prior())
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x, 1.2))

        check(pv.log_evidence(model, guide, X, samples=2000), torch.zeros(7))
        with pytest.raises(ValueError, match="no draws, since it is improper; use method='guide'"):
            pv.log_evidence(model, guide, X, samples=100, defensive=0.1)

    def test_of_all_data(self):
        def model(x):
            z = pyro.sample("z", self.prior())
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def guide(x):
            pyro.sample("z", dist.Normal(x.mean(), 0.45))

        squares = (X - X.mean()).square().sum()
        exact = -0.5 * (6 * math.log(2 * math.pi) + math.log(7) + squares)
        check(pv.log_evidence(model, guide, X, samples=3000), exact[None])


def test_rows_taken_by_the_indices_of_a_plate_larger_than_a_block():
    x = torch.randn(20, generator=torch.Generator().manual_seed(0))

    def model(x):
        with pyro.plate("data", 20, subsample_size=5) as rows:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[rows])

    def guide(x):
        with pyro.plate("data", 20, subsample_size=5) as rows:
            pyro.sample("z", dist.Normal(x[rows] / 2, 0.8))

    with pytest.raises(ValueError, match=r"by the indices of plate 'data', of size 20.*len\(x\)"):
        pv.log_evidence(model, guide, x)


def test_mixtures_whose_components_end_at_different_places():
    """1.5 is possible under the second component alone."""
    fn = dist.MixtureSameFamily(
        dist.Categorical(torch.tensor([0.5, 0.5])),
        dist.Uniform(torch.zeros(2), torch.tensor([1.0, 2.0]), validate_args=False),
        validate_args=False,
    )

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", fn.expand([len(x)]), obs=x)

    found = pv.log_evidence(model, lambda x: None, torch.tensor([0.5, 1.5]))
    torch.testing.assert_close(found.log_px, torch.tensor([0.75, 0.25]).double().log())


def test_guides_with_a_call_of_their_own():
    def model(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    guide = AutoNormalMessenger(model, init_scale=0.5)
    guide(X)
    covariance = torch.eye(7) + 4.0
    exact = dist.MultivariateNormal(torch.zeros(7), covariance).log_prob(X)[None]
    check(pv.log_evidence(model, guide, X, method="auto", samples=2000), exact)


@pytest.mark.parametrize("kind", ["bits", "classes"])
def test_straight_through_latents_are_refused(kind):
    """Their density is of the relaxed value, which they keep out of sight."""
    warmth, odds = torch.tensor(0.5), torch.tensor([0.3, 0.7])

    def latent(x):
        if kind == "bits":
            return dist.RelaxedBernoulliStraightThrough(warmth, probs=odds[:1].expand(len(x)))
        return dist.RelaxedOneHotCategoricalStraightThrough(warmth, probs=odds.expand(len(x), 2))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", latent(x))
            pyro.sample("x", dist.Normal(z.reshape(len(x), -1)[:, 0], 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", latent(x))

    with pytest.raises(ValueError, match=r"'z' is Relaxed.*StraightThrough.* draw the relaxed var"):
        pv.log_evidence(model, guide, X)


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("rows", [2, 9])
def test_guides_that_remember_the_number_of_data(rows, fixed):
    """An EasyGuide keeps the plates of a run that failed; it is run on all the data alone."""

    def model(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("data", rows if fixed else len(x)):
            z = pyro.sample("z", dist.Normal(mu, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    class Guide(EasyGuide):
        def guide(self, x):
            mean = pyro.param("mean", torch.tensor(0.0))
            pyro.sample("mu", dist.Normal(mean, 0.8))
            with self.plate("data", len(x), dim=-1):
                loc = pyro.param("loc", lambda: torch.zeros(len(x)))
                pyro.sample("z", dist.Normal(loc, 1.0))

    x, guide = X.repeat(2)[:rows], Guide(model)
    guide(x)
    with torch.no_grad():
        pyro.param("loc").unconstrained().copy_(x / 2)
    covariance = torch.ones(rows, rows) + 2 * torch.eye(rows)
    exact = dist.MultivariateNormal(torch.zeros(rows), covariance).log_prob(x)[None]
    found = pv.log_evidence(model, guide, x, samples=4000)
    assert found.data_set == rows
    assert (found.log_px - exact).abs() < 4.5 * found.standard_error
