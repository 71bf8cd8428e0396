"""One contract for every registered posterior, and the formula of each."""

import copy
import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

import pyro_vae as pv
from pyro_vae.common.registry import build
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.networks import MLP
from pyro_vae.posteriors import POSTERIORS, DiagonalNormal
from pyro_vae.priors import StandardNormal

_EVENT = (2, 3)
_OPTIONS = {"flow": {"width": 16}}  # small where a grid of points goes through it


class _Given(nn.Module):
    """Network that passes the posterior's parameters on."""

    def forward(self, parameters):
        return parameters


def build_posterior(name, network, latent_dim, **options):
    return build("posterior", name, POSTERIORS, network, latent_dim, **options)


def _posterior(name, latent_dim=4):
    """Posterior with a small network, its own parameters away from their initial values."""
    torch.manual_seed(0)
    posterior = build_posterior(
        name,
        lambda shape: MLP(_EVENT, shape, hidden=(5,)),
        latent_dim,
        **_OPTIONS.get(name, {}),
    )
    with torch.no_grad():
        for owner in posterior.children():
            scale = 0.5 if owner is posterior.network else 0.8
            for parameter in owner.parameters():
                fan_in = parameter.shape[-1] if parameter.dim() > 1 else 1
                parameter += scale / math.sqrt(fan_in) * torch.randn_like(parameter)
    return posterior.double()


def _given(name, latent_dim=4, *leading):
    """Posterior of given parameters, and some."""
    posterior = _posterior(name, latent_dim)
    posterior.network = _Given()
    shape = posterior.output_shape
    return posterior, 0.5 * torch.randn(*leading, *shape, dtype=torch.float64)


def _raw_scales(name, parameters):
    if name == "full":
        return parameters[..., 1:, :].diagonal(dim1=-2, dim2=-1)
    return parameters[..., 1, :]


@pytest.mark.parametrize("name", POSTERIORS)
class TestPosteriors:
    @pytest.mark.parametrize("leading", [(), (3,), (2, 3)])
    def test_shapes(self, name, leading):
        q = _posterior(name)(torch.randn(*leading, *_EVENT).double())
        assert (q.batch_shape, q.event_shape) == (leading, (4,))
        assert q.has_rsample
        assert q.mean.shape == (*leading, 4)
        z = q.rsample((5,))
        assert z.shape == (5, *leading, 4)
        assert q.log_prob(z).shape == (5, *leading)
        assert q.log_prob(z.detach()).shape == (5, *leading)
        assert q.log_prob(torch.zeros(4).double()).shape == leading

    def test_a_datum_does_not_depend_on_its_batch(self, name):
        posterior = _posterior(name)
        x = torch.randn(2, 3, *_EVENT).double()
        z = torch.randn(2, 3, 4).double()
        q, one = posterior(x), posterior(x[1, 2])
        torch.testing.assert_close(q.log_prob(z)[1, 2], one.log_prob(z[1, 2]))
        torch.testing.assert_close(q.mean[1, 2], one.mean)

    def test_every_output_of_the_network_matters(self, name):
        posterior, parameters = _given(name, 4, 3)
        q = posterior(parameters.requires_grad_())
        z = q.rsample()
        (gradient,) = torch.autograd.grad((z * torch.randn_like(z)).sum(), parameters)
        unused = 3 * 6 if name == "full" else 0  # above the diagonal
        assert gradient.isfinite().all()
        assert (gradient == 0).sum() == unused

    def test_gradient_is_that_of_finite_differences(self, name):
        posterior, parameters = _given(name, 3, 2)
        names = [n for n, _ in posterior.named_parameters()]
        fixed = torch.randn(2, 3).double()

        def draw_and_score(parameters, *own):
            q = functional_call(posterior, dict(zip(names, own, strict=True)), (parameters,))
            torch.manual_seed(0)
            z = q.rsample()
            return z, q.log_prob(z), q.log_prob(fixed)

        own = [p.detach().requires_grad_() for p in posterior.parameters()]
        inputs = (parameters.requires_grad_(), *own)
        assert torch.autograd.gradcheck(draw_and_score, inputs, fast_mode=True)

    def test_normalized_and_samples_follow_the_density(self, name):
        """Mass 1 to 1e-3 on a grid; E log q of 20,000 draws within 5 standard errors."""
        posterior, parameters = _given(name, 2)
        axis = torch.linspace(-12, 12, 401, dtype=torch.float64)
        grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
        with torch.no_grad():
            q = posterior(parameters)
            log_q = q.log_prob(grid)
            weights = log_q.exp() * (axis[1] - axis[0]) ** 2
            torch.manual_seed(0)
            draws = q.log_prob(q.sample((20_000,)))
        assert weights.sum().item() == pytest.approx(1, abs=1e-3)
        mean = (weights * log_q).sum().item()
        error = draws.std().item() / math.sqrt(20_000)
        assert draws.mean().item() == pytest.approx(mean, abs=5 * error)

    def test_density_of_a_draw_is_that_of_any_point(self, name):
        posterior, parameters = _given(name, 4, 3)
        q = posterior(parameters)
        z = q.rsample((5,))
        torch.testing.assert_close(q.log_prob(z), q.log_prob(z.clone()), rtol=1e-9, atol=1e-9)
        again = posterior(parameters)
        torch.testing.assert_close(q.log_prob(z), again.log_prob(z), rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("everything", [False, True])
    def test_collapse_stays_a_density_in_float32(self, name, everything):
        posterior, parameters = _given(name, 4, 3)
        posterior, parameters = posterior.float(), parameters.float()
        (parameters if everything else _raw_scales(name, parameters)).fill_(-1e4)
        q = posterior(parameters.requires_grad_())
        z = q.rsample()
        for density in (q.log_prob(z), q.log_prob(z.detach())):
            assert density.isfinite().all()
            (gradient,) = torch.autograd.grad(density.sum(), parameters, retain_graph=True)
            assert gradient.isfinite().all()

    def test_plate_with_particles(self, name):
        posterior, parameters = _given(name, 4, 5)
        particles, data = pyro.plate("particles", 3, dim=-2), pyro.plate("data", 5)
        with pyro.poutine.trace() as tracer, particles, data:
            z = pyro.sample("z", posterior(parameters))
        assert z.shape == (3, 5, 4)
        assert len(z.flatten(0, 1).unique(dim=0)) == 15
        density = tracer.trace.nodes["z"]["fn"].log_prob(z)
        torch.testing.assert_close(density, posterior(parameters).log_prob(z))

    def test_several_inputs_go_to_the_network(self, name):
        posterior, parameters = _given(name, 4, 5)

        class Sum(nn.Module):
            def forward(self, a, b):
                return a + b

        z = torch.randn(5, 4).double()
        expected = posterior(3 * parameters).log_prob(z)
        posterior.network = Sum()
        torch.testing.assert_close(posterior(parameters, 2 * parameters).log_prob(z), expected)

    def test_density_takes_the_parameters_it_was_made_with(self, name):
        one, two = _posterior(name), _posterior(name)
        with torch.no_grad():
            for parameter in two.parameters():
                parameter.mul_(0.5)
        x, z = torch.randn(3, *_EVENT).double(), torch.randn(3, 4).double()
        q = functional_call(two, dict(one.named_parameters()), (x,))
        torch.testing.assert_close(q.log_prob(z), one(x).log_prob(z))
        assert not torch.allclose(two(x).log_prob(z), one(x).log_prob(z))

    def test_traces_without_reading_from_the_device(self, name):
        posterior = _posterior(name)

        def draw_and_score(parameters, x, z):
            q = functional_call(posterior, parameters, (x,)).expand((4, 3))
            drawn = q.rsample()
            return q.log_prob(drawn), q.log_prob(z)

        x, z = torch.randn(3, *_EVENT).double(), torch.randn(4, 3, 4).double()
        parameters = {**dict(posterior.named_parameters()), **dict(posterior.named_buffers())}
        with pyro.validation_enabled(False):
            graph = make_fx(draw_and_score, tracing_mode="fake")(parameters, x, z)
        torch.testing.assert_close(graph(parameters, x, z)[1], posterior(x).log_prob(z))

    def test_save_load_and_copy(self, name):
        one, two = _posterior(name), _posterior(name)
        with torch.no_grad():
            for parameter in two.parameters():
                parameter.zero_()
        two.load_state_dict(one.state_dict())
        three = copy.deepcopy(one)
        x, z = torch.randn(3, *_EVENT).double(), torch.randn(3, 4).double()
        assert torch.equal(one(x).log_prob(z), two(x).log_prob(z))
        assert torch.equal(one(x).log_prob(z), three(x).log_prob(z))

    def test_half_precision_of_the_network_is_widened(self, name):
        posterior, parameters = _given(name, 4, 3)
        q = posterior.float()(parameters.bfloat16())
        assert q.rsample().dtype == q.log_prob(q.rsample()).dtype == torch.float32

    @pytest.mark.usefixtures("no_unreliable_warning")
    def test_trains_and_evaluates(self, name, digits):
        torch.manual_seed(0)
        posterior = build_posterior(name, lambda shape: MLP((8, 8), shape, hidden=(16,)), 4)
        likelihood = Bernoulli(MLP((4,), (8, 8), hidden=(16,)), (8, 8))
        vae = pv.VAE(StandardNormal(4), likelihood, posterior)
        history = pv.fit(vae, digits.train.head(300), epochs=2)
        assert math.isfinite(history.epochs[-1].train_elbo)
        x = digits.test.x[:20]
        evidence = pv.log_evidence(vae.model, vae.guide, x, method="guide", samples=200, seed=0)
        assert evidence.log_px.mean() > evidence.elbo.mean()
        assert vae.encode(x).shape == (20, 4)
        objective = pv.ELBO(kl="analytic", particles=2)  # closed forms need not exist
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pv.PyroVAEWarning)
            assert pv.fit(vae, digits.train.head(100), epochs=1, objective=objective).epochs

    def test_network_as_a_function_of_its_shape(self, name):
        """The same bits as the network itself, which is drawn before the posterior's own."""
        torch.manual_seed(0)
        made = build_posterior(name, lambda shape: MLP(_EVENT, shape, hidden=(5,)), 4)
        torch.manual_seed(0)
        given = build_posterior(name, MLP(_EVENT, made.output_shape, hidden=(5,)), 4)
        assert list(made.state_dict()) == list(given.state_dict())
        for one, two in zip(made.parameters(), given.parameters(), strict=True):
            assert torch.equal(one, two)

    def test_network_of_another_shape(self, name):
        posterior, parameters = _given(name, 4, 3)
        with pytest.raises(ValueError, match=r"needs a network whose output has shape \(\.\.\., "):
            posterior(parameters[..., 1:, :])
        with pytest.raises(ValueError, match=r"got \(4,\)\. Give a function in place"):
            posterior(parameters[0, 0])


def test_full_normal_is_the_one_of_its_parameters():
    posterior, parameters = _given("full", 3)
    q = posterior(parameters)
    loc, matrix = parameters[0], parameters[1:]
    scale = 1e-5 + torch.nn.functional.softplus(matrix.diagonal())
    tril = torch.diag(scale) @ (torch.eye(3).double() + matrix.tril(-1) / math.sqrt(3))
    torch.testing.assert_close(q.mean, loc)
    torch.testing.assert_close(q.covariance_matrix, tril @ tril.T)


def test_low_rank_normal_is_the_one_of_its_parameters():
    posterior = build_posterior("low-rank", _Given(), 4, rank=3)
    parameters = torch.randn(posterior.output_shape).double()
    q = posterior(parameters)
    scale = torch.diag(1e-5 + torch.nn.functional.softplus(parameters[1]))
    factor = 30 * torch.tanh(parameters[2:].T / 30)
    covariance = scale @ (torch.eye(4).double() + factor @ factor.T) @ scale
    torch.testing.assert_close(q.covariance_matrix, covariance)
    z = torch.randn(5, 4).double()
    exact = dist.MultivariateNormal(parameters[0], covariance)
    torch.testing.assert_close(q.log_prob(z), exact.log_prob(z))


def test_low_rank_factors_at_their_bound_are_accurate_in_float32():
    """Equal huge columns at D = 40, the worst case for the Cholesky factor of I + F^T F."""
    posterior = build_posterior("low-rank", _Given(), 40, rank=3)
    parameters = torch.randn(5, 40).double()
    parameters[2:] = 1e6
    exact = posterior(parameters)
    z = exact.sample((100,))
    density = posterior(parameters.float()).log_prob(z.float())
    torch.testing.assert_close(density.double(), exact.log_prob(z), rtol=0.05, atol=0.5)


def test_flow_density_is_that_of_the_change_of_variables():
    """log q(z) = log N(eps) - log |det dz/d eps|, with autograd's Jacobian of the sampler."""
    posterior, parameters = _given("flow", 3)
    q = posterior(parameters)
    scale = 1e-5 + torch.nn.functional.softplus(parameters[1])

    def place(noise):
        return q.generate(parameters[0] + scale * noise)[0]

    noise = torch.randn(3).double()
    jacobian = torch.autograd.functional.jacobian(place, noise)
    exact = dist.Normal(0.0, 1.0).expand((3,)).to_event(1).log_prob(noise)
    exact = exact - torch.linalg.slogdet(jacobian)[1]
    torch.testing.assert_close(q.log_prob(place(noise)), exact)
    torch.testing.assert_close(q.mean, place(torch.zeros(3).double()))
    assert jacobian.tril(-1).abs().max() > 0.01  # correlated given x


def test_flow_starts_near_the_diagonal_normal():
    torch.manual_seed(0)
    posterior, diagonal = build_posterior("flow", _Given(), 4), DiagonalNormal(_Given())
    parameters = torch.randn(100, 3, 4)
    q, normal = posterior(parameters), diagonal(parameters[:, :2])
    z = normal.sample()
    torch.testing.assert_close(q.log_prob(z), normal.log_prob(z), rtol=0, atol=0.2)


def test_hierarchical_density_is_the_product_of_its_factors():
    posterior = build_posterior("hierarchical", _Given(), 5, top=2).double()
    parameters = torch.randn(6, 3, 5).double()
    q = posterior(parameters)
    z = torch.randn(6, 5).double()
    joined = torch.cat([parameters[:, 2], z[:, :2]], -1)
    lower = parameters[:, :2, 2:] + posterior.conditional(joined)
    softplus = torch.nn.functional.softplus
    exact = dist.Normal(parameters[:, 0, :2], 1e-5 + softplus(parameters[:, 1, :2])).log_prob(
        z[:, :2]
    ).sum(-1) + dist.Normal(lower[:, 0], 1e-5 + softplus(lower[:, 1])).log_prob(z[:, 2:]).sum(-1)
    torch.testing.assert_close(q.log_prob(z), exact)
    mean = q.mean
    torch.testing.assert_close(mean[:, :2], parameters[:, 0, :2])
    at_mean = posterior.conditional(torch.cat([parameters[:, 2], mean[:, :2]], -1))
    torch.testing.assert_close(mean[:, 2:], parameters[:, 0, 2:] + at_mean[:, 0])


def test_one_latent_dimension():
    for name in set(POSTERIORS) - {"hierarchical"}:
        posterior, parameters = _given(name, 1, 3)
        z = posterior(parameters).rsample((2,))
        assert posterior(parameters).log_prob(z).isfinite().all()
    with pytest.raises(ValueError, match=r"both layers need a dimension.*got 0"):
        build_posterior("hierarchical", _Given(), 1)


def test_diagonal_normal_takes_the_size_from_its_network():
    q = DiagonalNormal(_Given())(torch.zeros(3, 2, 7))
    assert q.event_shape == (7,)
    with pytest.raises(ValueError, match=r"\(\.\.\., 2, any\).*got \(3, 7\)"):
        DiagonalNormal(_Given())(torch.zeros(3, 7))
    with pytest.raises(ValueError, match="needs to know all sizes to have a network made"):
        DiagonalNormal(lambda shape: MLP(_EVENT, shape))


def test_wrong_names_and_options():
    with pytest.raises(ValueError, match=r"unknown posterior 'ful'.*Did you mean 'full'"):
        build_posterior("ful", _Given(), 2)
    with pytest.raises(ValueError, match="'normal' does not take rank; it takes no options"):
        build_posterior("normal", _Given(), 2, rank=3)
    with pytest.raises(ValueError, match="'low-rank' does not take ranks; it takes rank"):
        build_posterior("low-rank", _Given(), 2, ranks=3)
    with pytest.raises(ValueError, match="rank must be at least 1; got 0"):
        build_posterior("low-rank", _Given(), 2, rank=0)
    with pytest.raises(ValueError, match=r"top must be between 1 and latent_dim - 1 = 3; got 4"):
        build_posterior("hierarchical", _Given(), 4, top=4)
    with pytest.raises(ValueError, match="transforms of a flow must be at least 1; got 0"):
        build_posterior("flow", _Given(), 4, transforms=0)
    with pytest.raises(ValueError, match="latent_dim must be at least 1; got 0"):
        build_posterior("normal", _Given(), 0)


def test_options_reach_the_posterior():
    assert build_posterior("low-rank", _Given(), 4, rank=3).output_shape == (5, 4)
    assert build_posterior("flow", _Given(), 4, transforms=3, width=8).output_shape == (3, 4)
    assert build_posterior("hierarchical", _Given(), 4, top=1, width=7).bottom == 3
    flow = build_posterior("flow", _Given(), 4, transforms=3, width=8)
    assert len(flow.flow.transform.transforms) == 3
