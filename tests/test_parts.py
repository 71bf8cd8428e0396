"""One contract for every registered prior, likelihood, posterior and network."""

import math

import pytest
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae.likelihoods import LIKELIHOODS
from pyro_vae.networks import ACTIVATIONS, MLP
from pyro_vae.posteriors import POSTERIORS
from pyro_vae.priors import PRIORS, build_prior

pytestmark = pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence")

_EVENT = (2, 3)


def _prior(name, latent_dim=2):
    torch.manual_seed(0)
    prior = build_prior(name, latent_dim)
    with torch.no_grad():  # away from the special initial values
        for parameter in prior.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return prior.double()


def _likelihood(name):
    torch.manual_seed(0)
    return LIKELIHOODS[name](MLP((4,), _EVENT, hidden=(5,)), _EVENT).double()


def _posterior(name):
    torch.manual_seed(0)
    kind = POSTERIORS[name]
    return kind(MLP(_EVENT, (kind.outputs_per_latent, 4), hidden=(5,))).double()


@pytest.mark.parametrize("name", PRIORS)
class TestPriors:
    def test_normalized(self, name):
        """The density integrates to one on a fine grid."""
        axis = torch.linspace(-14, 14, 561, dtype=torch.float64)
        grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
        with torch.no_grad():
            mass = _prior(name)().log_prob(grid).exp().sum() * (axis[1] - axis[0]) ** 2
        assert mass.item() == pytest.approx(1, abs=1e-4)

    def test_samples_follow_the_density(self, name):
        """E log p from 20,000 draws is that of the grid, within 5 standard errors."""
        prior = _prior(name)()
        axis = torch.linspace(-14, 14, 561, dtype=torch.float64)
        grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
        with torch.no_grad():
            log_p = prior.log_prob(grid)
            mean = (log_p.exp() * log_p).sum() * (axis[1] - axis[0]) ** 2
            draws = prior.log_prob(prior.sample((20_000,)))
        assert draws.mean().item() == pytest.approx(
            mean.item(), abs=5 * draws.std().item() / math.sqrt(20_000)
        )

    def test_shapes_and_gradient(self, name):
        prior = _prior(name, latent_dim=5)
        p = prior()
        assert p.event_shape == (5,)
        assert p.batch_shape == ()
        z = torch.randn(3, 5, dtype=torch.float64)
        assert p.log_prob(z).shape == (3,)
        parameters = list(prior.parameters())
        if parameters:
            assert all(
                g is not None and g.abs().sum() > 0
                for g in torch.autograd.grad(p.log_prob(z).sum(), parameters)
            )

    def test_save_and_load(self, name):
        one, two = _prior(name), build_prior(name, 2).double()
        two.load_state_dict(one.state_dict())
        z = torch.randn(3, 2, dtype=torch.float64)
        assert torch.equal(one().log_prob(z), two().log_prob(z))

    def test_trains_and_evaluates(self, name, digits):
        config = pv.Config(prior=name, latent_dim=2, hidden=(8,))
        vae = pv.VAE.from_config(config, event_shape=(8, 8), data=digits.train.x)
        history = pv.fit(vae, digits.train.head(200), epochs=2)
        assert math.isfinite(history.epochs[-1].train_elbo)
        evidence = pv.log_evidence(vae.model, vae.guide, digits.test.x[:5], samples=200)
        assert (evidence.log_px > evidence.elbo).all()
        assert vae.sample(3, seed=0).shape == (3, 8, 8)
        laplace, annealed = (
            pv.log_evidence(vae.model, vae.guide, digits.test.x[:5], method=method, samples=5000)
            for method in ("laplace", "annealed")
        )
        error = (laplace.standard_error**2 + annealed.standard_error**2).sqrt()
        assert ((laplace.log_px - annealed.log_px) / error).abs().max() < 4.5


@pytest.mark.parametrize("name", LIKELIHOODS)
class TestLikelihoods:
    @pytest.mark.parametrize("leading", [(), (3,), (2, 3)])
    def test_shapes(self, name, leading):
        p = _likelihood(name)(torch.randn(*leading, 4).double())
        assert p.batch_shape == leading
        assert p.event_shape == _EVENT
        assert p.log_prob(p.sample()).shape == leading

    def test_mean_log_density_of_draws(self, name):
        """E_p[grad log p] = 0 with respect to the network's output: 5 standard errors."""
        likelihood = _likelihood(name)
        bias = likelihood.network.output.bias
        z = torch.randn(4).double()
        x = likelihood(z).sample((4000,))
        scores = torch.stack(
            [torch.autograd.grad(likelihood(z).log_prob(row), bias)[0] for row in x[:1000]]
        )
        error = scores.std(0) / math.sqrt(1000)
        assert (scores.mean(0).abs() < 5 * error + 1e-9).all()

    def test_gradient_is_that_of_finite_differences(self, name):
        likelihood = _likelihood(name)
        x = likelihood(torch.zeros(4).double()).sample()
        z = torch.randn(4, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda z: likelihood(z).log_prob(x), z)

    def test_starts_at_the_mean_of_the_data(self, name):
        likelihood = _likelihood(name)
        x = torch.bernoulli(torch.full((500, *_EVENT), 0.3).double())
        with torch.no_grad():
            likelihood.network.output.weight.zero_()
        likelihood.initialize(x)
        torch.testing.assert_close(likelihood(torch.zeros(4).double()).mean, x.mean(0))


def test_normal_scale_starts_at_the_data_and_has_a_floor():
    likelihood = _likelihood("normal")
    x = 3 * torch.randn(5000, *_EVENT).double()
    likelihood.initialize(x)
    assert likelihood.scale.item() == pytest.approx(3, rel=0.05)
    with torch.no_grad():
        likelihood.raw_scale.fill_(-1000.0)
    assert likelihood.scale.item() == likelihood.floor == 0.01
    likelihood.initialize(1000 * x)  # no overflow
    assert likelihood.scale.item() == pytest.approx(3000, rel=0.05)
    assert LIKELIHOODS["normal"](nn.Identity(), (4,), scale=500.0).scale.item() == 500
    fixed = LIKELIHOODS["normal"](nn.Identity(), (4,), scale=0.3)
    assert fixed.scale.item() == pytest.approx(0.3)
    assert not list(fixed.parameters())
    with pytest.raises(ValueError, match="scale must be positive"):
        LIKELIHOODS["normal"](nn.Identity(), (4,), scale=0.0)


@pytest.mark.parametrize("name", POSTERIORS)
class TestPosteriors:
    @pytest.mark.parametrize("leading", [(3,), (2, 3)])
    def test_shapes_and_reparameterization(self, name, leading):
        posterior = _posterior(name)
        q = posterior(torch.randn(*leading, *_EVENT).double())
        assert q.batch_shape == leading
        assert q.event_shape == (4,)
        z = q.rsample()
        grads = torch.autograd.grad(z.sum() + q.log_prob(z).sum(), list(posterior.parameters()))
        assert all(g.isfinite().all() for g in grads)

    def test_collapsing_scale_stays_a_density(self, name):
        posterior = _posterior(name)
        with torch.no_grad():
            posterior.network.output.bias.fill_(-1e4)
        q = posterior(torch.zeros(1, *_EVENT).double())
        assert q.log_prob(q.rsample()).isfinite().all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_network_treats_leading_dimensions_alike(activation):
    network = MLP(_EVENT, (2, 4), hidden=(7, 5), activation=activation).double()
    x = torch.randn(6, 5, *_EVENT).double()
    whole = network(x)
    assert whole.shape == (6, 5, 2, 4)
    torch.testing.assert_close(whole[2, 3], network(x[2, 3]))


def test_linear_network_and_initialization():
    network = MLP((3,), (2,), hidden=())
    assert sum(p.numel() for p in network.parameters()) == 8
    wide = MLP((100,), (300,), hidden=())
    limit = math.sqrt(6 / 400)
    assert limit * 0.95 < wide.output.weight.abs().max() <= limit


def test_scalar_event():
    assert MLP((), (2,), hidden=(3,))(torch.zeros(5)).shape == (5, 2)


def test_wrong_parts():
    with pytest.raises(ValueError, match=r"unknown prior 'normall'.*Did you mean 'normal'"):
        build_prior("normall", 2)
    with pytest.raises(ValueError, match="prior 'normal' does not take components"):
        build_prior("normal", 2, components=3)
    with pytest.raises(ValueError, match="unknown activation 'tahn'"):
        MLP((2,), (2,), activation="tahn")
    with pytest.raises(ValueError, match=r"\(\.\.\., 2, 3\); got \(5, 3, 2\)"):
        MLP((2, 3), (2,))(torch.zeros(5, 3, 2))
    with pytest.raises(ValueError, match=r"got \(3,\)"):
        MLP((2, 3), (2,))(torch.zeros(3))
