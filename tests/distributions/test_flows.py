"""Flows: exact densities in both directions, and zuko left without a trace."""

import copy
import math
import sys
from importlib.util import find_spec

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

import pyro_vae as pv
from pyro_vae.distributions.flows import FLOWS, FlowDistribution, FlowKind, FlowTransform
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.networks import MLP
from pyro_vae.posteriors import DiagonalNormal
from pyro_vae.priors import FlowPrior

pytestmark = pytest.mark.skipif(find_spec("zuko") is None, reason="flows need zuko")


def _stir(module, scale=0.5):
    """Move the parameters away from the special initial values, whatever the widths."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            fan_in = p.shape[-1] if p.dim() > 1 else 1
            p += scale / math.sqrt(fan_in) * torch.randn(p.shape, generator=generator).to(p)
    return module


def _prior(kind, latent_dim):
    torch.manual_seed(0)
    scale = 0.2 if kind == "nsf" else 0.5  # splines soon get slopes that a grid is too coarse for
    return _stir(FlowPrior(latent_dim, kind=kind, width=16).double(), scale)


def _transform(kind, latent_dim, context=0):
    torch.manual_seed(0)
    transform = FlowTransform(latent_dim, context=context, kind=kind, width=16)
    return _stir(transform.double())


def test_kinds_are_those_of_the_type():
    assert set(FlowKind.__args__) == set(FLOWS)


@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize("latent_dim", [1, 2, 5])
@pytest.mark.parametrize("kind", FLOWS)
class TestTransform:
    def test_inverse_and_jacobian(self, kind, latent_dim, context):
        """Either direction undoes the other; determinants are those of autograd's Jacobian."""
        transform = _transform(kind, latent_dim, context)
        features = torch.randn(4, context, dtype=torch.float64) if context else None
        there, back = transform.maps(features)
        x = torch.randn(4, latent_dim, dtype=torch.float64)
        y, log_determinant = there(x)
        x_again, log_determinant_back = back(y)
        torch.testing.assert_close(x_again, x, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(log_determinant_back, -log_determinant, rtol=1e-9, atol=1e-9)
        jacobian = torch.autograd.functional.jacobian(lambda x: there(x)[0].sum(0), x).movedim(1, 0)
        torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], log_determinant)
        assert (y - x).abs().max() > 0.1

    def test_leading_dimensions_of_either_argument(self, kind, latent_dim, context):
        if not context:
            return
        transform = _transform(kind, latent_dim, context)
        x = torch.randn(3, 4, latent_dim, dtype=torch.float64)
        features = torch.randn(4, context, dtype=torch.float64)
        y, log_determinant = transform(x, features, False)
        assert y.shape == x.shape
        assert log_determinant.shape == (3, 4)
        one, _ = transform(x[1, 2], features[2], False)
        torch.testing.assert_close(y[1, 2], one)
        assert not torch.allclose(y[1, 2], transform(x[1, 2], features[3], False)[0])


@pytest.mark.parametrize("kind", FLOWS)
class TestPrior:
    def test_starts_near_the_standard_normal(self, kind):
        torch.manual_seed(0)
        prior = FlowPrior(5, kind=kind)()
        z = prior.sample((100,))
        standard = dist.Normal(torch.zeros(5), 1.0).to_event(1)
        torch.testing.assert_close(prior.log_prob(z), standard.log_prob(z), rtol=0, atol=0.1)
        assert prior.mean.abs().max() < 0.1

    @pytest.mark.parametrize("latent_dim", [1, 2])
    def test_normalized_and_samples_follow_the_density(self, kind, latent_dim):
        """Mass 1 to 1e-3 on a grid; E log p of 20,000 draws within 5 standard errors."""
        prior = _prior(kind, latent_dim)()
        axis = torch.linspace(-8, 8, 401, dtype=torch.float64)
        grid = torch.stack(torch.meshgrid(*[axis] * latent_dim, indexing="ij"), -1)
        with torch.no_grad():
            log_p = prior.log_prob(grid)
            weights = log_p.exp() * (axis[1] - axis[0]) ** latent_dim
            torch.manual_seed(0)
            draws = prior.log_prob(prior.sample((20_000,)))
        assert weights.sum().item() == pytest.approx(1, abs=1e-3)
        mean = (weights * log_p).sum().item()
        error = draws.std().item() / math.sqrt(20_000)
        assert draws.mean().item() == pytest.approx(mean, abs=5 * error + 2e-3)

    @pytest.mark.parametrize("latent_dim", [1, 5])
    def test_shapes_and_gradient(self, kind, latent_dim):
        module = _prior(kind, latent_dim)
        p = module()
        assert (p.batch_shape, p.event_shape) == ((), (latent_dim,))
        z = torch.randn(3, latent_dim, dtype=torch.float64)
        assert p.log_prob(z).shape == (3,)
        grads = torch.autograd.grad(p.log_prob(z).sum(), list(module.parameters()))
        assert all(g.isfinite().all() and g.abs().sum() > 0 for g in grads)
        again = torch.randn_like(z).requires_grad_()
        assert torch.autograd.gradcheck(p.log_prob, again)

    def test_density_takes_the_parameters_it_was_made_with(self, kind):
        one, two = _prior(kind, 3), FlowPrior(3, kind=kind, width=16).double()
        p = functional_call(two, dict(one.named_parameters()), ())
        z = torch.randn(4, 3, dtype=torch.float64)
        torch.testing.assert_close(p.log_prob(z), one().log_prob(z))
        assert not torch.allclose(two().log_prob(z), one().log_prob(z))

    def test_save_load_and_copy(self, kind):
        one, two = _prior(kind, 3), FlowPrior(3, kind=kind, width=16).double()
        two.load_state_dict(one.state_dict())
        three = copy.deepcopy(one)
        z = torch.randn(4, 3, dtype=torch.float64)
        assert torch.equal(one().log_prob(z), two().log_prob(z))
        assert torch.equal(one().log_prob(z), three().log_prob(z))

    def test_traces_without_reading_from_the_device(self, kind):
        module = _prior(kind, 3)

        def draw_and_score(parameters, z):
            p = functional_call(module, parameters, ()).expand((4,))
            return p.rsample(), p.log_prob(z)

        z = torch.randn(4, 3, dtype=torch.float64)
        with pyro.validation_enabled(False):
            parameters = {**dict(module.named_parameters()), **dict(module.named_buffers())}
            graph = make_fx(draw_and_score, tracing_mode="fake")(parameters, z)
        assert "nonzero" not in graph.code  # allowed by the tracer, and yet a read
        torch.testing.assert_close(graph(parameters, z)[1], module().log_prob(z))

    @pytest.mark.usefixtures("no_unreliable_warning")
    def test_trains_and_evaluates(self, kind, digits):
        """Evidence is that of a grid over z, within 4.5 standard errors and the grid's 0.01."""
        torch.manual_seed(0)
        vae = pv.VAE(
            _stir(FlowPrior(2, kind=kind, width=16), 0.3),
            Bernoulli(MLP((2,), (8, 8), hidden=(8,)), (8, 8)),
            DiagonalNormal(MLP((8, 8), (2, 2), hidden=(8,))),
        )
        history = pv.fit(vae, digits.train.head(200), epochs=2)
        assert math.isfinite(history.epochs[-1].train_elbo)
        assert vae.sample(3, seed=0).shape == (3, 8, 8)
        x = digits.test.x[:5]
        axis = torch.linspace(-7, 7, 201)
        z = torch.cartesian_prod(axis, axis)[:, None]
        with torch.no_grad():
            log_joint = vae.prior().log_prob(z) + vae.likelihood(z).log_prob(x)
        exact = log_joint.double().logsumexp(0) + 2 * math.log(axis[1] - axis[0])
        found = pv.log_evidence(vae.model, vae.guide, x, method="laplace", samples=1000, seed=0)
        assert ((found.log_px - exact).abs() < 4.5 * found.standard_error + 0.01).all()


class TestDistribution:
    def _affine(self, batch_shape=()):
        """z = 3 eps + 1: a normal, so everything is known."""
        calls = {"generate": 0, "normalize": 0}

        def generate(noise):
            calls["generate"] += 1
            return 3 * noise + 1, torch.full(noise.shape[:-1], 2 * math.log(3)).double()

        def normalize(z):
            calls["normalize"] += 1
            return (z - 1) / 3, torch.full(z.shape[:-1], -2 * math.log(3)).double()

        zero = torch.zeros(*batch_shape, 2, dtype=torch.float64)
        flow = FlowDistribution(dist.Normal(zero, 1.0).to_event(1), generate, normalize)
        return flow, dist.Normal(zero + 1, 3.0).to_event(1), calls

    @pytest.mark.parametrize("batch_shape", [(), (4,), (3, 4)])
    def test_equals_the_normal_that_it_is(self, batch_shape):
        flow, exact, _ = self._affine(batch_shape)
        z = flow.rsample((5,))
        assert z.shape == (5, *batch_shape, 2)
        torch.testing.assert_close(flow.log_prob(z), exact.log_prob(z))
        torch.testing.assert_close(flow.log_prob(z.clone()), exact.log_prob(z))
        torch.testing.assert_close(flow.mean, exact.mean)
        one = torch.ones(2).double()
        torch.testing.assert_close(flow.log_prob(one), exact.log_prob(one))

    def test_scoring_a_draw_is_free(self):
        flow, _, calls = self._affine()
        flow = flow.expand((4,))
        z = flow.rsample()
        flow.log_prob(z)
        assert calls == {"generate": 1, "normalize": 0}
        flow.log_prob(z.detach())
        assert calls == {"generate": 1, "normalize": 1}

    def test_draw_without_gradients_is_scored_with_them(self):
        prior = _prior("maf", 2)
        p = prior()
        z = p.sample((3,))
        assert not z.requires_grad
        assert p.log_prob(z).requires_grad
        with torch.no_grad():
            z = p.rsample((3,))
            recalled = p.log_prob(z)
        torch.testing.assert_close(recalled, p.log_prob(z).detach())

    def test_plate_with_particles(self):
        p = _prior("maf", 3)()
        particles, data = pyro.plate("particles", 4, dim=-2), pyro.plate("data", 5)
        with pyro.poutine.trace() as tracer, particles, data:
            z = pyro.sample("z", p)
        assert z.shape == (4, 5, 3)
        assert len(z.flatten(0, 1).unique(dim=0)) == 20
        density = tracer.trace.nodes["z"]["fn"].log_prob(z)
        torch.testing.assert_close(density, p.log_prob(z))

    def test_not_a_number_is_named(self):
        with pytest.raises(ValueError, match="value argument"):
            self._affine()[0].log_prob(torch.full((2,), math.nan).double())


def test_importing_zuko_leaves_validation_as_it_was(monkeypatch):
    for validate in (True, False):
        for name in [name for name in sys.modules if name.partition(".")[0] == "zuko"]:
            monkeypatch.delitem(sys.modules, name)
        with pyro.validation_enabled(validate):
            FlowTransform(2)
            assert torch.distributions.Distribution._validate_args is validate


def test_without_zuko(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "zuko"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "zuko", None)
    with pytest.raises(ImportError, match=r'pip install "pyro-vae\[flows\]"'):
        FlowPrior(2)


def test_wrong_options():
    with pytest.raises(ValueError, match=r"unknown flow 'mad'.*Did you mean 'maf'"):
        FlowPrior(2, kind="mad")
    with pytest.raises(ValueError, match="transforms of a flow must be at least 1; got 0"):
        FlowPrior(2, transforms=0)
    with pytest.raises(ValueError, match="width of a flow must be at least 1; got 0"):
        FlowPrior(2, width=0)
