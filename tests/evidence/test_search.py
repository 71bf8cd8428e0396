"""Posterior mass that a proposal misses: what no diagnostic of its weights can see."""

import math
import warnings
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import LinearGaussian

import pyro_vae as pv
import pyro_vae.evidence.search as module
from pyro_vae.evidence.annealing import Chains
from pyro_vae.evidence.ladder import Ladder
from pyro_vae.evidence.result import METHODS
from pyro_vae.evidence.search import search
from pyro_vae.programs.evaluation import evaluating

pytestmark = pytest.mark.search

SCALE = 0.2


def folded(x):
    """x ~ N(|z|, s), z ~ Laplace(0, 1): two modes, at x and -x."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Laplace(torch.zeros(()).double(), 1.0))
        pyro.sample("x", dist.Normal(z.abs(), SCALE), obs=x)


def one_side(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x, 1.1 * SCALE))


def two_sides(x):
    with pyro.plate("data", len(x)):
        half = torch.full((len(x), 2), 0.5).double()
        places = dist.Normal(torch.stack([x, -x], -1), 1.1 * SCALE)
        pyro.sample("z", dist.MixtureSameFamily(dist.Categorical(half), places))


@pytest.fixture(scope="module")
def distances():
    return torch.linspace(0.9, 3.0, 24).double()


def _exact(x):
    grid = torch.linspace(-12, 12, 48001).double()[:, None]
    density = dist.Laplace(0.0, 1.0).log_prob(grid) + dist.Normal(grid.abs(), SCALE).log_prob(x)
    return density.logsumexp(0) + math.log(24 / 48000)


@pytest.mark.parametrize("method", ["guide", "annealed"])
def test_a_missed_mode_is_found(method, distances):
    """Half of the mass: log 2 too low, with small errors and good weights."""
    with pytest.warns(pv.UnreliableEvidence, match="posterior mass that the proposal misses"):
        evidence = pv.log_evidence(
            folded, one_side, distances, method=method, samples=500, defensive=0.0
        )
    error = evidence.log_px - _exact(distances)
    assert error.mean() < -0.5
    assert evidence.unreliable().all()
    assert evidence.verdict.startswith("doubtful: missed (24 of 24 data)")
    assert evidence.search.annealed_missed > 6
    assert 0.3 < evidence.search.shortfall < 1.2  # log 2


def test_several_starts_are_the_cure(distances):
    evidence = pv.log_evidence(folded, one_side, distances, method="modes", samples=1000)
    assert evidence.verdict == "trusted"
    scores = (evidence.log_px - _exact(distances)) / evidence.standard_error
    assert scores.square().mean() < 2.5  # 24 squared scores: 5 of their errors
    assert evidence.standard_error.max() < 0.1
    assert evidence.rungs() == {"modes": 24}


def test_a_guide_of_both_sides_raises_no_alarm(distances):
    evidence = pv.log_evidence(folded, two_sides, distances, samples=500)
    assert evidence.verdict == "trusted"
    assert (evidence.search.annealed, evidence.search.annealed_missed) == (12, 0)
    assert (evidence.search.simulated, evidence.search.simulated_missed) == (16, 0)


def test_no_false_alarm_where_all_is_well():
    lg = LinearGaussian(latent_dim=4, event_dim=6, n=20)
    for method in ("guide", "laplace", "auto"):
        evidence = pv.log_evidence(lg.model, lg.wide_guide, lg.x, method=method, samples=200)
        assert not evidence.search.found, method
        assert evidence.search.annealed == 12


def test_the_search_does_not_change_the_estimate(distances):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pv.UnreliableEvidence)
        with_search = pv.log_evidence(folded, one_side, distances, samples=100)
        without = pv.log_evidence(folded, one_side, distances, samples=100, search=False)
    assert torch.equal(with_search.log_px, without.log_px)
    assert str(without.search) == "not looked for"
    assert without.verdict == "trusted"


def test_discrete_latents_are_looked_at_on_simulated_data():
    """A guide that never proposes a component: its data are those that it misses."""
    places = torch.tensor([-4.0, 0.0, 4.0]).double()

    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(torch.full((3,), 1 / 3).double()))
            pyro.sample("x", dist.Normal(places[c], 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            probs = torch.tensor([0.5, 0.5 - 1e-9, 1e-9]).double().expand(len(x), 3)
            pyro.sample("c", dist.Categorical(probs))

    x = torch.linspace(-4, 4, 30).double()
    with pytest.warns(pv.UnreliableEvidence):
        evidence = pv.log_evidence(model, guide, x, samples=200)
    assert evidence.search.simulated_missed > 0
    assert evidence.search.annealed == 0
    assert "discrete" in evidence.search.skipped


def test_results_keep_what_was_found(distances, tmp_path):
    evidence = pv.log_evidence(folded, two_sides, distances, samples=100)
    again = pv.Evidence.load(evidence.save(tmp_path / "e.json"))
    assert again.search == evidence.search
    assert again.verdict == evidence.verdict
    assert str(evidence.search) in str(evidence)


@pytest.mark.parametrize("view", ["reshaped", "column"])
def test_data_are_simulated_through_views(view):
    """A model that observes another shape, or a part, of its argument."""
    places = torch.tensor([-4.0, 0.0, 4.0]).double()

    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(torch.full((3,), 1 / 3).double()))
            observed = x.reshape(-1) if view == "reshaped" else x[:, 0]
            pyro.sample("x", dist.Normal(places[c], 1.0), obs=observed)

    def guide(x):
        with pyro.plate("data", len(x)):
            probs = torch.tensor([0.5, 0.5, 0.0]).double().expand(len(x), 3)
            pyro.sample("c", dist.Categorical(probs))

    x = torch.linspace(-4, 4, 30).double()[:, None]
    x = x if view == "reshaped" else torch.cat([x, x], 1)
    with pytest.warns(pv.UnreliableEvidence, match="posterior mass"):
        evidence = pv.log_evidence(model, guide, x, samples=200)
    assert evidence.search.simulated == 16
    assert evidence.search.simulated_missed > 1


def test_looks_at_up_to_a_tenth_of_the_work():
    lg = LinearGaussian(latent_dim=1, event_dim=2, n=1000)
    looked = {}
    for samples in (100, 10_000):
        with evaluating(lg.model, lg.wide_guide, lg.x) as evaluation:
            looked[samples] = search(evaluation, Ladder(samples=samples), 0).annealed
    assert looked == {100: 12, 10_000: 64}


@pytest.mark.slow
def test_no_datum_stays_where_many_had_to_leave():
    """Two narrow modes: some pilots of ``laplace`` meet no draw of the second one by chance."""
    lg = LinearGaussian(latent_dim=2, event_dim=4, n=64, scale=0.3, seed=3)
    x = lg.x - lg.bias

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", lg.prior())
            mean = z @ lg.weight.T
            both = dist.Normal(torch.stack([mean, -mean], -2), lg.scale).to_event(1)
            even = dist.Categorical(torch.full(both.batch_shape, 0.5).double())
            pyro.sample("x", dist.MixtureSameFamily(even, both), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            mean = x @ lg.weight @ lg.covariance / lg.scale**2
            tril = 1.1 * torch.linalg.cholesky(lg.covariance)
            pyro.sample("z", dist.MultivariateNormal(mean, scale_tril=tril))

    marginal = lg.weight @ lg.weight.T + lg.scale**2 * torch.eye(4).double()
    exact = dist.MultivariateNormal(torch.zeros(4).double(), marginal).log_prob(x)
    for seed in range(3):
        evidence = pv.log_evidence(model, guide, x, method="auto", seed=seed, search=False)
        wrong = (evidence.log_px - exact).abs() > 0.3
        assert not (wrong & ~evidence.unreliable()).any()


class TestChainsThatAgree:
    """Sixteen chains, each with a sixteenth of p(x) = 1; K draws whose weights are all alike.

    Ratios are those of the chains' ends to one draw's weight: ``K / 10`` is a tenth of all.
    """

    K = 500

    @pytest.fixture
    def looked(self, monkeypatch, distances):
        def look(rung, ratios, error=0.01, chains=16):
            weights = torch.zeros(self.K, 1).double()
            log_ratios = torch.zeros(chains, 1).double()
            log_ratios[: len(ratios), 0] = torch.tensor(ratios).double().log()

            weighed = SimpleNamespace(
                rung=METHODS.index(rung),
                fitted=SimpleNamespace(index=torch.arange(1)),
                log_weights=weights,
                ends=weights,
                columns={"standard_error": torch.tensor([error]).double()},
            )

            def anneal(space, batch, base, settings, moves, **options):
                ends = torch.zeros(chains, 1, 1).double()
                return Chains(torch.zeros(chains, 1).double(), ends, log_ratios, None)

            monkeypatch.setattr(module, "anneal", anneal)
            monkeypatch.setattr(Ladder, "weigh", lambda *_: [weighed])
            monkeypatch.setattr(Ladder, "ratio", lambda *_: log_ratios)
            with evaluating(folded, one_side, distances[:1]) as evaluation:
                found = module._look_at_given(
                    module.Search(), evaluation, Ladder(method=rung, samples=self.K), 1, (0, 0)
                )
            return found.annealed_missed == 1

        return look

    @pytest.mark.parametrize(
        ("ratios", "found"),
        [([51.0] * 3, True), ([51.0] * 2, False), ([49.0] * 16, False), ([404.0], True)],
    )
    def test_of_draws(self, looked, ratios, found):
        """Three with a tenth of the sum of all weights, or one with 400 times the largest."""
        assert looked("laplace", ratios) == found

    def test_their_share_is_held_against_the_error(self, looked):
        assert looked("laplace", [60.0] * 4, error=0.08)
        assert not looked("laplace", [60.0] * 4, error=0.09)

    @pytest.mark.parametrize("number", [3, 6])
    def test_of_few_annealed_chains(self, looked, number):
        """They end in the posterior, too: that some lie beyond all others is chance."""
        assert not looked("annealed", [1.5] * number)

    @pytest.mark.parametrize(("number", "found"), [(12, False), (13, True)])
    def test_of_the_annealed_chains_of_a_data_set(self, looked, number, found):
        """A fifth of 64 beyond all others is none."""
        assert looked("annealed", [1.5] * number, chains=64) == found
