"""What one inspection of a pair establishes, or says in a sentence what is wrong."""

import math
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import constraints

import pyro_vae as pv
from pyro_vae.programs import Pair
from pyro_vae.programs.supports import support_of

SHORT = pyro.distributions.GaussianHMM(
    dist.Normal(torch.zeros(1), 1.0).to_event(1),
    0.9 * torch.eye(1),
    dist.Normal(torch.zeros(1), 0.5).to_event(1),
    torch.eye(1),
    dist.Normal(torch.zeros(1), 0.5).to_event(1),
)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Gamma(2.0, 2.0))


def observing(site, obs):
    """A model of positive rates that observes something of the data."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(1.0, 1.0))
            pyro.sample("x", site(z), obs=obs(x))

    return model


class TestObservations:
    @pytest.mark.parametrize(
        ("site", "obs", "shapes"),
        [
            (lambda z: dist.Exponential(z[:, None]).to_event(1), lambda x: x[:, 0], "(3,)"),
            (lambda z: dist.Exponential(z[:, None]).to_event(1), lambda x: x, "(3, 4)"),
            (lambda z: dist.Exponential(z), lambda x: x[:, :1], "(3, 1)"),
            (lambda z: dist.Exponential(z), lambda x: x[:2, 0], "(2,)"),
            (
                lambda z: dist.Exponential(z[:, None, None].expand(-1, 2, 2)).to_event(2),
                lambda x: x,
                "(3, 4)",
            ),
            (lambda z: dist.Exponential(z[:, None]).to_event(1), lambda x: x[0, 0], "()"),
        ],
        ids=["flat", "wider", "not an event", "fewer rows", "not reshaped", "one number"],
    )
    def test_of_another_shape(self, site, obs, shapes):
        with pytest.raises(ValueError, match=r"site 'x' observes a value of shape") as error:
            Pair.inspect(observing(site, obs), guide, (torch.ones(9, 4),))
        assert shapes in str(error.value)

    @pytest.mark.parametrize(
        ("site", "obs"),
        [
            (lambda z: dist.Exponential(z[:, None].expand(-1, 4)).to_event(1), lambda x: x),
            (lambda z: dist.Exponential(z), lambda x: x[:, 0]),
            (lambda z: dist.Bernoulli(probs=torch.exp(-z)), lambda x: torch.tensor(1.0)),
            (lambda z: SHORT, lambda x: x[..., None]),
        ],
        ids=["event", "number", "the same for all", "a chain of any length"],
    )
    def test_of_the_right_shape(self, site, obs):
        """What is allowed gives the densities of each datum by itself."""
        x = torch.rand(5, 4) + 0.1
        pair = Pair.inspect(observing(site, obs), guide, (x,))
        values, _ = pair.propose((x,), 2)
        found = pair.log_likelihood((x,), values)
        for n in range(5):
            one = pair.log_likelihood((x[n : n + 1],), {"z": values["z"][:, n : n + 1]})
            torch.testing.assert_close(one[:, 0], found[:, n])


def counts(rate):
    """A model of counts whose rates are a function of the latents."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(torch.ones(2), 1.0).to_event(1))
            pyro.sample("x", dist.Poisson(rate(z)).to_event(1), obs=x)

    return model


def seeing(concentration):
    """A guide whose concentrations are a function of the data."""

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Gamma(1 + concentration(x), 2.0).to_event(1))

    return guide


def attention(x):
    return (x @ x.T).softmax(-1) @ x


ALONE = counts(lambda z: z), seeing(lambda x: x)
MIXING = {
    "mean of the batch": lambda x: x - x.mean(-2, keepdim=True) + 3,
    "attention": attention,
    "cumulative": lambda x: x.cumsum(-2),
    "the row above": lambda x: x + x.roll(1, -2),
    "the first row": lambda x: x + x[..., :1, :],
    "by place": lambda x: x + torch.arange(x.shape[-2])[:, None],
    "batch norm": lambda x: 3 + nn.BatchNorm1d(2, track_running_stats=False)(x).tanh(),
}


class TestCompany:
    @pytest.mark.parametrize("mixing", MIXING)
    @pytest.mark.parametrize("number", [1, 2, 9])
    def test_rows_that_depend_on_others_are_refused(self, mixing, number):
        x = dist.Poisson(3 * torch.ones(number, 2)).sample()
        model, guide = ALONE
        with pytest.raises(ValueError, match=r"site 'x' of the model has another log density for"):
            Pair.inspect(counts(MIXING[mixing]), guide, (x,))
        if number > 2:
            with pytest.raises(ValueError, match=r"'z' of the guide has another log density for"):
                Pair.inspect(model, seeing(MIXING[mixing]), (x,))

    def test_rows_that_depend_on_themselves_are_not(self):
        torch.manual_seed(0)
        norm = nn.BatchNorm1d(2).eval()  # with running statistics
        x = dist.Poisson(3 * torch.ones(5, 2)).sample()
        model = counts(lambda z: 1 + nn.functional.softplus(norm(z)))

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Gamma(torch.ones(2), 0.9).to_event(1))

        whole = pv.log_evidence(model, guide, x, samples=2000)
        assert norm.training is False
        alone = pv.log_evidence(model, guide, x[3:4], samples=2000, seed=1)
        error = (whole.standard_error[3] ** 2 + alone.standard_error[0] ** 2).sqrt()
        assert (whole.log_px[3] - alone.log_px[0]).abs() < 4 * error

    def test_of_programs_with_a_subsample_size_of_their_own(self):
        def pair(mix):
            def model(x):
                with pyro.plate("data", 40, subsample_size=4):
                    z = pyro.sample("z", dist.Gamma(torch.ones(2), 1.0).to_event(1))
                    pyro.sample("x", dist.Poisson(mix(z)).to_event(1), obs=x)

            def guide(x):
                with pyro.plate("data", 40, subsample_size=4):
                    pyro.sample("z", dist.Gamma(1 + x, 2.0).to_event(1))

            return model, guide

        x = dist.Poisson(3 * torch.ones(9, 2)).sample()
        assert Pair.inspect(*pair(lambda z: z), (x,)).fixed_rows == 4
        with pytest.raises(ValueError, match=r"'x' of the model has another log density for"):
            Pair.inspect(*pair(MIXING["mean of the batch"]), (x,))

    def test_of_programs_written_for_all_the_data(self):
        """A guide with a parameter for each datum is one for these data, in this order."""
        x = dist.Poisson(3 * torch.ones(7, 2)).sample()

        def guide(x):
            shape = pyro.param("shape", lambda: 1 + torch.arange(14.0).reshape(7, 2) / 10)
            with pyro.plate("data", 7):
                pyro.sample("z", dist.Gamma(shape, 1.0).to_event(1))

        assert Pair.inspect(ALONE[0], guide, (x,)).fixed_rows == 7
        with pytest.raises(ValueError, match=r"'x' of the model has another log density for"):
            Pair.inspect(counts(MIXING["mean of the batch"]), guide, (x,))

        auto = pyro.infer.autoguide.AutoNormal(ALONE[0])
        auto(x)
        torch.nn.init.normal_(auto.locs.z_unconstrained)
        assert Pair.inspect(ALONE[0], auto, (x,)).fixed_rows == 7
        with pytest.raises(ValueError, match=r"Shape mismatch inside plate\('data'\)"):
            Pair.inspect(ALONE[0], auto, (torch.cat([x, x + 1]),))  # whose place says nothing

    def test_what_does_not_run_is_said_as_it_was(self):
        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Gamma(torch.ones(2), 1.0).to_event(1))
                pyro.sample("x", dist.Poisson(z @ torch.ones(3, 2)).to_event(1), obs=x)

        with pytest.raises(RuntimeError, match="3x2"):
            Pair.inspect(model, ALONE[1], (torch.ones(9, 2),))

    def test_what_is_random_and_no_site_is_named(self):
        with pytest.raises(ValueError, match=r"'x' of the model .* each time .* module\.eval"):
            Pair.inspect(counts(lambda z: z * torch.rand(2)), ALONE[1], (torch.ones(5, 2),))

    def test_programs_of_one_number_of_rows(self):
        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Gamma(torch.ones(3, 2), 1.0).to_event(1))

        with pytest.raises(ValueError, match="run on 3 rows of data and not on 2"):
            Pair.inspect(ALONE[0], guide, (torch.ones(3, 2),))


class TestDataPlate:
    """z_t ~ Gamma(2, 1), x_t | z_t ~ Poisson(z_t): p(x_t) is negative binomial."""

    def model(self, x):
        with pyro.plate("time", x.shape[1], dim=-2), pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Gamma(2.0, 1.0))
            pyro.sample("x", dist.Poisson(z), obs=x.T)

    def guide(self, x):
        with pyro.plate("time", x.shape[1], dim=-2), pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Gamma(2 + x.T, 2.1))

    @pytest.mark.parametrize("number", [1, 2, 3, 4, 65])
    @pytest.mark.parametrize("steps", [1, 2, 3])
    def test_in_another_plate(self, number, steps):
        x = dist.Poisson(2 * torch.ones(number, steps)).sample()
        pair = Pair.inspect(self.model, self.guide, (x,))
        assert (pair.data_dim, pair.plate_dims) == (-1, 2)
        found = pv.log_evidence(self.model, self.guide, x, samples=500)
        exact = dist.NegativeBinomial(2.0, probs=torch.tensor(0.5)).log_prob(x).sum(1)
        assert ((found.log_px - exact) / found.standard_error).abs().max() < 5

    def test_sites_outside_the_other_plate(self):
        def model(x):
            data = pyro.plate("data", len(x), dim=-1)
            with data:
                scale = pyro.sample("s", dist.Gamma(2.0, 1.0))
            with pyro.plate("time", 3, dim=-2), data:
                pyro.sample("x", dist.Poisson(scale), obs=x.T)

        def guide(x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("s", dist.Gamma(2 + x.sum(1), 4.1))

        x = dist.Poisson(2 * torch.ones(5, 3)).sample()
        found = pv.log_evidence(model, guide, x, samples=500)
        # A negative binomial of the sum, and a multinomial of its parts.
        total = dist.NegativeBinomial(2.0, probs=torch.tensor(0.75)).log_prob(x.sum(1))
        exact = total + torch.stack(
            [dist.Multinomial(int(r.sum()), torch.ones(3)).log_prob(r) for r in x]
        )
        assert ((found.log_px - exact) / found.standard_error).abs().max() < 5

    @pytest.mark.parametrize("number", [2, 3, 5])
    def test_in_a_loop_over_another_plate(self, number):
        def program(obs):
            def run(x):
                data = pyro.plate("data", len(x))
                for t in pyro.plate("time", 2):
                    with data:
                        z = pyro.sample(f"z{t}", dist.Gamma(2.0, 1.0))
                        if obs:
                            pyro.sample(f"x{t}", dist.Poisson(z), obs=x[:, t])

            return run

        x = dist.Poisson(2 * torch.ones(number, 2)).sample()
        found = pv.log_evidence(program(True), program(False), x, samples=2000)
        exact = dist.NegativeBinomial(2.0, probs=torch.tensor(0.5)).log_prob(x).sum(1)
        assert ((found.log_px - exact) / found.standard_error).abs().max() < 5

    def test_a_loop_over_the_data_around_another_plate(self):
        def program(obs):
            def run(x):
                for n in pyro.plate("data", len(x)):
                    with pyro.plate(f"time{n}", 2):
                        z = pyro.sample(f"z{n}", dist.Gamma(2.0, 1.0))
                        if obs:
                            pyro.sample(f"x{n}", dist.Poisson(z), obs=x[n])

            return run

        with pytest.raises(ValueError, match="data plate 'data' is a Python loop"):
            Pair.inspect(program(True), program(False), (torch.ones(5, 2),))

    def test_two_plates_of_data(self):
        def program(obs):
            def run(x):
                with pyro.plate("one", len(x), dim=-1), pyro.plate("other", len(x), dim=-2):
                    z = pyro.sample("z", dist.Gamma(2.0, 1.0))
                    if obs:
                        pyro.sample("x", dist.Poisson(z), obs=x[:, :1] + x[:, 0])

            return run

        with pytest.raises(ValueError, match="plates 'one', 'other' all have one item for each"):
            Pair.inspect(program(True), program(False), (torch.ones(5, 1),))

    @pytest.mark.parametrize("number", [3, 5])
    def test_no_plate_of_data(self, number):
        def program(obs):
            def run(x):
                with pyro.plate("parts", 3):
                    z = pyro.sample("z", dist.Gamma(2.0, 1.0))
                    if obs:
                        pyro.sample("x", dist.Poisson(z), obs=x.sum(0))

            return run

        with pytest.raises(ValueError, match=r"pyro\.plate\('parts', len\(x\)\)"):
            Pair.inspect(program(True), program(False), (torch.ones(number, 3),))


class TestObservedInTheGuide:
    """A guide that also learns to predict a treatment, of which nothing goes into q(z|x)."""

    @staticmethod
    def model(x, t):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Beta(2.0, 3.0))
            pyro.sample("t", dist.Bernoulli(probs=z), obs=t)
            pyro.sample("x", dist.Binomial(10, z), obs=x)

    @staticmethod
    def plain(x, t):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Beta(2 + x + t, 13.9 - x - t))

    @staticmethod
    def guide(x, t):
        pyro.sample("prior", dist.Normal(0.0, 1.0), obs=torch.tensor(0.3))  # outside the plate
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Beta(2 + x + t, 13.9 - x - t))
            pyro.sample("t", dist.Bernoulli(probs=torch.tensor(0.2)), obs=t)
            pyro.sample("predicted", dist.Poisson(1 + x), obs=x)

    @pytest.mark.parametrize("method", ["guide", "laplace", "auto"])
    def test_does_not_count(self, method):
        x = dist.Binomial(10, torch.full((6,), 0.4)).sample()
        t = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0, 0.0])
        found, same = (
            pv.log_evidence(self.model, guide, (x, t), samples=400, method=method)
            for guide in (self.guide, self.plain)
        )
        assert torch.equal(found.log_px, same.log_px)
        ends = torch.lgamma(2 + x + t) + torch.lgamma(14 - x - t) - torch.lgamma(torch.tensor(16.0))
        start = torch.lgamma(torch.tensor([2.0, 3.0])).sum() - torch.lgamma(torch.tensor(5.0))
        ways = dist.Binomial(10, 0.5 * torch.ones(())).log_prob(x) + 10 * torch.tensor(2.0).log()
        exact = ways + ends - start
        assert (found.log_px - exact).abs().max() < 4 * found.standard_error.max() + 1e-4

    def test_in_both_forms_of_samples(self):
        x, t = torch.tensor([3.0, 5.0]), torch.tensor([0.0, 1.0])
        pair = Pair.inspect(self.model, self.guide, (x, t))
        values, log_q = pair.propose((x, t), 4)
        shapes = (2 + x + t).double(), (13.9 - x - t).double()
        expected = dist.Beta(*shapes).log_prob(values["z"].double())
        for form in (pair, replace(pair, vectorized=False)):
            torch.testing.assert_close(form.log_guide((x, t), values), expected)
        torch.testing.assert_close(log_q, expected)

    def test_an_observed_site_of_the_guide_is_no_latent(self):
        def guide(x, t):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Beta(2.0, 3.0), obs=x / 10)

        with pytest.raises(ValueError, match="latent site 'z' of the model is missing"):
            Pair.inspect(self.model, guide, (torch.ones(3), torch.ones(3)))


def with_latent(prior, proposal, noise=lambda z: dist.Normal(z, 1.0)):
    """A pair of one latent number; prior and guide may depend on the datum."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior(x))
            pyro.sample("x", noise(z), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", proposal(x))

    return model, guide


def evidence_by_quadrature(prior, x, low, high, noise=lambda z: dist.Normal(z, 1.0)):
    grid = torch.linspace(low, high, 40_001, dtype=torch.float64)[1:-1, None]
    log_p = prior(x).log_prob(grid) + noise(grid).log_prob(x)
    return log_p.logsumexp(0) + math.log((high - low) / 40_000)


def ones(x):
    return torch.ones_like(x)


def shifted(x):
    """Twice an exponential number, which torch says may be any number."""
    twice = torch.distributions.AffineTransform(0.0, 2.0)
    return dist.TransformedDistribution(dist.Exponential(ones(x)), [twice])


NARROWER = {
    "half of all numbers": (
        lambda x: dist.Laplace(0 * x, 1.0),
        lambda x: dist.Exponential(ones(x)),
    ),
    "shorter": (lambda x: dist.Uniform(0.0, 2 * ones(x)), lambda x: dist.Uniform(0.0, ones(x))),
    "shorter for some": (
        lambda x: dist.Uniform(0.0, 1 + x.abs()),
        lambda x: dist.Uniform(0.0, 1 + x.abs() * (x < 0.4)),
    ),
    "ends": (lambda x: dist.Gamma(2 * ones(x), 1.0), lambda x: dist.Beta(ones(x), 2.0)),
    "fewer counts": (
        lambda x: dist.Poisson(ones(x)),
        lambda x: dist.Categorical(torch.ones(len(x), 4)),
    ),
    "of a mixture": (
        lambda x: dist.MixtureSameFamily(
            dist.Categorical(torch.ones(len(x), 2)),
            dist.Uniform(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 3.0])),
        ),
        lambda x: dist.Uniform(0.0, 2.0 * ones(x)),
    ),
    "a mixture": (
        lambda x: dist.Uniform(0.0, 4.0 * ones(x)),
        lambda x: dist.MixtureSameFamily(
            dist.Categorical(torch.ones(len(x), 2)),
            dist.Uniform(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 3.0])),
        ),
    ),
}
X = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.2], dtype=torch.float64)


class TestSupports:
    @pytest.mark.parametrize("case", NARROWER)
    def test_a_narrower_guide_is_refused(self, case):
        model, guide = with_latent(*NARROWER[case])
        with pytest.raises(ValueError, match=r"'z' has support .* only .* defensive=0\.1"):
            pv.log_evidence(model, guide, X)
        with pyro.validation_enabled(False):  # torch finds values outside of its own mixtures
            assert Pair.inspect(model, guide, (X,), narrow=True)

    def test_a_simplex_among_all_vectors_is_refused(self):
        def program(fn, obs=None):
            def run(x):
                with pyro.plate("data", len(x)):
                    z = pyro.sample("z", fn)
                    if obs:
                        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

            return run

        model = program(dist.Normal(torch.zeros(3), 1.0).to_event(1), obs=True)
        with pytest.raises(ValueError, match=r"only Simplex\(\) in the guide"):
            Pair.inspect(model, program(dist.Dirichlet(torch.ones(3))), (torch.ones(4, 3),))

    @pytest.mark.parametrize(
        ("prior", "proposal", "low", "high"),
        [
            (
                lambda x: dist.Exponential(ones(x)),
                lambda x: dist.Gamma(ones(x), 0.8),
                0.0,
                30.0,
            ),
            (lambda x: dist.Exponential(ones(x)), lambda x: dist.Normal(ones(x), 1.5), 0.0, 30.0),
            (lambda x: dist.Uniform(0.0, ones(x)), lambda x: dist.Beta(ones(x), 1.0), 0.0, 1.0),
            (shifted, lambda x: dist.Gamma(ones(x), 0.4), 0.0, 40.0),
            (
                lambda x: dist.Uniform(0.0, ones(x)),
                lambda x: dist.Uniform(-0.5 * ones(x), 1.5),
                0.0,
                1.0,
            ),
        ],
        ids=["equal", "all numbers", "equal interval", "stretched", "longer interval"],
    )
    def test_an_equal_or_wider_guide_gives_the_number(self, prior, proposal, low, high):
        found = pv.log_evidence(*with_latent(prior, proposal), X, samples=4000)
        exact = evidence_by_quadrature(prior, X, low, high)
        assert ((found.log_px - exact) / found.standard_error).abs().max() < 4

    def test_a_guide_as_narrow_as_the_likelihood_allows(self):
        """x | z ~ U(z - 1, z + 1) leaves no more of the prior than [x - 1, x + 1]."""
        pair = with_latent(
            lambda x: dist.Normal(0 * x, 1.0),
            lambda x: dist.Uniform(x - 1, x + 1),
            noise=lambda z: dist.Uniform(z - 1, z + 1),
        )
        found = pv.log_evidence(*pair, X, samples=4000)
        normal = dist.Normal(0.0, 1.0)
        exact = (normal.cdf(X + 1) - normal.cdf(X - 1)).log() - math.log(2)
        assert ((found.log_px - exact) / found.standard_error).abs().max() < 4

    @pytest.mark.parametrize(
        ("proposal", "method"),
        [
            (lambda x: dist.Uniform(-math.pi, math.pi * ones(x)), "guide"),
            (lambda x: dist.Normal(0 * x, 2.0), "guide"),  # an angle outside counts for nothing
            (lambda x: dist.VonMises(x, 2.0), "guide"),
            (lambda x: dist.VonMises(x, 2.0), "laplace"),
        ],
    )
    def test_angles_lie_in_one_turn(self, proposal, method, no_unreliable_warning):
        def prior(x):
            return dist.VonMises(0.5 * ones(x), 3.0)

        def noise(z):
            return dist.Normal(z.sin(), 0.8)

        pair = with_latent(prior, proposal, noise)
        found = pv.log_evidence(*pair, X, samples=4000, method=method)
        exact = evidence_by_quadrature(prior, X, -math.pi, math.pi, noise)
        assert (found.log_px - exact).abs().max() < 0.01 + 4 * found.standard_error.max()
        assert found.standard_error.max() < 0.05

    @pytest.mark.parametrize(
        ("prior", "proposal"),
        [
            (lambda x: dist.Poisson(ones(x)), lambda x: dist.Gamma(ones(x), 1.0)),
            (lambda x: dist.Bernoulli(0.5 * ones(x)), lambda x: dist.Beta(ones(x), 1.0)),
            (lambda x: dist.Gamma(ones(x), 1.0), lambda x: dist.Poisson(ones(x))),
        ],
    )
    def test_discrete_against_continuous(self, prior, proposal):
        with pytest.raises(ValueError, match=r"(discrete|continuous) in the model .* one kind"):
            Pair.inspect(*with_latent(prior, proposal), (X,))

    def test_a_mixture_of_intervals_is_its_own_guide(self):
        """Density zero where no component lies, and nowhere else."""

        def prior(x):
            ends = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 3.0])
            shares = torch.tensor([0.25, 0.75]).expand(len(x), 2)
            return dist.MixtureSameFamily(dist.Categorical(shares), dist.Uniform(*ends))

        found = pv.log_evidence(*with_latent(prior, prior), X, samples=4000)

        def part(low, high):
            return evidence_by_quadrature(lambda x: dist.Uniform(low, high), X, low, high)

        parts = [math.log(0.25) + part(0.0, 1.0), math.log(0.75) + part(1.0, 3.0)]
        exact = torch.stack(parts).logsumexp(0)
        assert ((found.log_px - exact) / found.standard_error).abs().max() < 4

    @pytest.mark.parametrize("who", ["model", "guide", "both"])
    @pytest.mark.parametrize("method", ["guide", "laplace"])
    def test_a_support_that_is_not_said(self, who, method):
        class Silent(dist.Normal):
            """Says nothing of its support."""

            @property
            def support(self):
                raise NotImplementedError

            def expand(self, shape, _instance=None):
                return Silent(self.loc.expand(shape), self.scale.expand(shape))

        def of(cls, x):
            return cls(0 * x, 1.0)

        def prior(x):
            return of(dist.Normal if who == "guide" else Silent, x)

        def proposal(x):
            return of(dist.Normal if who == "model" else Silent, x)

        pair = with_latent(prior, proposal)
        if who == "both" and method == "laplace":
            with pytest.raises(ValueError, match="does not say what its support is"):
                pv.log_evidence(*pair, X, method=method)
            return
        found = pv.log_evidence(*pair, X, samples=4000, method=method)
        exact = evidence_by_quadrature(lambda x: of(dist.Normal, x), X, -10.0, 40.0)
        assert ((found.log_px - exact) / found.standard_error).abs().max() < 4


def test_company_that_shows_among_many_data_only():
    """A mean over the batch, of data whose first rows are alike."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z + x.mean(), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.8))

    x = torch.cat([torch.zeros(5), torch.arange(20.0)])
    with pytest.raises(ValueError, match="when the data beside it are others"):
        pv.log_evidence(model, guide, x, samples=10)


def test_a_support_may_depend_on_the_latents():
    """x ~ Uniform(0, z): a draw of z below a datum does not put it outside."""

    def latent(x):
        return pyro.sample("z", dist.Uniform(torch.zeros(len(x)), 2.0))

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Uniform(torch.zeros(len(x)), latent(x)), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            latent(x)

    x = torch.linspace(0.2, 1.8, 8)
    found = pv.log_evidence(model, guide, x, samples=2000)
    exact = (0.5 * (2 / x.double()).log()).log()
    assert ((found.log_px - exact) / found.standard_error).abs().max() < 4.5
    with pytest.raises(ValueError, match="outside the support"):
        pv.log_evidence(model, guide, 3 * x)


@pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence")
@pytest.mark.parametrize("family", [dist.HalfNormal, dist.HalfCauchy])
@pytest.mark.parametrize("method", ["guide", "laplace", "auto"])
def test_folded_distributions_keep_their_support(family, method):
    """torch makes them of an absolute value, which is no monotone transform."""

    def model(x):
        with pyro.plate("data", len(x)):
            scale = pyro.sample("scale", family(torch.ones(len(x))))
            pyro.sample("x", dist.Normal(torch.zeros(len(x)), scale + 0.5), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("scale", dist.LogNormal(torch.zeros(len(x)), 1.0))

    x = torch.linspace(-2, 2, 12)
    grid = torch.linspace(1e-4, 200, 400_001).double()[:, None]
    density = family(1.0).log_prob(grid) + dist.Normal(0.0, grid + 0.5).log_prob(x.double())
    exact = density.logsumexp(0) + math.log(200 / 400_000)
    found = pv.log_evidence(model, guide, x, method=method, samples=2000)
    trusted = ~found.unreliable()
    assert trusted.double().mean() > 0.5
    assert ((found.log_px - exact) / found.standard_error)[trusted].abs().max() < 4.5


def test_families_made_of_transforms_state_their_own_support():
    """torch draws a Gumbel variable from a uniform one that stops short of 0 and 1."""

    def prior(x):
        return dist.Normal(0 * x, 1.0)

    def proposal(x):
        return dist.Gumbel(0 * x, 1.0)

    assert support_of(dist.Gumbel(0.0, 1.0)) is constraints.real
    Pair.inspect(*with_latent(prior, proposal), (X,))  # reaches as far as the prior


@pytest.mark.parametrize("wrap", ["mask", "event", "expand", "mixture"])
def test_moved_distributions_inside_others(wrap):
    one = torch.ones(2)
    minus = dist.transforms.AffineTransform(0.0, -1.0)
    moved = dist.TransformedDistribution(dist.Exponential(one), [minus])
    whole = {
        "mask": moved.mask(one > 0),
        "event": moved.to_event(1),
        "expand": moved.expand_by([3]),
        "mixture": dist.MixtureSameFamily(dist.Categorical(one), moved),
    }[wrap]
    inside = support_of(whole).check(torch.tensor([-2.0, -0.1]))
    outside = support_of(whole).check(torch.tensor([0.2, 0.1]))
    assert inside.all()
    assert not outside.any()
