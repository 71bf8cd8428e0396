import dataclasses
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import LinearGaussian

from pyro_vae.evidence import diagnostics as d
from pyro_vae.evidence.annealing import Annealing, _move, anneal, anneal_reverse, tune
from pyro_vae.evidence.ladder import Ladder
from pyro_vae.evidence.proposals import GuideProposal, MixtureProposal, NormalProposal
from pyro_vae.evidence.refinement import laplace, modes, moments_of_guide, refine
from pyro_vae.evidence.space import Space
from pyro_vae.programs.pair import Pair


def _space(model, guide, x):
    batch = (x,)
    return Space.of(Pair.inspect(model, guide, batch), batch), batch


def _constrained(x_dim=4):
    """Latents on the half line, the interval and the simplex, some in an inner plate."""

    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
            share = pyro.sample("share", dist.Dirichlet(torch.ones(3).to(x.dtype)))
            with pyro.plate("items", x_dim, dim=-1):
                p = pyro.sample("p", dist.Beta(2.0, 3.0))
                loc = rate * p + share[..., 0]
                pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("rate", dist.Gamma(3.0, 2.0))
            pyro.sample("share", dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0]).to(x.dtype)))
            with pyro.plate("items", x_dim, dim=-1):
                pyro.sample("p", dist.Beta(1.5, 1.5))

    return model, guide, torch.randn(7, x_dim, dtype=torch.float64)


class TestSpace:
    def test_vector_and_back(self):
        model, guide, x = _constrained()
        space, batch = _space(model, guide, x)
        assert space.size == 1 + 2 + 4
        values, _ = space.pair.propose(batch, 5)
        u = space.vector(values)
        assert u.shape == (5, 7, 7)
        again, _ = space.values(u)
        for name, value in values.items():
            torch.testing.assert_close(again[name], value, check_dtype=False, rtol=1e-5, atol=1e-6)

    def test_jacobian_is_that_of_autograd(self):
        model, guide, x = _constrained()
        space, _ = _space(model, guide, x)
        u = torch.randn(1, 7, 7, dtype=torch.float64)
        _, jacobian = space.values(u)

        def free(vector):  # simplex: its first two coordinates
            values, _ = space.values(vector.reshape(1, 1, 7))
            return torch.cat(
                [values["rate"].flatten(), values["share"].flatten()[:2], values["p"].flatten()]
            )

        for n in range(7):
            matrix = torch.autograd.functional.jacobian(free, u[0, n])
            assert jacobian[0, n].item() == pytest.approx(torch.linalg.slogdet(matrix)[1].item())

    def test_discrete_latent_is_refused(self):
        def program(x, obs=True):
            with pyro.plate("data", len(x)):
                k = pyro.sample("k", dist.Bernoulli(0.5))
                if obs:
                    pyro.sample("x", dist.Normal(k, 1.0), obs=x)

        def guide(x):
            program(x, obs=False)

        with pytest.raises(ValueError, match="'k' is discrete; use method='guide'"):
            _space(program, guide, torch.zeros(4))


def _check_unbiased(log_weights, log_px, level=4.5):
    deviation = (d.log_mean_exp(log_weights) - log_px) / d.standard_error(log_weights)
    assert deviation.abs().max() < level
    return deviation


class TestProposals:
    def test_normal_proposal_in_constrained_space(self):
        """Two proposals, one answer: the guide's and a normal's, within 5 standard errors."""
        model, guide, x = _constrained()
        space, batch = _space(model, guide, x)
        torch.manual_seed(0)
        proposal = NormalProposal(
            space,
            torch.zeros(7, 7, dtype=torch.float64),
            torch.diag_embed(torch.full((7, 7), 1.4, dtype=torch.float64)),
        )
        estimates = []
        for q in (proposal, GuideProposal(space.pair, batch)):
            values, log_q = q.draw(40_000)
            torch.testing.assert_close(q.log_density(values), log_q, rtol=1e-6, atol=1e-5)
            estimates.append(space.pair.log_joint(batch, values) - log_q)
        difference = d.log_mean_exp(estimates[0]) - d.log_mean_exp(estimates[1])
        error = (d.standard_error(estimates[0]) ** 2 + d.standard_error(estimates[1]) ** 2).sqrt()
        assert error.max() < 0.1
        assert (difference / error).abs().max() < 5

    def test_density_is_that_of_torch(self, linear_gaussian):
        space, _ = _space(linear_gaussian.model, linear_gaussian.guide, linear_gaussian.x)
        mean = torch.randn(11, 3, dtype=torch.float64)
        tril = torch.randn(11, 3, 3, dtype=torch.float64).tril()
        tril.diagonal(dim1=-2, dim2=-1).abs_().add_(0.5)
        u = torch.randn(6, 11, 3, dtype=torch.float64)
        reference = dist.MultivariateNormal(mean, scale_tril=tril)
        ours = NormalProposal(space, mean, tril)
        torch.testing.assert_close(ours.log_density_of_vector(u), reference.log_prob(u))

    def test_defensive_share_bounds_the_weights(self):
        """A guide far too narrow has a hopeless k̂; a fifth of prior draws mends it."""
        lg = LinearGaussian(latent_dim=2, event_dim=2, n=20, scale=1.5, seed=1)

        def narrow(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", lg.posterior(x, widen=0.5))

        space, batch = _space(lg.model, narrow, lg.x)
        (alone,) = Ladder(samples=5000).weigh(space.pair, batch, (0,))
        assert d.pareto_k(alone.log_weights).median() > 0.7
        (mixed,) = Ladder(samples=5000, defensive=0.2).weigh(space.pair, batch, (0,))
        assert d.pareto_k(mixed.log_weights).max() < 0.7
        _check_unbiased(mixed.log_weights, lg.log_px)
        # w <= max p(x|z) / c_0, p(x|z) at most the density's peak
        peak = -2 * math.log(1.5 * math.sqrt(2 * math.pi))
        assert (mixed.log_weights <= peak - math.log(0.2) + 1e-9).all()

    @pytest.mark.parametrize(("samples", "share", "expected"), [(100, 0.001, 1), (640, 0.1, 64)])
    def test_prior_draws_are_counted_over_all(self, linear_gaussian, samples, share, expected):
        """However small the share: one draw at least, spread evenly, and the weights know it."""
        lg = linear_gaussian
        space, batch = _space(lg.model, lg.guide, lg.x)
        drawn = []
        pair = space.pair

        class Counting(type(pair)):
            def propose_prior(self, batch, samples):
                drawn.append(samples)
                return super().propose_prior(batch, samples)

        counting = Counting(**{f.name: getattr(pair, f.name) for f in dataclasses.fields(pair)})
        (weighed,) = Ladder(samples=samples, defensive=share).weigh(counting, batch, (0,))
        drawn = drawn[1:]  # the first asks whether the guide tells the density of other draws
        assert sum(drawn) == expected
        assert max(drawn) - min(drawn) <= 1
        values = {"z": lg.posterior(lg.x).sample((7,))}
        mixture = torch.logaddexp(
            lg.posterior(lg.x).log_prob(values["z"]) + math.log1p(-share),
            lg.prior().log_prob(values["z"]) + math.log(share),
        )
        ladder = Ladder(samples=samples, defensive=share)
        expected = pair.log_joint(batch, values) - mixture
        torch.testing.assert_close(ladder.ratio(weighed, values), expected)

    def test_mixture_of_normals(self, linear_gaussian):
        """Shares of each datum are those of the draws; density and draws agree."""
        lg = linear_gaussian
        space, batch = _space(lg.model, lg.guide, lg.x)
        exact = lg.posterior(lg.x)
        tril = torch.linalg.cholesky(lg.covariance).expand(11, 3, 3)
        near = NormalProposal(space, exact.loc, tril)
        far = NormalProposal(space, exact.loc + 50.0, 1.5 * tril)
        shares = torch.linspace(0.1, 0.9, 11).double()
        mixture = MixtureProposal((near, far), torch.stack([shares, 1 - shares]).log())
        torch.manual_seed(0)
        values, log_q = mixture.draw(1000)
        torch.testing.assert_close(mixture.log_density(values), log_q)
        drawn = (values["z"][..., 0] < exact.loc[:, 0] + 25).double().mean(0)
        torch.testing.assert_close(drawn, shares, rtol=0, atol=2e-3)
        log_weights = space.pair.log_joint(batch, values) - log_q
        estimate = d.log_mean_exp(log_weights)
        # every draw near the posterior has the weight p(x) / share
        torch.testing.assert_close(estimate, lg.log_px, rtol=0, atol=2e-2)


class TestRefinement:
    def test_laplace_of_a_linear_gaussian_is_exact(self, linear_gaussian):
        lg = linear_gaussian
        space, batch = _space(lg.model, lg.wide_guide, lg.x)
        eye = torch.eye(3, dtype=torch.float64).expand(11, 3, 3)
        proposal = laplace(space, batch, NormalProposal(space, lg.posterior(lg.x).loc, eye))
        covariance = proposal.tril @ proposal.tril.mT
        torch.testing.assert_close(covariance, lg.covariance.expand_as(covariance))
        values, log_q = proposal.draw(9)
        log_weights = space.pair.log_joint(batch, values) - log_q
        torch.testing.assert_close(log_weights, lg.log_px.expand(9, -1), rtol=0, atol=1e-10)

    def test_bernoulli_precision_is_the_formula(self):
        """I + J^T diag(p (1 - p)) J for logits f(z), by an explicit Jacobian."""
        torch.manual_seed(0)
        network = torch.nn.Sequential(
            torch.nn.Linear(2, 5), torch.nn.Tanh(), torch.nn.Linear(5, 6)
        ).double()

        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2).to(x), 1.0).to_event(1))
                pyro.sample("x", dist.Bernoulli(logits=network(z)).to_event(1), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(torch.zeros(2).to(x), 1.0).to_event(1))

        from pyro_vae.evidence.refinement import _precision

        x = torch.bernoulli(torch.full((4, 6), 0.5).double())
        space, batch = _space(model, guide, x)
        u = torch.randn(4, 2, dtype=torch.float64)
        precision = _precision(space, batch, u)
        for n in range(4):
            jacobian = torch.autograd.functional.jacobian(network, u[n])
            p = network(u[n]).sigmoid()
            explicit = torch.eye(2).double() + jacobian.T @ torch.diag(p * (1 - p)) @ jacobian
            torch.testing.assert_close(precision[n], explicit)

    def test_refined_is_the_best_diagonal_normal(self, linear_gaussian):
        """Of a Gaussian posterior: its mean, and variances 1 / diag(precision)."""
        lg = linear_gaussian
        space, batch = _space(lg.model, lg.wide_guide, lg.x)
        torch.manual_seed(0)
        proposal = refine(space, batch, moments_of_guide(space, batch), steps=600, particles=30)
        precision = torch.linalg.inv(lg.covariance)
        torch.testing.assert_close(proposal.mean, lg.posterior(lg.x).loc, rtol=0, atol=0.03)
        variance = proposal.tril.diagonal(dim1=-2, dim2=-1) ** 2
        expected = (1 / precision.diagonal()).expand_as(variance)
        torch.testing.assert_close(variance, expected, rtol=0.15, atol=0)

    def test_shares_of_modes_are_their_masses(self):
        """Whatever number of starts ends on each: those that found one mode divide its mass."""
        ends = torch.tensor([-3.0, 3.0]).double()
        masses = torch.tensor([0.8, 0.2]).double()

        def model(x):
            with pyro.plate("data", len(x)):
                parts = dist.Normal(ends.expand(len(x), 2), 0.5)
                mixed = dist.MixtureSameFamily(dist.Categorical(masses.expand(len(x), 2)), parts)
                z = pyro.sample("z", mixed)
                pyro.sample("x", dist.Normal(z, 50.0), obs=x)  # says next to nothing of z

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(3.0 + 0 * x, 0.5))

        space, batch = _space(model, guide, torch.zeros(5).double())
        torch.manual_seed(0)
        centre = refine(space, batch, moments_of_guide(space, batch))
        found = modes(batch, centre, 9)
        right = torch.stack([part.mean[:, 0] > 0 for part in found.parts])
        evenly = right.double().mean(0)
        share = (found.log_shares.exp() * right).sum(0)
        torch.testing.assert_close(share, 0.9 * 0.2 + 0.1 * evenly, rtol=0, atol=0.03)


@pytest.fixture(scope="module")
def setting():
    """A base displaced and too wide, so that importance sampling alone would struggle."""
    lg = LinearGaussian(latent_dim=4, event_dim=6, n=60, scale=0.5, seed=3)
    space, batch = _space(lg.model, lg.guide, lg.x)
    exact = lg.posterior(lg.x)
    tril = 2 * torch.linalg.cholesky(lg.covariance)
    base = NormalProposal(space, exact.loc + 0.3, tril.expand(60, 4, 4))
    return lg, space, batch, base


class TestAnnealing:
    def test_no_chain_moves_to_an_infinite_density(self):
        class Path:
            """A standard normal with an overflow beyond 0.5."""

            def density(self, v, beta):
                value = -0.5 * v.square().sum(-1).double()
                return value.masked_fill(v[..., 0] > 0.5, math.inf), -v

        torch.manual_seed(0)
        v = -torch.rand(200, 4, 1).double()
        moved = v
        for _ in range(5):
            moved, _ = _move(Path(), moved, torch.tensor(1.0), torch.full((4,), 0.7).double(), 3)
        assert (moved <= 0.5).all()
        assert (moved != v).double().mean() > 0.5

    def test_schedule(self):
        for schedule in ("linear", "sigmoid"):
            betas = Annealing(temperatures=50, schedule=schedule).betas()
            assert betas[0] == 0
            assert betas[-1] == 1
            assert len(betas) == 51
            assert (betas.diff() > 0).all()
        with pytest.raises(ValueError, match="temperatures must be at least 1"):
            Annealing(temperatures=0)
        with pytest.raises(ValueError, match="'sigmoid' or 'linear'"):
            Annealing(schedule="cosine")

    def test_one_temperature_is_importance_sampling(self, setting):
        _, space, batch, base = setting
        settings = Annealing(temperatures=1, chains=2000)
        moves = tune(space, batch, base, settings)
        torch.manual_seed(0)
        weights = anneal(space, batch, base, settings, moves).log_weights
        torch.manual_seed(0)
        values, log_q = base.draw(2000)
        torch.testing.assert_close(weights, space.pair.log_joint(batch, values) - log_q)

    def test_annealing_is_unbiased_and_better(self, setting):
        lg, space, batch, base = setting
        settings = Annealing(temperatures=20, chains=200)
        torch.manual_seed(0)
        moves = tune(space, batch, base, settings)
        assert 0.5 < moves.acceptance.mean() < 0.95
        weights = anneal(space, batch, base, settings, moves).log_weights
        deviation = _check_unbiased(weights, lg.log_px)
        assert 0.6 < deviation.square().mean().sqrt() < 1.4
        values, log_q = base.draw(200)
        plain = space.pair.log_joint(batch, values) - log_q
        assert d.standard_error(weights).mean() < 0.6 * d.standard_error(plain).mean()

    def test_wrong_moves_would_show(self, setting, monkeypatch):
        """Without the accept step the estimate is biased beyond its error: the test can fail."""
        from pyro_vae.evidence import annealing

        lg, space, batch, base = setting
        settings = Annealing(temperatures=20, chains=200)
        torch.manual_seed(0)
        moves = tune(space, batch, base, settings)
        monkeypatch.setattr(annealing.torch, "where", lambda condition, a, b: a)
        steps = annealing.Moves(moves.steps * 0 + 1.2, moves.acceptance)
        weights = anneal(space, batch, base, settings, steps).log_weights
        monkeypatch.undo()
        deviation = (d.log_mean_exp(weights) - lg.log_px) / d.standard_error(weights)
        assert deviation.square().mean().sqrt() > 2

    def test_bounds_from_both_sides(self, setting):
        """From an exact posterior draw, the reverse bound lies above: mean gap, both signs."""
        lg, space, batch, base = setting
        settings = Annealing(temperatures=100, chains=16)
        torch.manual_seed(0)
        moves = tune(space, batch, base, settings)
        forward = anneal(space, batch, base, settings, moves).log_weights
        u = lg.posterior(lg.x).sample()
        backward = anneal_reverse(space, batch, base, settings, moves, u)
        lower = d.log_mean_exp(forward)
        upper = -d.log_mean_exp(-backward)
        gap = (upper - lower).mean()
        assert 0 < gap < 0.1
        # each bound on its own side, on average, up to 4 standard errors of the mean
        for bound, sign in ((lower, -1), (upper, 1)):
            error = (bound - lg.log_px).std() / math.sqrt(60)
            assert sign * (bound - lg.log_px).mean() > -4 * error
