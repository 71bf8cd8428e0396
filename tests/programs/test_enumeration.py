"""Discrete latents that the guide leaves out are summed out, exactly."""

import itertools
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv
from pyro_vae.programs import Pair

ALL = {"enumerate": "parallel"}
SHARES = torch.tensor([0.3, 0.7], dtype=torch.float64)
SCALES = torch.tensor([0.3, 2.0], dtype=torch.float64)


def normal(loc, scale):
    return dist.Normal(torch.as_tensor(loc, dtype=torch.float64), scale)


class Spread:
    """z | c ~ N(0, s_c^2), x | z ~ N(z, 0.5^2): p(x) is a mixture of two normals."""

    @staticmethod
    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(SHARES), infer=ALL)
            z = pyro.sample("z", normal(0.0, SCALES[c]))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    @staticmethod
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.8 * x, 0.6))

    @staticmethod
    def exact(x):
        scale = (SCALES**2 + 0.25).sqrt()
        return (SHARES.log() + dist.Normal(0.0, scale).log_prob(x[:, None])).logsumexp(-1)


X = torch.tensor([-2.0, -0.5, 0.1, 0.7, 1.5], dtype=torch.float64)


@pytest.mark.parametrize("method", ["guide", "refined", "laplace", "auto"])
def test_evidence(method, no_unreliable_warning):
    found = pv.log_evidence(Spread.model, Spread.guide, X, samples=4000, method=method)
    difference = (found.log_px - Spread.exact(X)).abs()
    assert (difference < 4 * found.standard_error + 1e-3).all()
    assert found.standard_error.max() < 0.05


def test_densities_are_those_of_the_mixture():
    pair = Pair.inspect(Spread.model, Spread.guide, (X,))
    assert pair.summed == ("c",)
    values, log_q = pair.propose((X,), 3)
    z = values["z"]
    prior = (SHARES.log() + dist.Normal(0.0, SCALES).log_prob(z[..., None])).logsumexp(-1)
    likelihood = dist.Normal(z, 0.5).log_prob(X)
    for form in (pair, replace(pair, vectorized=False)):
        torch.testing.assert_close(form.log_prior((X,), values), prior)
        torch.testing.assert_close(form.log_likelihood((X,), values), likelihood)
        torch.testing.assert_close(form.log_joint((X,), values), prior + likelihood)
        torch.testing.assert_close(form.log_guide((X,), values), log_q)
        drawn, log_p = form.propose_prior((X,), 4000)
        assert set(drawn) == {"z"}
        torch.testing.assert_close(form.log_prior((X,), drawn), log_p)
        variance = float((SHARES * SCALES**2).sum())
        fourth = float((SHARES * 3 * SCALES**4).sum())
        error = ((fourth - variance**2) / drawn["z"].numel()) ** 0.5
        assert abs(drawn["z"].square().mean() - variance) < 4 * error


def test_the_prior_takes_part_in_a_mixture_of_proposals():
    found = pv.log_evidence(Spread.model, Spread.guide, X, samples=4000, defensive=0.3)
    scores = (found.log_px - Spread.exact(X)) / found.standard_error
    assert scores.abs().max() < 4


def test_bounds_of_simulated_data():
    settings = pv.evidence.Annealing(temperatures=30, chains=16)
    found = pv.certify(
        Spread.model, Spread.guide, X, number=20, samples=200, annealing=settings, method="guide"
    )
    gap, error = found.gap
    assert abs(gap) < 4 * error + 0.05


def brute_force(log_p, sizes):
    """Sum a density out over all combinations of values."""
    return torch.stack([log_p(*c) for c in itertools.product(*map(range, sizes))]).logsumexp(0)


class Sentences:
    """A topic for each datum, a word class for each place, a number read at each place."""

    topics = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    classes = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]], dtype=torch.float64)
    level = torch.tensor([-1.0, 1.5], dtype=torch.float64)

    def model(self, x):
        data = pyro.plate("data", len(x), dim=-1)
        with data:
            z = pyro.sample("z", normal(0.0, 1.0))
            topic = pyro.sample("topic", dist.Categorical(self.topics), infer=ALL)
        with pyro.plate("places", x.shape[1], dim=-2), data:
            kind = pyro.sample("class", dist.Categorical(self.classes[topic]), infer=ALL)
            pyro.sample("x", dist.Normal(self.level[kind] + z + 0.3 * topic, 0.8), obs=x.T)

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.mean(1), 0.7))

    def log_joint(self, x, z):
        def given(topic):
            places = [
                self.classes[topic, kind].log()
                + dist.Normal(self.level[kind] + z[..., None] + 0.3 * topic, 0.8).log_prob(x)
                for kind in range(2)
            ]
            return self.topics[topic].log() + torch.stack(places).logsumexp(0).sum(-1)

        return normal(0.0, 1.0).log_prob(z) + brute_force(given, [3])


@pytest.mark.parametrize("number", [1, 2, 3, 5])
def test_sites_in_inner_plates(number):
    programs = Sentences()
    x = torch.randn(number, 3, generator=torch.Generator().manual_seed(0)).double()
    pair = Pair.inspect(programs.model, programs.guide, (x,))
    assert set(pair.summed) == {"topic", "class"}
    values, _ = pair.propose((x,), 4)
    expected = programs.log_joint(x, values["z"].reshape(4, number))
    for form in (pair, replace(pair, vectorized=False)):
        torch.testing.assert_close(form.log_joint((x,), values), expected)
        torch.testing.assert_close(
            form.log_prior((x,), values), normal(0.0, 1.0).log_prob(values["z"]).reshape(4, number)
        )


class Chain:
    """A hidden Markov chain of three states, seen through a shift z, of its own length."""

    start = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    moves = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]], dtype=torch.float64)
    level = torch.tensor([-2.0, 0.0, 2.0], dtype=torch.float64)

    def model(self, x, length):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(0.0, 0.5))
            state = None
            for t in pyro.markov(range(x.shape[1])):
                with pyro.poutine.mask(mask=t < length):
                    odds = self.start if state is None else self.moves[state]
                    state = pyro.sample(f"s{t}", dist.Categorical(odds), infer=ALL)
                    pyro.sample(f"x{t}", dist.Normal(self.level[state] + z, 0.6), obs=x[:, t])

    def guide(self, x, length):
        with pyro.plate("data", len(x)):
            pyro.sample("z", normal(torch.zeros(len(x)), 0.5))


def test_chains_of_any_length():
    """The forward algorithm, also where the rest of a chain is masked."""
    chain = Chain()
    x = torch.randn(4, 7, generator=torch.Generator().manual_seed(1)).double() * 2
    length = torch.tensor([7, 1, 3, 5])
    pair = Pair.inspect(chain.model, chain.guide, (x, length))
    assert len(pair.summed) == 7
    values, log_q = pair.propose((x, length), 2)
    expected = torch.empty(2, 4, dtype=torch.float64)
    for s, n in itertools.product(range(2), range(4)):
        z = values["z"][s, n]
        seen = dist.Normal(chain.level + z, 0.6)
        forward = chain.start.log() + seen.log_prob(x[n, 0])
        for t in range(1, int(length[n])):
            forward = (forward[:, None] + chain.moves.log()).logsumexp(0) + seen.log_prob(x[n, t])
        expected[s, n] = forward.logsumexp(0)
    for form in (pair, replace(pair, vectorized=False)):
        found = form.log_joint((x, length), values) - log_q  # the guide is the prior
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("infer", [ALL, {**ALL, "expand": True}])
def test_values_that_are_vectors(infer):
    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.OneHotCategorical(SHARES), infer=infer)
            z = pyro.sample("z", normal(0.0, c @ SCALES))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    pair = Pair.inspect(model, Spread.guide, (X,))
    same = Pair.inspect(Spread.model, Spread.guide, (X,))
    values, _ = pair.propose((X,), 3)
    torch.testing.assert_close(pair.log_joint((X,), values), same.log_joint((X,), values))


def test_gradients_are_those_of_the_sum():
    pair = Pair.inspect(Spread.model, Spread.guide, (X,))
    z = torch.randn(2, 5, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    parts = SHARES.log() + dist.Normal(0.0, SCALES).log_prob(z[..., None])
    expected = parts.logsumexp(-1) + dist.Normal(z, 0.5).log_prob(X)
    (slope,) = torch.autograd.grad(expected.sum(), z)
    (found,) = torch.autograd.grad(pair.log_joint((X,), {"z": z}).sum(), z)
    torch.testing.assert_close(found, slope)


class Switching:
    """A mixture with no latent but the one that is summed out: log p(x) is exact."""

    @staticmethod
    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(SHARES), infer=ALL)
            pyro.sample("x", normal(0.0, SCALES[c]), obs=x)

    @staticmethod
    def guide(x):
        """Has no site."""

    @staticmethod
    def exact(x):
        return (SHARES.log() + dist.Normal(0.0, SCALES).log_prob(x[:, None])).logsumexp(-1)


@pytest.mark.parametrize("settings", [{}, {"method": "auto"}, {"chunk": 3}, {"defensive": 0.2}])
@pytest.mark.parametrize("number", [1, 5])
def test_nothing_is_left_to_draw(settings, number):
    x = X[:number]
    found = pv.log_evidence(Switching.model, Switching.guide, x, samples=50, **settings)
    torch.testing.assert_close(found.log_px, Switching.exact(x))
    assert found.standard_error.max() < 1e-7


def test_nothing_is_left_to_fit():
    with pytest.raises(ValueError, match=r"log p\(x\) is exact; use method='guide'"):
        pv.log_evidence(Switching.model, Switching.guide, X, method="laplace")


def test_a_site_of_both_programs_is_drawn():
    def guide(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(torch.tensor([0.5, 0.5]).double()), infer=ALL)
            pyro.sample("z", normal(0.0, SCALES[c]))

    pair = Pair.inspect(Spread.model, guide, (X,))
    assert pair.summed == ()
    assert set(pair.propose((X,), 2)[0]) == {"c", "z"}
    found = pv.log_evidence(Spread.model, guide, X, samples=4000)
    assert ((found.log_px - Spread.exact(X)) / found.standard_error).abs().max() < 4


def left_out(prior, *, infer=ALL, use=lambda c: c.double()):
    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", prior, infer=infer)
            z = pyro.sample("z", normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + use(c), 0.5), obs=x)

    return model


def test_what_cannot_be_summed_out():
    coin = dist.Bernoulli(torch.tensor(0.4))
    for model, message in (
        (left_out(dist.Poisson(torch.tensor(2.0))), "Poisson has no finite number of values"),
        (left_out(coin, infer={}), r"'c' .* is missing in the guide.* mark it infer"),
        (left_out(coin, infer={"enumerate": "sequential"}), r"mark it infer=\{'enumerate'"),
        (left_out(coin, use=lambda c: c.reshape(-1)[:3]), r"at all values of 'c' at once"),
        (left_out(dist.Normal(0.0, 1.0), infer={}), r"'c' .* is missing in the guide"),
    ):
        with pytest.raises(ValueError, match=message):
            Pair.inspect(model, Spread.guide, (X,))


def test_a_sum_across_plates_is_refused():
    def model(x):
        data = pyro.plate("data", len(x), dim=-1)
        with pyro.plate("parts", 2, dim=-2), data:
            c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.4)), infer=ALL)
        with data:
            z = pyro.sample("z", normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + c.sum(-2, keepdim=True), 0.5), obs=x)

    with pytest.raises(ValueError, match=r"depends on the enumerated site 'c' across plates"):
        Pair.inspect(model, Spread.guide, (X,))
