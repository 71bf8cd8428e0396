"""Situations that break an error bar unless something is done: exact values, or a doubt."""

import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import LinearGaussian
from pyro import poutine
from pyro.distributions import transforms
from torch import nn

import pyro_vae as pv
from pyro_vae.evidence import unbiased_log_evidence
from pyro_vae.evidence.annealing import Annealing
from pyro_vae.evidence.diagnostics import effective_sample_size
from pyro_vae.evidence.ladder import Ladder
from pyro_vae.evidence.proposals import NormalProposal
from pyro_vae.evidence.search import search
from pyro_vae.evidence.space import Edges, Space
from pyro_vae.programs.checks import NonFiniteDensity
from pyro_vae.programs.evaluation import evaluating
from pyro_vae.programs.pair import Pair

pytestmark = pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence")

FITTED = ("refined", "laplace", "annealed", "auto")


def _scores(evidence, exact):
    return (evidence.log_px - exact) / evidence.standard_error


def _scaled(lg, factor):
    """A guide of so many times the posterior's scale."""

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", lg.posterior(x, widen=factor))

    return guide


def _grid(log_density, low, high, number=20001):
    """Log of an integral over one dimension, ``log_density`` of shape ``(number, ...)``."""
    grid = torch.linspace(low, high, number).double()
    return log_density(grid[:, None]).logsumexp(0) + math.log((high - low) / (number - 1))


class TestMaskedLatents:
    """Groups of different sizes: a latent effect and its observation for each member there is."""

    MOST = 3

    def model(self, x, size):
        with pyro.plate("data", len(x)):
            total = pyro.sample("total", dist.Normal(torch.zeros(()).double(), 1.0))
            for i in range(self.MOST):
                with poutine.mask(mask=i < size):
                    effect = pyro.sample(f"effect{i}", dist.Normal(total, 0.8))
                    pyro.sample(f"x{i}", dist.Normal(effect, 0.5), obs=x[:, i])

    def guide(self, x, size):
        with pyro.plate("data", len(x)):
            pyro.sample("total", dist.Normal(torch.zeros(len(x)).double(), 0.9))
            for i in range(self.MOST):
                with poutine.mask(mask=i < size):
                    pyro.sample(f"effect{i}", dist.Normal(0.7 * x[:, i], 0.6))

    @pytest.mark.parametrize("method", FITTED)
    def test_have_no_density_to_fit(self, method):
        torch.manual_seed(0)
        size = torch.tensor([1, 2, 3] * 6)
        x = 1.5 * torch.randn(18, self.MOST).double()
        evidence = pv.log_evidence(self.model, self.guide, (x, size), method=method, samples=400)
        exact = []
        for row, n in zip(x, size.tolist(), strict=True):
            covariance = torch.ones(n, n) + (0.8**2 + 0.5**2) * torch.eye(n)
            normal = torch.distributions.MultivariateNormal(
                torch.zeros(n).double(), covariance.double()
            )
            exact.append(normal.log_prob(row[:n]))
        scores = _scores(evidence, torch.stack(exact))
        assert scores.abs().max() < 4.5
        assert evidence.standard_error.max() < 0.15 or method == "refined"

    def test_dimensions_that_are_idle(self):
        size = torch.tensor([1, 3])
        batch = (torch.randn(2, self.MOST).double(), size)
        space = Space.of(Pair.inspect(self.model, self.guide, batch), batch)
        assert space.size == 4
        assert space.idle.tolist() == [[False, False, True, True], [False] * 4]

    def test_a_mask_inside_an_event_is_refused(self):
        there = torch.tensor([True, False])

        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample(
                    "z", dist.Normal(torch.zeros(len(x), 2), 1.0).mask(there).to_event(1)
                )
                pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).mask(there).to_event(1))

        with pytest.raises(ValueError, match="masked inside its event"):
            pv.log_evidence(model, guide, torch.randn(3), method="laplace", samples=50)

    def test_a_mask_of_a_whole_event_may_stand_inside_of_it(self):
        """``.mask(m[:, None]).to_event(1)`` is ``.to_event(1).mask(m)``, in either program."""
        x = torch.tensor([0.3, -1.0, 2.0]).double()
        there = torch.tensor([True, False, True])

        def model(x, there):
            with pyro.plate("data", len(x)):
                z = pyro.sample(
                    "z", dist.Normal(x.new_zeros(len(x), 2), 1.0).mask(there[:, None]).to_event(1)
                )
                loc = torch.where(there, z.sum(-1), 0.0)
                pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

        def guide(x, there):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1).mask(there))

        exact = dist.Normal(0.0, torch.where(there, 3.0, 1.0).double().sqrt()).log_prob(x)
        found = pv.log_evidence(model, guide, (x, there), method="laplace", samples=50)
        assert ((found.log_px - exact).abs() <= 5 * found.standard_error + 1e-6).all()
        assert found.standard_error.max() < 0.1

    def test_a_mask_of_what_is_transformed_is_none_of_the_event(self):
        """There the density is that of the transform alone: it is not the same program."""
        x = torch.tensor([0.3, -1.0, 2.0])
        there = torch.tensor([True, False, True])

        def model(x, there):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.LogNormal(torch.zeros(len(x)), 1.0).mask(there))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def guide(x, there):
            with pyro.plate("data", len(x)):
                normal = dist.Normal(torch.zeros(len(x)), 1.0).mask(there)
                pyro.sample(
                    "z", dist.TransformedDistribution(normal, [dist.transforms.ExpTransform()])
                )

        with pytest.raises(ValueError, match="masked in one of the programs and not"):
            pv.log_evidence(model, guide, (x, there), samples=50)


@pytest.mark.parametrize("method", ["refined", "laplace", "auto"])
def test_angles(method):
    """The density of an angle is periodic; as one of all numbers it would have no integral."""

    def model(x):
        with pyro.plate("data", len(x)):
            angle = pyro.sample("angle", dist.VonMises(torch.zeros(()).double(), 1.5))
            direction = torch.stack([angle.cos(), angle.sin()], -1)
            pyro.sample("x", dist.Normal(direction, 0.4).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("angle", dist.VonMises(torch.atan2(x[..., 1], x[..., 0]), 5.0))

    torch.manual_seed(0)
    angle = torch.linspace(-2.2, 2.2, 24).double()
    x = torch.stack([angle.cos(), angle.sin()], -1) + 0.4 * torch.randn(24, 2).double()

    def log_density(a):
        direction = torch.stack([a.cos(), a.sin()], -1)
        likelihood = dist.Normal(direction, 0.4).log_prob(x).sum(-1)
        return dist.VonMises(torch.zeros(()).double(), 1.5).log_prob(a) + likelihood

    exact = _grid(log_density, -math.pi, math.pi)
    evidence = pv.log_evidence(model, guide, x, method=method, samples=500)
    trusted = ~evidence.unreliable()
    assert trusted.double().mean() > 0.7
    assert _scores(evidence, exact)[trusted].abs().max() < 4.5


@pytest.mark.parametrize("method", ["laplace", "auto"])
def test_wide_latents(method):
    """Curvatures are small in the units of the latents, not in those of the posterior."""
    x = torch.linspace(-150, 150, 40)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 100.0))
            pyro.sample("x", dist.Normal(z, 50.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.8 * x, 15.0))

    exact = dist.Normal(0.0, math.hypot(100, 50)).log_prob(x.double())
    evidence = pv.log_evidence(model, guide, x, method=method, samples=500, defensive=0.0)
    assert not evidence.unreliable().any()
    assert _scores(evidence, exact).abs().max() < 4
    if method == "laplace":  # exact but for the widening: sqrt(2 s^2 - 1) / s^2 at s = 1.1
        assert evidence.ess.median() > 0.9 * 500


class TestHeavyTails:
    """A Cauchy prior with a weak likelihood: the posterior's tails are far beyond a normal's."""

    x = torch.tensor([0.0, 1.0] * 32).double()
    exact = math.log(0.5)  # by symmetry

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Cauchy(torch.zeros(()).double(), 1.0))
            pyro.sample("x", dist.Bernoulli(logits=0.5 * z), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.6 * (2 * x - 1), 1.3))

    @pytest.mark.parametrize("method", ["laplace", "auto"])
    def test_are_covered(self, method):
        evidence = pv.log_evidence(self.model, self.guide, self.x, method=method, samples=1000)
        scores = _scores(evidence, self.exact)
        assert not evidence.unreliable().any()
        assert scores.abs().max() < 4
        assert scores.square().mean() < 1.6  # 64 squared scores: 3.4 of their errors

    def test_by_the_prior_share(self):
        """The same without: the test above can fail."""
        bare = pv.log_evidence(
            self.model, self.guide, self.x, method="laplace", samples=1000, defensive=0.0
        )
        assert bare.unreliable().any()
        assert _scores(bare, self.exact).square().mean() > 4


def test_widening_shrinks_with_the_dimensions():
    """On a normal posterior: ESS / K = (sqrt(2 s^2 - 1) / s^2)^D at s = 1 + 0.5 / sqrt(D)."""
    lg = LinearGaussian(latent_dim=64, event_dim=66, n=6, scale=1.0, seed=2)
    batch = (lg.x,)
    space = Space.of(Pair.inspect(lg.model, lg.guide, batch), batch)
    tril = torch.linalg.cholesky(lg.covariance).expand(6, 64, 64)
    proposal = NormalProposal(space, lg.posterior(lg.x).loc, tril).widened()
    torch.manual_seed(0)
    values, log_q = proposal.draw(4000)
    share = effective_sample_size(space.pair.log_joint(batch, values) - log_q) / 4000
    s = 1 + 0.5 / 8
    expected = (math.sqrt(2 * s**2 - 1) / s**2) ** 64
    assert expected > 0.6
    torch.testing.assert_close(share, torch.full((6,), expected).double(), rtol=0.05, atol=0)
    few = NormalProposal(space, proposal.mean[:, :4], tril[:, :4, :4]).widened()
    torch.testing.assert_close(few.tril, 1.1 * tril[:, :4, :4])


@pytest.mark.slow
def test_rungs_draw_noise_of_their_own():
    """A datum on the guide and one on a fitted normal have errors that do not agree."""
    lg = LinearGaussian(latent_dim=3, event_dim=5, n=32, seed=4)

    def guide(x, factor):
        with pyro.plate("data", len(x)):
            loc = lg.posterior(x).loc
            tril = torch.linalg.cholesky(lg.covariance) * factor[:, None, None]
            pyro.sample("z", dist.MultivariateNormal(loc, scale_tril=tril))

    def model(x, factor):
        lg.model(x)

    factor = torch.tensor([1.25] * 16 + [0.3] * 16).double()
    pairs = []
    for seed in range(6):
        evidence = pv.log_evidence(
            model, guide, (lg.x, factor), method="auto", samples=300, seed=seed, defensive=0.0
        )
        assert evidence.rung.tolist() == [0.0] * 16 + [2.0] * 16
        scores = _scores(evidence, lg.log_px)
        pairs.append(torch.stack([scores[:16], scores[16:]]))
    correlation = torch.corrcoef(torch.cat(pairs, 1))[0, 1].item()
    assert abs(correlation) < 4 / math.sqrt(96)


def test_auto_climbs_when_the_estimate_itself_is_bad():
    """A guide of half the posterior's width passes no pilot by luck, and no final k̂."""
    lg = LinearGaussian(latent_dim=1, event_dim=1, n=300, scale=1.0, seed=5)

    narrow = _scaled(lg, 0.5)

    evidence = pv.log_evidence(lg.model, narrow, lg.x, method="auto", samples=500, defensive=0.0)
    assert evidence.rungs().get("guide", 0) == 0
    scores = _scores(evidence, lg.log_px)
    assert not evidence.unreliable().any()
    assert scores.square().mean() == pytest.approx(1, abs=5 * math.sqrt(2 / 300))


def test_auto_climbs_from_a_pilot_that_was_fooled(monkeypatch):
    """Even if every pilot passes: the estimate's own k̂ sends the data on."""
    monkeypatch.setattr(
        Ladder, "_will_do", lambda self, name, weights, share: torch.ones(weights.shape[1]).bool()
    )
    lg = LinearGaussian(latent_dim=2, event_dim=2, n=60, scale=1.0, seed=5)
    evidence = pv.log_evidence(
        lg.model, _scaled(lg, 0.3), lg.x, method="auto", samples=500, defensive=0.0
    )
    assert evidence.rungs()["laplace"] > 40
    assert (evidence.pareto_k[evidence.rung == 0] <= 0.7).all()
    late = evidence.rung == 2
    scores = _scores(evidence, lg.log_px)[late]
    assert scores.square().mean() == pytest.approx(1, abs=5 * math.sqrt(2 / len(scores)))


def test_error_of_the_mean_holds_its_bias():
    """Thousands of data: the errors average out, the bias of each log does not."""
    lg = LinearGaussian(latent_dim=3, event_dim=5, n=4000, seed=6)

    wide = _scaled(lg, 1.6)

    scores, plain = [], []
    for seed in range(4):
        evidence = pv.log_evidence(lg.model, wide, lg.x, samples=50, seed=seed)
        mean, exact = evidence.mean(), lg.log_px.mean().item()
        scores.append((mean.value - exact) / mean.mc_error)
        plain.append((evidence.log_px.mean().item() - exact) / mean.mc_error)
        assert mean.bias == pytest.approx(
            -evidence.standard_error.square().mean().item() / 2, rel=0.2
        )
    assert max(map(abs, scores)) < 3.5
    assert sum(plain) / 4 < -3


def test_two_guides_of_one_model_compare_equal():
    lg = LinearGaussian(latent_dim=3, event_dim=5, n=4000, seed=6)

    wide = _scaled(lg, 1.6)

    rows = pv.compare(
        {
            "good": pv.log_evidence(lg.model, lg.guide, lg.x, samples=50),
            "wide": pv.log_evidence(lg.model, wide, lg.x, samples=50),
        }
    ).rows
    assert rows[1].probability_better < 0.999


class TestEdges:
    @pytest.mark.parametrize("method", ["guide", "refined"])
    def test_mass_that_single_precision_cannot_tell_from_one(self, method):
        def model(x):
            with pyro.plate("data", len(x)):
                p = pyro.sample("p", dist.Beta(0.08, 0.08))
                pyro.sample("x", dist.Bernoulli(p), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("p", dist.Beta(0.07 + x, 1.07 - x))

        x = torch.tensor([0.0, 1.0] * 20)
        with pytest.warns(pv.UnreliableEvidence, match="rounding ends the support"):
            evidence = pv.log_evidence(model, guide, x, method=method, samples=1000)
        wrong = _scores(evidence, math.log(0.5)).abs() > 4
        assert (wrong & ~evidence.unreliable()).sum() <= 1
        assert evidence.unreliable().double().mean() > 0.4

    def test_harmless_where_little_mass_is_there(self):
        def model(x):
            with pyro.plate("data", len(x)):
                p = pyro.sample("p", dist.Beta(2.0, 3.0))
                pyro.sample("x", dist.Bernoulli(p), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("p", dist.Beta(2 + x, 4 - x))

        x = torch.tensor([0.0, 1.0] * 5)
        evidence = pv.log_evidence(model, guide, x, samples=300)
        assert (evidence.edge == 0).all()
        assert evidence.verdict == "trusted"

    def test_bounds_of_every_kind(self):
        """Draws at the least and greatest value of a support, per datum."""

        def model(x):
            with pyro.plate("data", len(x)):
                pyro.sample("width", dist.Gamma(1.0, 1.0))
                pyro.sample("place", dist.Uniform(x.new_full((len(x),), 2.0), 3.0 + 0 * x))
                pyro.sample("free", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("width", dist.Gamma(1.0, 1.0))
                pyro.sample("place", dist.Uniform(2.0, 3.0))
                pyro.sample("free", dist.Normal(0.0, 1.0))

        batch = (torch.zeros(4),)
        pair = Pair.inspect(model, guide, batch)
        edges = Edges.of(pair, batch)
        assert set(edges.bounds) == {"width", "place"}
        values = {
            "width": torch.tensor([[1.0, 0.0, 1e-30, 1.0]]),
            "place": torch.tensor([[2.5, 2.5, 3.0, 2.0]]),
            "free": torch.tensor([[0.0, 9.0, 0.0, 0.0]]),
        }
        assert edges.hit(values).tolist() == [[False, True, True, True]]


def test_annealing_never_reports_an_infinite_density():
    """A Gamma density at a latent rounded to zero is infinite: no chain counts it as evidence."""

    def model(x):
        with pyro.plate("data", len(x)):
            rate = pyro.sample("rate", dist.Gamma(0.08, 0.1))
            pyro.sample("x", dist.Poisson(rate), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("rate", dist.Gamma(0.07 + x, 1.1))

    x = torch.tensor([0.0, 1.0, 4.0] * 6)
    total, share = torch.tensor(0.08).double(), torch.tensor(0.1 / 1.1).double()
    counts = x.double()
    exact = (total + counts).lgamma() - total.lgamma() - (1 + counts).lgamma()
    exact = exact + total * share.log() + counts * torch.log1p(-share)
    try:
        evidence = pv.log_evidence(model, guide, x, method="annealed")
    except NonFiniteDensity as refusal:
        assert refusal.site == "rate"  # noqa: PT017
        return
    assert ((_scores(evidence, exact) > 4) & ~evidence.unreliable()).sum() == 0
    assert (evidence.log_px < exact + 1).all()


def test_annealing_honours_the_defensive_share():
    """Chains from the prior find the other mode; weighed by the mixture they add it rightly."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            pyro.sample("x", dist.Normal(z.square(), 0.4), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.sqrt(), 0.2 / x.sqrt()))

    x = torch.linspace(1.2, 3.0, 16).double()
    exact = _grid(
        lambda z: dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z * z, 0.4).log_prob(x), -6, 6
    )
    settings = Annealing(temperatures=20, chains=400)
    evidence = pv.log_evidence(
        model, guide, x, method="annealed", annealing=settings, defensive=0.5
    )
    assert _scores(evidence, exact).square().mean() < 2.5  # 16 squared scores: 4 errors
    without = pv.log_evidence(model, guide, x, method="annealed", annealing=settings, defensive=0.0)
    assert (without.log_px - exact).mean() < -0.5


def test_heavy_weights_are_said_of_unbiased_estimates():
    lg = LinearGaussian(latent_dim=4, event_dim=6, n=60, seed=7)

    narrow = _scaled(lg, 0.5)

    with pytest.warns(pv.UnreliableEvidence, match="no finite variance"):
        unbiased_log_evidence(lg.model, narrow, lg.x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unbiased_log_evidence(lg.model, lg.wide_guide, lg.x)


class TestReducedPrecision:
    class Linear(nn.Module):
        """A linear-Gaussian model whose products matter: small noise, many values."""

        def __init__(self, scale):
            super().__init__()
            torch.manual_seed(0)
            self.scale = scale
            self.net = nn.Linear(4, 40, bias=False)
            with torch.no_grad():
                self.net.weight.normal_(0, 0.5)
            weight = self.net.weight.detach()
            covariance = torch.linalg.inv(torch.eye(4) + weight.T @ weight / scale**2)
            self.tril = 1.1 * torch.linalg.cholesky((covariance + covariance.T) / 2)
            self.gain = covariance @ weight.T / scale**2
            self.x = torch.randn(96, 4) @ weight.T + scale * torch.randn(96, 40)
            marginal = weight.double() @ weight.double().T + scale**2 * torch.eye(40)
            zero = torch.zeros(40).double()
            self.exact = dist.MultivariateNormal(zero, marginal).log_prob(self.x.double())

        def model(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(self.net(z), self.scale).to_event(1), obs=x)

        def guide(self, x):
            with pyro.plate("data", len(x)):
                loc = x @ self.gain.T
                pyro.sample("z", dist.MultivariateNormal(loc, scale_tril=self.tril))

    def test_its_noise_is_part_of_each_error(self):
        program = self.Linear(0.15)
        with pytest.warns(pv.UnreliableEvidence, match="bfloat16 products add noise"):
            evidence = pv.log_evidence(
                program.model,
                program.guide,
                program.x,
                samples=512,
                compiled=True,
                precision="bfloat16",
            )
        scores = _scores(evidence, program.exact)
        assert (scores.abs() > 4).double().mean() <= 0.02
        assert evidence.precision_noise > 0.03
        assert (evidence.standard_error > evidence.precision_noise).all()


class TestGuidesThatKnowTheirOwnDrawsAlone:
    """A planar flow has no inverse: it tells the density of what it drew, and of nothing else."""

    def programs(self):
        torch.manual_seed(0)
        lg = LinearGaussian(latent_dim=2, event_dim=4, n=8, scale=1.5, seed=8)
        flow = transforms.Planar(2).double()

        def guide(x):
            with pyro.plate("data", len(x)):
                base = dist.Normal(torch.zeros(len(x), 2).double(), 1.0).to_event(1)
                pyro.sample("z", dist.TransformedDistribution(base, [flow]))

        return lg, guide

    @pytest.mark.parametrize("options", [{}, {"defensive": 0.3}, {"method": "auto"}])
    def test_are_evaluated(self, options):
        lg, guide = self.programs()
        evidence = pv.log_evidence(lg.model, guide, lg.x, samples=2000, **options)
        assert _scores(evidence, lg.log_px).abs().max() < 4
        assert evidence.standard_error.max() < 0.3

    def test_are_searched_by_a_normal_in_their_place(self):
        lg, guide = self.programs()
        with evaluating(lg.model, guide, lg.x) as evaluation:
            found = search(evaluation, Ladder(samples=2000), 0)
        assert not found.found
        assert found.annealed == 8

    def test_what_few_draws_have_not_met_is_found(self):
        """Of 200 draws none is where one datum has half its mass: its estimate is three errors low,
        and no weight is 400 times the largest."""
        lg, guide = self.programs()
        evidence = pv.log_evidence(lg.model, guide, lg.x, samples=200, search=False)
        with evaluating(lg.model, guide, lg.x) as evaluation:
            found = search(evaluation, Ladder(samples=200), 0)
        low = _scores(evidence, lg.log_px).min()
        assert low < -2.5
        assert found.annealed_missed == 1


class TestLargeCounts:
    """Successes in up to ten million trials of a common unknown rate: a beta-binomial."""

    def model(self, x, trials):
        with pyro.plate("data", len(x)):
            rate = pyro.sample("rate", dist.Beta(torch.tensor(2.0), 3.0))
            pyro.sample("x", dist.Binomial(trials, probs=rate), obs=x)

    def guide(self, x, trials):
        with pyro.plate("data", len(x)):
            pyro.sample("rate", dist.Beta(0.8 * (2 + x), 0.8 * (3 + trials - x)))

    @pytest.fixture
    def data(self):
        torch.manual_seed(0)
        trials = 10.0 ** torch.arange(8).repeat(12)
        return torch.binomial(trials, dist.Beta(2.0, 3.0).sample((96,))), trials

    @pytest.mark.parametrize("method", ["guide", "laplace", "auto"])
    def test_keep_their_digits(self, data, method):
        x, trials = (column.double() for column in data)
        two, three = torch.tensor([2.0, 3.0]).double()
        exact = dist.BetaBinomial(two, three, trials).log_prob(x)
        evidence = pv.log_evidence(self.model, self.guide, data, method=method, samples=500)
        scores = _scores(evidence, exact)
        assert scores.abs().max() < 4.5
        assert 0.7 < scores.square().mean().sqrt() < 1.3
        assert evidence.standard_error.max() < 0.05

    def test_when_compiled(self):
        level = torch.log(10.0 ** torch.arange(8).repeat(4))

        def model(x, level):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
                means = torch.stack([level + z, level - z], -1)
                pyro.sample("x", dist.Poisson(means.exp()).to_event(1), obs=x[:, :2])
                pyro.sample("y", dist.NegativeBinomial(4.0, logits=level + z), obs=x[:, 2])

        def guide(x, level):
            with pyro.plate("data", len(x)):
                size = (x[:, :2] + 1).log().mean(-1) - level + 0.5
                pyro.sample("z", dist.Normal(size, (2 * level.exp() + 1).rsqrt()))

        torch.manual_seed(0)
        x = torch.poisson(level.exp()[:, None].expand(-1, 3))
        with warnings.catch_warnings():
            warnings.simplefilter("error", pv.PyroVAEWarning)
            warnings.simplefilter("ignore", pv.UnreliableEvidence)
            plain, compiled = (
                pv.log_evidence(model, guide, (x, level), samples=100, compiled=compiled)
                for compiled in (False, True)
            )
        # Of the order of what the rates in float32 carry: they differ in their last digits.
        torch.testing.assert_close(compiled.log_px, plain.log_px, rtol=1e-6, atol=1e-3)


class TestMasksOfLatents:
    """A latent that counts in one of the densities only has no ratio of them."""

    LENGTHS = torch.tensor([3, 3, 3, 1, 2])

    def model(self, x, length):
        with pyro.plate("data", len(x)):
            for t in range(3):
                with poutine.mask(mask=t < length):
                    rate = pyro.sample(f"rate{t}", dist.Gamma(2.0, 1.0))
                    pyro.sample(f"x{t}", dist.Poisson(rate), obs=x[:, t])

    def guide(self, x, length, masked=True):
        with pyro.plate("data", len(x)):
            for t in range(3):
                with poutine.mask(mask=(t < length) if masked else True):
                    pyro.sample(f"rate{t}", dist.Gamma(1.5 + x[:, t], 1.9))

    def data(self):
        torch.manual_seed(0)
        return torch.poisson(torch.full((5, 3), 2.0)), self.LENGTHS

    def test_masked_in_the_model_alone_is_refused(self):
        """Although the first data, which a pilot looks at, mask nothing."""
        for method in ("guide", "laplace"):
            with pytest.raises(ValueError, match="latent site 'rate1' is masked in one of the"):
                pv.log_evidence(
                    self.model, lambda *given: self.guide(*given, masked=False), self.data(),
                    method=method, samples=30,
                )  # fmt: skip

    @pytest.mark.parametrize("method", [*FITTED, "modes"])
    def test_on_the_half_line(self, method):
        """Their transformation has a Jacobian, which idle dimensions do not."""
        x, length = self.data()
        evidence = pv.log_evidence(self.model, self.guide, (x, length), method=method, samples=1000)
        two = torch.tensor(2.0).double()
        each = dist.GammaPoisson(two, torch.tensor(1.0).double()).log_prob(x.double())
        exact = (each * (torch.arange(3) < length[:, None])).sum(1)
        assert _scores(evidence, exact).abs().max() < 4.5


@pytest.mark.parametrize("method", ["guide", "laplace", "auto"])
def test_bounded_priors_that_were_moved(method):
    """torch calls the support of -Exponential all numbers."""
    minus = dist.transforms.AffineTransform(0.0, -1.0)

    def model(x):
        with pyro.plate("data", len(x)):
            base = dist.Exponential(torch.ones(len(x)).double())
            z = pyro.sample("z", dist.TransformedDistribution(base, [minus]))
            pyro.sample("x", dist.Normal(z, 0.7), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(-0.5 + 0 * x, 1.0))

    x = torch.linspace(-3, 2, 24).double()
    exact = _grid(lambda z: z + dist.Normal(z, 0.7).log_prob(x), -40, -1e-9, 400_001)
    evidence = pv.log_evidence(model, guide, x, method=method, samples=1000)
    trusted = ~evidence.unreliable()
    assert _scores(evidence, exact)[trusted].abs().max() < 4.5
    assert trusted.double().mean() > 0.5


def test_squashed_guides_are_seen_to_be_narrow():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        squash = [dist.transforms.TanhTransform(), dist.transforms.AffineTransform(0.0, 1.0)]
        with pyro.plate("data", len(x)):
            base = dist.Normal(0.5 * x, 1.0)
            pyro.sample("z", dist.TransformedDistribution(base, squash))

    x = torch.linspace(-2, 2, 16).double()
    with pytest.raises(ValueError, match=r"Interval\(lower_bound=-1.0, upper_bound=1.0\) in the"):
        pv.log_evidence(model, guide, x)
    exact = dist.Normal(0.0, 2**0.5).log_prob(x)
    evidence = pv.log_evidence(model, guide, x, method="auto", samples=500)
    assert _scores(evidence, exact).abs().max() < 4.5


def test_a_single_draw_is_no_evidence():
    lg = LinearGaussian(n=6)
    evidence = pv.log_evidence(lg.model, lg.wide_guide, lg.x, samples=1)
    assert evidence.verdict == "doubtful: few draws (6 of 6 data)"


def test_latents_that_single_precision_cannot_tell_apart():
    """A posterior a few floating-point numbers wide."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(1000.0, 1e-3))
            pyro.sample("x", dist.Normal(z, 5e-4), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.2 * 1000 + 0.8 * x, 5e-4))

    evidence = pv.log_evidence(model, guide, torch.full((4,), 1000.0), samples=300)
    assert "rounding (4 of 4 data)" in evidence.verdict
