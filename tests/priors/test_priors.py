"""One contract for every registered prior."""

import copy
import math

import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae.common.registry import build
from pyro_vae.networks import MLP
from pyro_vae.posteriors import POSTERIORS, DiagonalNormal
from pyro_vae.priors import PRIORS, Fixed, VampPrior

pytestmark = pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence")

_EVENT = (2, 3)
_SMALL = {
    "mixture": {"components": 7},
    "vamp": {"components": 7},
    "exemplar": {"components": 7},
    "flow": {"width": 8},
}


def build_prior(name, latent_dim, *context, **options):
    return build("prior", name, PRIORS, latent_dim, *context, **options)


def _posterior(latent_dim, name="normal"):
    return POSTERIORS[name](lambda shape: MLP(_EVENT, shape, hidden=(5,)), latent_dim)


def _prior(name, latent_dim=2, *, moved=0.3):
    torch.manual_seed(0)
    posterior = _posterior(latent_dim)
    context = (posterior, _EVENT) if name in ("vamp", "exemplar") else ()
    prior = build_prior(name, latent_dim, *context, **_SMALL.get(name, {}))
    with torch.no_grad():  # away from the special initial values
        for parameter in prior.parameters():
            parameter += moved * torch.randn_like(parameter)
    return prior.double()


def _grid(half=14.0, points=701):
    axis = torch.linspace(-half, half, points, dtype=torch.float64)
    return torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1), (axis[1] - axis[0]) ** 2


@pytest.mark.parametrize("name", PRIORS)
class TestContract:
    def test_normalized_and_samples_follow_the_density(self, name):
        """The density integrates to one; E log p from 20,000 draws is the grid's, to 5 s.e."""
        p = _prior(name)()
        grid, area = _grid()
        with torch.no_grad():
            log_p = p.log_prob(grid)
            draws = p.log_prob(p.sample((20_000,)))
        assert (log_p.exp().sum() * area).item() == pytest.approx(1, abs=1e-3)
        mean = (log_p.exp() * log_p).sum() * area
        error = draws.std().item() / math.sqrt(20_000)
        assert draws.mean().item() == pytest.approx(mean.item(), abs=5 * error + 2e-3)

    def test_marginals_of_samples(self, name):
        """Kolmogorov-Smirnov of each dimension's draws against the grid: P(fail) = 1e-5 each."""
        p = _prior(name)()
        grid, area = _grid()
        with torch.no_grad():
            density = p.log_prob(grid).exp() * area
            draws = p.sample((20_000,))
        axis = grid[:, 0, 0]
        edges = (axis[1:] + axis[:-1]) / 2
        bound = math.sqrt(math.log(2 / 1e-5) / 2 / 20_000)
        for d in range(2):
            cdf = density.sum(1 - d).cumsum(0)[:-1]
            empirical = torch.searchsorted(draws[:, d].sort().values.contiguous(), edges) / 20_000
            assert (cdf - empirical).abs().max() < bound + 1e-3

    @pytest.mark.parametrize("leading", [(), (3,), (4, 3)])
    def test_shapes(self, name, leading):
        p = _prior(name, latent_dim=5)()
        assert p.event_shape == (5,)
        assert p.batch_shape == ()
        assert p.expand([*leading]).sample().shape == (*leading, 5)
        z = torch.randn(*leading, 5, dtype=torch.float64)
        assert p.log_prob(z).shape == leading
        if leading:
            torch.testing.assert_close(p.log_prob(z)[0], p.log_prob(z[0]))

    def test_every_parameter_has_a_gradient(self, name):
        prior = _prior(name, latent_dim=5)
        z = torch.randn(6, 5, dtype=torch.float64)
        parameters = dict(prior.named_parameters())
        if not parameters:
            return
        gradients = torch.autograd.grad(
            prior().log_prob(z).sum(), list(parameters.values()), allow_unused=True
        )
        for parameter, gradient in zip(parameters, gradients, strict=True):
            assert gradient is not None, parameter
            assert gradient.abs().sum() > 0, parameter

    def test_gradient_is_that_of_finite_differences(self, name):
        prior = _prior(name, latent_dim=3)
        z = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda z: prior().log_prob(z), z)

    def test_save_load_and_copy(self, name):
        one, two = _prior(name), _prior(name, moved=0.1)
        z = torch.randn(3, 2, dtype=torch.float64)
        if list(one.parameters()):
            assert not torch.equal(one().log_prob(z), two().log_prob(z))
        two.load_state_dict(one.state_dict())
        assert torch.equal(one().log_prob(z), two().log_prob(z))
        assert torch.equal(copy.deepcopy(one)().log_prob(z), two().log_prob(z))

    def test_types(self, name):
        """float32 gives the float64 density to rounding."""
        prior = _prior(name, latent_dim=4)
        z = torch.randn(50, 4, dtype=torch.float64)
        expected = prior().log_prob(z)
        density = prior.float()().log_prob(z.float())
        assert density.dtype == torch.float32
        torch.testing.assert_close(density.double(), expected, rtol=1e-4, atol=1e-4)

    def test_trains_and_evaluates(self, name, digits):
        """One word of the config swaps the prior; proposals of two kinds agree on log p(x)."""
        config = pv.Config(
            prior=name,
            latent_dim=2,
            hidden=(8,),
            prior_components=5 if "components" in _SMALL.get(name, {}) else None,
        )
        vae = pv.VAE.from_config(config, event_shape=(8, 8), data=digits.train.x)
        history = pv.fit(vae, digits.train.head(200), epochs=2)
        assert math.isfinite(history.epochs[-1].train_elbo)
        evidence = pv.log_evidence(vae.model, vae.guide, digits.test.x[:5], samples=200)
        assert (evidence.log_px > evidence.elbo).all()
        assert vae.sample(3, seed=0).shape == (3, 8, 8)
        laplace, annealed = (
            pv.log_evidence(vae.model, vae.guide, digits.test.x[:3], method=method, samples=3000)
            for method in ("laplace", "annealed")
        )
        error = (laplace.standard_error**2 + annealed.standard_error**2).sqrt()
        assert ((laplace.log_px - annealed.log_px) / error).abs().max() < 4.5


@pytest.mark.parametrize("name", POSTERIORS)
def test_vamp_is_the_mean_of_posteriors(name):
    """Whatever the posterior: log p(z) = log mean_j q(z | u_j)."""
    torch.manual_seed(0)
    posterior = _posterior(4, name).double()
    prior = VampPrior(4, posterior, _EVENT, components=6).double()
    z = torch.randn(7, 4, dtype=torch.float64)
    u = prior.pseudo_inputs
    each = torch.stack([posterior(u[j : j + 1]).log_prob(z) for j in range(6)])
    torch.testing.assert_close(prior().log_prob(z), each.logsumexp(0) - math.log(6))
    assert prior().sample((9,)).shape == (9, 4)


def test_vamp_starts_at_data_and_keeps_to_their_range():
    posterior, x = _posterior(4), torch.rand(50, *_EVENT)
    prior = VampPrior(4, posterior, _EVENT, components=20)
    prior.initialize(x)
    rows = {tuple(row.flatten().tolist()) for row in x}
    chosen = {tuple(row.flatten().tolist()) for row in prior.pseudo_inputs.detach()}
    assert chosen <= rows
    assert len(chosen) == 20
    inside = prior().log_prob(torch.zeros(4))
    with torch.no_grad():
        prior.pseudo_inputs[0] = 100.0
        outside = prior().log_prob(torch.zeros(4))
        prior.pseudo_inputs[0] = x.max()
    assert outside == prior().log_prob(torch.zeros(4)) != inside
    random = VampPrior(4, posterior, _EVENT, components=20, start="random")
    random.initialize(x)
    assert (random.pseudo_inputs - x.mean(0)).abs().max() < 0.1
    assert random.pseudo_inputs.std(0).min() > 0
    with pytest.raises(ValueError, match=r"20 pseudo-inputs .* among 10 training data"):
        prior.initialize(x[:10])


def test_exemplars_are_data_with_one_scale():
    posterior, x = _posterior(3), torch.rand(50, *_EVENT)
    prior = build_prior("exemplar", 3, posterior, _EVENT, components=8)
    prior.initialize(x)
    assert all((x == row).flatten(1).all(1).any() for row in prior.exemplars)
    components = dist.Normal(
        posterior(prior.exemplars).mean, nn.functional.softplus(prior.raw_scale) + 1e-3
    ).to_event(1)
    z = torch.randn(5, 3)
    expected = components.log_prob(z[:, None]).logsumexp(-1) - math.log(8)
    torch.testing.assert_close(prior().log_prob(z), expected)


def test_hierarchical_is_two_layers():
    prior = _prior("hierarchical", latent_dim=5)
    z = torch.randn(6, 5, dtype=torch.float64)
    top, low = z[:, :2], z[:, 2:]
    zero = torch.zeros(2, dtype=torch.float64)
    expected = dist.Normal(zero, 1.0).to_event(1).log_prob(top)
    torch.testing.assert_close(prior().log_prob(z), expected + prior.conditional(top).log_prob(low))
    with pytest.raises(ValueError, match=r"top must be between 1 and latent_dim - 1 = 3; got 4"):
        build_prior("hierarchical", 4, top=4)


def test_vae_shares_the_encoder_with_its_prior(digits):
    """The encoder is one module: saved, moved and trained once."""
    config = pv.Config(prior="vamp", prior_components=5, latent_dim=2, hidden=(8,))
    vae = pv.VAE.from_config(config, event_shape=(8, 8), data=digits.train.x)
    assert vae.prior.posterior is vae.posterior
    again = copy.deepcopy(vae)
    assert again.prior.posterior is again.posterior is not vae.posterior
    other = pv.VAE.from_config(config, event_shape=(8, 8))
    other.load_state_dict(vae.state_dict())
    z = torch.randn(4, 2)
    assert torch.equal(other.prior().log_prob(z), vae.prior().log_prob(z))


class TestPlainDistribution:
    def test_is_a_prior(self, digits):
        plain = dist.Gamma(torch.full((2,), 3.0), torch.ones(2)).to_event(1)
        parts = pv.VAE.from_config(pv.Config(latent_dim=2, hidden=(8,)), event_shape=(8, 8))

        class Positive(nn.Module):
            def __init__(self, network):
                super().__init__()
                self.network = network

            def forward(self, x):
                loc, raw = self.network(x).unbind(-2)
                return dist.LogNormal(loc, nn.functional.softplus(raw)).to_event(1)

        vae = pv.VAE(plain, parts.likelihood, Positive(parts.posterior.network))
        history = pv.fit(vae, digits.train.head(200), epochs=2)
        assert math.isfinite(history.epochs[-1].train_elbo)
        evidence = pv.log_evidence(vae.model, vae.guide, digits.test.x[:5], samples=500)
        assert (evidence.log_px > evidence.elbo).all()

    def test_follows_the_type_of_the_module(self):
        mixture = dist.MixtureSameFamily(
            dist.Categorical(logits=torch.zeros(3)),
            dist.Normal(torch.randn(3, 2), torch.ones(3, 2)).to_event(1),
        )
        prior = Fixed(mixture)
        z = torch.randn(4, 2)
        expected = prior().log_prob(z)
        assert prior.double()().log_prob(z.double()).dtype == torch.float64
        torch.testing.assert_close(prior().log_prob(z.double()).float(), expected)
        flow = dist.TransformedDistribution(
            dist.Normal(torch.zeros(2), torch.ones(2)).to_event(1),
            dist.transforms.AffineTransform(torch.ones(2), 2 * torch.ones(2), event_dim=1),
        )
        assert Fixed(flow).double()().log_prob(z.double()).dtype == torch.float64

    def test_errors(self):
        with pytest.raises(ValueError, match=r"batch shape \(2,\). Write .to_event\(1\)"):
            Fixed(dist.Normal(torch.zeros(2), torch.ones(2)))
        with pytest.raises(TypeError, match="got function"):
            Fixed(lambda: None)


def test_wrong_options():
    with pytest.raises(ValueError, match=r"unknown prior 'normall'.*Did you mean 'normal'"):
        build_prior("normall", 2)
    with pytest.raises(ValueError, match="'normal' does not take components; it takes no options"):
        build_prior("normal", 2, components=3)
    with pytest.raises(ValueError, match="does not take degrees; it takes components"):
        build_prior("mixture", 2, degrees=3)
    config = pv.Config(prior="vamp", prior_components=5, program="bottom-up")
    with pytest.raises(ValueError, match="'vamp' is made of the model's posterior of the data"):
        pv.build_program(config, event_shape=_EVENT)
    with pytest.raises(ValueError, match="degrees_of_freedom must be positive"):
        build_prior("student-t", 2, degrees_of_freedom=0)
    assert isinstance(_posterior(2), DiagonalNormal)
