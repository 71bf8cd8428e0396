"""Shared distributions: equal to torch's where torch has them, and to sums of their parts."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae.distributions import (
    BlockAutoregressive,
    LastDraw,
    NormalMixture,
    bound,
    densities,
)
from pyro_vae.distributions import vectors as distributions


def _arguments(components=7, latent_dim=3, scale=0.8, spread=3.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    normal = {"generator": generator, "dtype": torch.float64}
    logits = torch.randn(components, **normal)
    loc = spread * (2 * torch.rand(components, latent_dim, **normal) - 1)
    scales = scale * torch.rand(components, latent_dim, **normal).add(0.5)
    return [tensor.to(dtype) for tensor in (logits, loc, scales)]


def _torch_mixture(logits, loc, scale):
    components = dist.Normal(loc, scale).to_event(1)
    return dist.MixtureSameFamily(dist.Categorical(logits=logits), components)


class TestNormalMixture:
    def test_far_from_the_origin(self):
        """Squares of 1e9 would cost seven digits, were they not taken about the centre."""
        logits, loc, scale = _arguments()
        loc = loc + 1e4
        z = 1e4 + 3 * torch.randn(50, 3, dtype=torch.float64)
        density = NormalMixture(logits, loc, scale).log_prob(z)
        exact = _torch_mixture(logits, loc, scale).log_prob(z)
        torch.testing.assert_close(density, exact, rtol=0, atol=1e-8)

    @pytest.mark.parametrize("leading", [(), (1,), (6,), (4, 5)])
    def test_equals_torch(self, leading):
        arguments = _arguments()
        z = 3 * torch.randn(*leading, 3, dtype=torch.float64)
        density = NormalMixture(*arguments).log_prob(z)
        assert density.shape == leading
        torch.testing.assert_close(
            density, _torch_mixture(*arguments).log_prob(z), rtol=0, atol=1e-10
        )

    def test_blocks_of_rows_give_the_same(self, monkeypatch):
        arguments = _arguments()
        z = torch.randn(4, 25, 3, dtype=torch.float64)
        whole = NormalMixture(*arguments).log_prob(z)
        monkeypatch.setattr(distributions, "_BLOCK", 7 * 8)  # 12 blocks of 8 rows, one of 4
        torch.testing.assert_close(NormalMixture(*arguments).log_prob(z), whole)

    def test_moments_equal_torch(self):
        arguments = _arguments()
        ours, theirs = NormalMixture(*arguments), _torch_mixture(*arguments)
        torch.testing.assert_close(ours.mean, theirs.mean)
        torch.testing.assert_close(ours.variance, theirs.variance)
        torch.testing.assert_close(ours.expand((2,)).mean, theirs.mean.expand(2, 3))
        torch.testing.assert_close(ours.expand((2,)).variance, theirs.variance.expand(2, 3))

    @pytest.mark.parametrize("offset", [0.0, 100.0])
    def test_narrow_components_in_float32(self, offset):
        """Scale 0.03, means up to 3 (or 100 away): the error is that of rounding z to float32."""
        logits, loc, scale = _arguments(500, 40, 0.03, dtype=torch.float32)
        loc = loc + offset
        narrow = NormalMixture(logits, loc, scale)
        torch.manual_seed(0)
        z = narrow.sample((200,))
        exact = _torch_mixture(logits.double(), loc.double(), scale.double()).log_prob(z.double())
        density = narrow.log_prob(z)
        assert density.dtype == torch.float32
        torch.testing.assert_close(density.double(), exact, rtol=2e-7, atol=1e-5)

    def test_dtype_is_the_wider_one(self):
        arguments = _arguments(dtype=torch.float32)
        mixture = NormalMixture(*arguments)
        assert mixture.log_prob(torch.zeros(2, 3).double()).dtype == torch.float64
        assert mixture.log_prob(torch.zeros(2, 3).bfloat16()).dtype == torch.float32
        assert mixture.sample((2,)).dtype == torch.float32

    def test_gradient_is_that_of_finite_differences(self):
        arguments = [tensor.requires_grad_() for tensor in _arguments(4, 2)]
        z = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)

        def log_prob(z, *arguments):
            return NormalMixture(*arguments).log_prob(z)

        assert torch.autograd.gradcheck(log_prob, (z, *arguments))
        assert torch.autograd.gradgradcheck(log_prob, (z, *arguments))

    def test_samples_follow_the_density(self):
        """Means, second moments and log density of 40,000 draws: 5 standard errors."""
        arguments = _arguments(3, 2)
        mixture, reference = NormalMixture(*arguments), _torch_mixture(*arguments)
        torch.manual_seed(0)
        z = mixture.sample((200, 200)).reshape(-1, 2)
        independent = reference.sample((40_000,))
        for statistic in (lambda z: z, torch.square, lambda z: reference.log_prob(z)[:, None]):
            ours, theirs = statistic(z), statistic(independent)
            error = (ours.var(0) + theirs.var(0)).sqrt() / math.sqrt(40_000)
            assert ((ours.mean(0) - theirs.mean(0)).abs() < 5 * error).all()
        assert not mixture.has_rsample

    def test_plate(self):
        arguments = _arguments()
        particles, data = pyro.plate("particles", 4, dim=-2), pyro.plate("data", 5)
        with pyro.poutine.trace() as tracer, particles, data:
            z = pyro.sample("z", NormalMixture(*arguments))
        site = tracer.trace.nodes["z"]
        assert z.shape == (4, 5, 3)
        assert len(z.flatten(0, 1).unique(dim=0)) == 20
        assert site["fn"].log_prob(z).shape == (4, 5)
        assert site["fn"].log_prob(z[0, 0]).shape == (4, 5)
        torch.testing.assert_close(
            site["fn"].log_prob(z), _torch_mixture(*arguments).log_prob(z), rtol=0, atol=1e-10
        )

    def test_traces_without_reading_from_the_device(self):
        def draw_and_score(logits, loc, scale):
            mixture = NormalMixture(logits, loc, scale)
            return mixture.log_prob(mixture.expand((6,)).sample())

        with pyro.validation_enabled(False):
            graph = make_fx(draw_and_score, tracing_mode="fake")(*_arguments())
        assert graph(*_arguments()).shape == (6,)

    def test_wrong_arguments(self):
        logits, loc, scale = _arguments()
        with pytest.raises(ValueError, match=r"loc \(J, D\).*got \(7,\), \(7, 3\) and \(7,\)"):
            NormalMixture(logits, loc, scale[:, 0])
        with pytest.raises(ValueError, match=r"got \(6,\)"):
            NormalMixture(logits[1:], loc, scale)
        with pytest.raises(ValueError, match="parameter scale"):
            NormalMixture(logits, loc, -scale)
        with pytest.raises(ValueError, match="value argument"):
            NormalMixture(logits, loc, scale).log_prob(torch.full((3,), math.nan).double())


class _Conditional(nn.Module):
    """b | a ~ N(W a, 0.5^2)."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(3, 2, generator=generator, dtype=torch.float64)
        self.weight = nn.Parameter(weight)
        self.calls = 0

    def forward(self, a):
        self.calls += 1
        return dist.Normal(a @ self.weight.T, 0.5).to_event(1)


def _blocks(conditional=None, batch_shape=()):
    loc = torch.tensor([0.3, -0.2], dtype=torch.float64).expand(*batch_shape, 2)
    return BlockAutoregressive(dist.Normal(loc, 2.0).to_event(1), conditional or _Conditional())


class TestBlockAutoregressive:
    @pytest.mark.parametrize("batch_shape", [(), (4,), (3, 4)])
    def test_equals_the_joint_normal(self, batch_shape):
        """a ~ N(m, 4 I), b | a ~ N(W a, I/4): z is normal with a known covariance."""
        joint = _blocks(batch_shape=batch_shape)
        assert (joint.batch_shape, joint.event_shape) == (batch_shape, (5,))
        weight = _Conditional().weight.detach()
        to_z = torch.cat([torch.eye(2).double(), weight])
        noise = torch.block_diag(torch.zeros(2, 2), 0.25 * torch.eye(3)).double()
        exact = dist.MultivariateNormal(
            to_z @ joint.first.mean.reshape(-1, 2)[0], 4 * to_z @ to_z.T + noise
        )
        z = joint.rsample((7,))
        assert z.shape == (7, *batch_shape, 5)
        torch.testing.assert_close(joint.log_prob(z), exact.log_prob(z))
        torch.testing.assert_close(joint.log_prob(z.clone()), exact.log_prob(z))
        torch.testing.assert_close(joint.mean, exact.mean.expand(*batch_shape, 5))

    def test_samples_follow_the_density(self):
        """First and second moments of 20,000 draws of either kind: 5 standard errors."""
        joint = _blocks()
        weight = _Conditional().weight.detach()
        to_z = torch.cat([torch.eye(2).double(), weight])
        noise = torch.block_diag(torch.zeros(2, 2), 0.25 * torch.eye(3)).double()
        covariance = 4 * to_z @ to_z.T + noise
        torch.manual_seed(0)
        for z in (joint.sample((20_000,)), joint.rsample((20_000,)).detach()):
            centred = z - joint.mean.detach()
            for found, exact in (
                (centred, torch.zeros(5).double()),
                ((centred[:, :, None] * centred[:, None]).flatten(1), covariance.flatten()),
            ):
                error = found.std(0) / math.sqrt(20_000)
                assert ((found.mean(0) - exact).abs() < 5 * error).all()

    def test_conditional_runs_once_for_a_draw_and_its_density(self):
        conditional = _Conditional()
        joint = _blocks(conditional).expand((4,))
        calls = conditional.calls
        z = joint.rsample()
        joint.log_prob(z)
        assert conditional.calls == calls + 1
        joint.log_prob(z + 0)
        assert conditional.calls == calls + 2

    def test_gradient_is_that_of_finite_differences(self):
        conditional = _Conditional()

        def density(loc, weight):
            first = dist.Normal(loc, 1.3).to_event(1)
            joint = BlockAutoregressive(
                first, lambda a: functional_call(conditional, {"weight": weight}, (a,)), size=3
            )
            torch.manual_seed(0)
            z = joint.rsample((2,))
            return z, joint.log_prob(z), joint.log_prob(torch.ones(5).double())

        loc = torch.randn(2, dtype=torch.float64, requires_grad=True)
        weight = conditional.weight.detach().requires_grad_()
        assert torch.autograd.gradcheck(density, (loc, weight))

    def test_first_block_without_rsample(self):
        mixture = NormalMixture(*_arguments(latent_dim=2))
        joint = BlockAutoregressive(mixture, _Conditional())
        assert not joint.has_rsample
        with pyro.poutine.trace() as tracer, pyro.plate("data", 6):
            z = pyro.sample("z", joint)
        assert z.shape == (6, 5)
        assert tracer.trace.nodes["z"]["fn"].log_prob(z).shape == (6,)

    def test_wrong_first_block(self):
        with pytest.raises(ValueError, match=r"must be a vector; got event shape \(\).*to_event"):
            BlockAutoregressive(dist.Normal(torch.zeros(2), 1.0), _Conditional())


class TestLastDraw:
    def test_recalls_that_very_draw(self):
        drawn, z = LastDraw(), torch.zeros(2)
        assert drawn.recall(z) is None
        drawn.keep(z, "found")
        assert drawn.recall(z) == "found"
        assert drawn.recall(z.clone()) is None
        z += 1
        assert drawn.recall(z) is None

    def test_a_draw_without_gradients_serves_only_there(self):
        drawn, z = LastDraw(), torch.zeros(2)
        with torch.no_grad():
            drawn.keep(z, "found")
            assert drawn.recall(z) == "found"
        assert drawn.recall(z) is None

    def test_inference_mode(self):
        drawn = LastDraw()
        with torch.inference_mode():
            z = torch.zeros(2)
            drawn.keep(z, "found")
            assert drawn.recall(z) == "found"


def test_bound_module_keeps_its_parameters():
    linear = nn.Linear(2, 2)
    x = torch.randn(3, 2)
    expected = 2 * linear.weight.detach()

    class Binds(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = linear

        def forward(self):
            return bound(self.linear)

    call = functional_call(Binds(), {"linear.weight": expected, "linear.bias": torch.zeros(2)}, ())
    torch.testing.assert_close(call(x), x @ expected.T)
    assert not torch.allclose(linear(x), x @ expected.T)


def test_kl_of_bernoullis_is_torchs_to_the_edges():
    """Probabilities of 0 and 1, where terms vanish or are infinite."""
    p, q = torch.cartesian_prod(*[torch.tensor([0.0, 0.2, 0.9, 1.0], dtype=torch.float64)] * 2).T
    ours = torch.distributions.kl_divergence(*(densities.Bernoulli(probs=v) for v in (p, q)))
    theirs = torch.distributions.kl_divergence(*(torch.distributions.Bernoulli(v) for v in (p, q)))
    assert theirs.isinf().sum() == 6
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
