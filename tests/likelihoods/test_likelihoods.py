"""One contract for every registered likelihood, and what each is by itself."""

import copy
import math
from functools import partial

import mpmath
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from torch import nn
from torch.distributions import constraints, kl_divergence
from torch.fx.experimental.proxy_tensor import make_fx

import pyro_vae as pv
from pyro_vae.common.registry import build
from pyro_vae.distributions import densities, masses
from pyro_vae.distributions.special import log_rising
from pyro_vae.likelihoods import LIKELIHOODS
from pyro_vae.networks import MLP
from pyro_vae.programs.masks import fill, mask_model
from pyro_vae.programs.observations import check_support

_EVENT = (2, 3)
_SMALL = {
    "discretized-logistic": {"levels": 7},
    "logistic-mixture": {"levels": 7, "components": 3},
    "pixel-mixture": {"levels": 7, "components": 3},
    "categorical": {"levels": 5},
    "binomial": {"count": 6},
}
_CASES = [
    (name, _SMALL.get(name, {}))
    for name in LIKELIHOODS
    if name != "columns"  # which needs the columns of a table: test_column_likelihoods.py
] + [
    ("normal", {"scale": "network"}),
    ("normal", {"scale": "value"}),
    ("normal", {"scale": 0.3}),
    ("laplace", {"scale": "network"}),
    ("student-t", {"scale": "network", "degrees_of_freedom": 4.0}),
    ("discretized-logistic", {"levels": 256, "scale": "network"}),
    ("negative-binomial", {"dispersion": "network"}),
    ("zero-inflated-poisson", {"gate": "network"}),
    ("zero-inflated-negative-binomial", {"dispersion": "network", "gate": "network"}),
    ("zero-inflated-negative-binomial", {"dispersion": "value", "gate": 0.2}),
]
# Likelihoods whose divergence has a closed form.
_WITH_KL = {
    "bernoulli",
    "continuous-bernoulli",
    "normal",
    "laplace",
    "categorical",
    "binomial",
    "poisson",
}
_cases = pytest.mark.parametrize(
    ("name", "options"), _CASES, ids=lambda v: v if isinstance(v, str) else "-".join(map(str, v))
)


def build_likelihood(name, network, event_shape, **options):
    return build("likelihood", name, LIKELIHOODS, network, event_shape, **options)


def _small_network(shape):
    return MLP((4,), shape, hidden=(5,))


def _likelihood(name, options, network=_small_network):
    torch.manual_seed(0)
    likelihood = build_likelihood(name, network, _EVENT, **options).double()
    with torch.no_grad():  # away from the special initial values
        for parameter in likelihood.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return likelihood


class _Output(nn.Module):
    """Network that gives its parameter, whatever z."""

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(value)

    def forward(self, z):
        return self.value.expand(*z.shape[:-1], *self.value.shape)

    def initialize_output(self, value):
        with torch.no_grad():
            self.value.copy_(value)


def _free(name, options, *, spread=1.5):
    """Likelihood whose output is a free parameter, with its z."""

    def network(shape):
        torch.manual_seed(1)
        return _Output(spread * torch.randn(shape).double())

    return _likelihood(name, options, network), torch.zeros(4).double()


def _points(values):
    """Values of a support along a first dimension, and the weights that integrate over it."""
    support = values.support
    support = getattr(support, "base_constraint", support)  # of a mixture
    double = torch.float64
    if isinstance(support, masses.Grid):
        x = torch.arange(support.levels, dtype=double) / (support.levels - 1)
    elif support is constraints.boolean:
        x = torch.tensor([0.0, 1.0], dtype=double)
    elif support is constraints.nonnegative_integer:
        x = torch.arange(2000, dtype=double)
    elif getattr(support, "is_discrete", False):
        top = int(torch.as_tensor(support.upper_bound).max())
        x = torch.arange(top + 1, dtype=double)
    elif support is constraints.unit_interval:
        x = torch.linspace(0, 1, 20_001, dtype=double)
        weight = torch.full_like(x, 1 / 20_000)
        weight[[0, -1]] /= 2
        return x[:, None, None], weight[:, None, None]
    else:
        # Odd about the location, where a density may have a kink.
        t = torch.arange(-99_999, 100_000, dtype=double)[:, None, None] * 1e-5
        return values.loc.detach() + t / (1 - t**2), (1 + t**2) / (1 - t**2) ** 2 * 1e-5
    return x[:, None, None], torch.ones(len(x), 1, 1, dtype=double)


@_cases
class TestContract:
    @pytest.mark.parametrize("leading", [(), (3,), (2, 3)])
    def test_shapes(self, name, options, leading):
        likelihood = _likelihood(name, options)
        p = likelihood(torch.randn(*leading, 4).double())
        assert p.batch_shape == leading
        assert p.event_shape == _EVENT == likelihood.event_shape
        assert likelihood.event_dim == 2
        x = p.sample()
        assert x.dtype == torch.float64
        assert p.log_prob(x).shape == leading
        assert p.mean.shape == p.sample((5,)).shape[1:] == (*leading, *_EVENT)
        assert p.expand((2, *leading)).log_prob(x).shape == (2, *leading)
        assert p.support.check(x).all()

    def test_several_inputs(self, name, options):
        class Joint(nn.Module):
            def __init__(self, network):
                super().__init__()
                self.network = network

            def forward(self, z, y):
                return self.network(torch.cat([z, y], -1))

        likelihood = _likelihood(name, options)
        joined = copy.deepcopy(likelihood)
        joined.network = Joint(joined.network)
        z = torch.randn(3, 4).double()
        one, two = likelihood(z), joined(z[:, :1], z[:, 1:])
        torch.testing.assert_close(two.mean, one.mean)

    def test_normalized(self, name, options):
        """Total mass is one, whatever the parameters: so its gradient, E[score], is zero."""
        likelihood, z = _free(name, options)
        values = likelihood(z).base_dist
        x, weight = _points(values)
        mass = (values.log_prob(x).exp() * weight).sum(0)
        torch.testing.assert_close(mass, torch.ones_like(mass), rtol=0, atol=2e-6)
        for gradient in torch.autograd.grad(mass.sum(), list(likelihood.parameters())):
            torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=2e-6)

    def test_samples_follow_the_density(self, name, options):
        """Chi-square of 20,000 draws in cells of equal mass; fails once in 10,000."""
        likelihood, z = _free(name, options)
        values = likelihood(z).base_dist
        x, weight = _points(values)
        with torch.no_grad():
            cdf = (values.log_prob(x).exp() * weight).cumsum(0)[:, 0, 1].numpy()
        draws = likelihood(z).sample((20_000,))[:, 0, 1].contiguous()
        cells = _cells(cdf)
        edges = x.expand(-1, *_EVENT)[:, 0, 1][cells[:-1]] + 1e-9
        observed = torch.bucketize(draws, edges.contiguous()).bincount(minlength=len(cells))
        mass = torch.tensor([0.0, *cdf[cells[:-1]], 1.0]).diff()
        expected = (20_000 * mass / mass.sum()).numpy()
        assert scipy.stats.chisquare(observed.numpy(), expected).pvalue > 1e-4

    def test_mean(self, name, options):
        likelihood, z = _free(name, options)
        values = likelihood(z).base_dist
        x, weight = _points(values)
        density = values.log_prob(x).exp() * weight
        expected = x.expand_as(density).gather(0, density.argmax(0, keepdim=True))[0]
        if name != "categorical":  # indices have no mean: the mode
            expected = (density * x).sum(0)
        torch.testing.assert_close(values.mean, expected, rtol=1e-4, atol=1e-4)

    def test_gradient_is_that_of_finite_differences(self, name, options):
        likelihood = _likelihood(name, options)
        x = likelihood(torch.zeros(4).double()).sample()
        z = torch.randn(4, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda z: likelihood(z).log_prob(x), z)
        assert torch.autograd.gradgradcheck(lambda z: likelihood(z).log_prob(x), z)

    def test_extreme_outputs(self, name, options):
        """Log densities in float32 are those of float64, and their gradients finite."""
        likelihood, z = _free(name, options)
        x, _ = _points(likelihood(z).base_dist)
        sizes = torch.tensor([0, 1e-8, 1e-3, 0.4999, 0.5, 1, 20, 100, 1e4])
        extremes = torch.cat([sizes, -sizes])
        shape = likelihood.network.value.shape
        output = extremes[torch.randint(len(extremes), (400, *shape))]
        real = likelihood(z).support.base_constraint is constraints.real
        ends = torch.tensor([-1e3, -1.0, 0.0, 2.0, 1e3]) if real else x[[0, 1, -2, -1], 0, 0]
        if len(x) == 2000:
            ends = torch.tensor([0.0, 1.0, 30.0, 1000.0])
        data = ends.double()[torch.randint(len(ends), (400, *_EVENT))]
        results = []
        for dtype in (torch.float32, torch.float64):
            part = copy.deepcopy(likelihood).to(dtype)
            free = output.to(dtype).requires_grad_()
            value = part.values(free).log_prob(data.to(dtype))
            gradients = torch.autograd.grad(value.sum(), [free, *_own(part)])
            results.append((value.double(), *(g.double() for g in gradients)))
        for single, double in zip(*results, strict=True):
            assert single.isfinite().all()
            assert double.isfinite().all()
            torch.testing.assert_close(single, double, rtol=2e-4, atol=1e-3)

    def test_save_load_copy(self, name, options):
        likelihood = _likelihood(name, options)
        z = torch.randn(3, 4).double()
        x = likelihood(z).sample()
        other = build_likelihood(name, _small_network, _EVENT, **options).double()
        other.load_state_dict(likelihood.state_dict())
        expected = likelihood(z).log_prob(x)
        assert torch.equal(other(z).log_prob(x), expected)
        assert torch.equal(copy.deepcopy(likelihood)(z).log_prob(x), expected)
        assert likelihood.float()(z.float()).log_prob(x.float()).dtype == torch.float32

    def test_can_be_traced(self, name, options):
        """Density and draws read no number back from the device: they trace on fake tensors."""
        likelihood = _likelihood(name, options)
        z = torch.randn(3, 4).double()
        x = likelihood(z).sample()

        def program(parameters, buffers, z, x):
            p = torch.func.functional_call(likelihood, (parameters, buffers), (z,))
            return p.log_prob(x), p.sample()

        state = dict(likelihood.named_parameters()), dict(likelihood.named_buffers())
        with pyro.validation_enabled(False):
            make_fx(program, tracing_mode="fake")(*state, z, x)

    def test_starts_at_the_data(self, name, options):
        likelihood, z = _free(name, options, spread=0.5)
        x = likelihood(z).sample((500,))
        with torch.no_grad():
            likelihood.network.value.fill_(7.0)
        likelihood.initialize(x)
        p = likelihood(z)
        if name == "categorical":
            for k in range(options["levels"]):
                frequency = (x == k).double().mean(0)
                mass = p.base_dist.log_prob(torch.full(_EVENT, k).double()).exp()
                torch.testing.assert_close(mass, frequency, rtol=0, atol=2e-3)
        else:
            # Rounding to few levels moves the mean of a discretized density a little.
            atol = 0.02 if "levels" in options else 1e-6
            torch.testing.assert_close(p.mean, x.mean(0), rtol=1e-6, atol=atol)
        integers = x.long()
        if (integers == x).all():
            likelihood.initialize(integers)
            torch.testing.assert_close(likelihood(z).mean, p.mean, rtol=1e-5, atol=1e-5)

    def test_untrained_start_beats_a_random_one(self, name, options):
        likelihood, z = _free(name, options, spread=0.5)
        x = likelihood(z).sample((500,))
        with torch.no_grad():
            likelihood.network.value.fill_(3.0)
        before = likelihood(z).log_prob(x).mean()
        likelihood.initialize(x)
        assert likelihood(z).log_prob(x).mean() > before

    def test_baseline_is_that_of_the_start_and_changes_nothing(self, name, options):
        """The density at the start, without the network, and every parameter stays as it was."""
        likelihood, z = _free(name, options, spread=0.5)
        x = likelihood(z).sample((200,))
        before = {name: value.clone() for name, value in likelihood.state_dict().items()}
        baseline = likelihood.baseline(x)
        after = likelihood.state_dict()
        assert all(torch.equal(after[name], value) for name, value in before.items())
        likelihood.initialize(x)
        torch.testing.assert_close(baseline, likelihood(z).log_prob(x).detach())

    def test_wrong_data_are_caught(self, name, options):
        likelihood = _likelihood(name, options)

        def guide(x):
            pyro.sample("z", dist.Normal(torch.zeros(4).double(), 1.0).to_event(1))

        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(4).double(), 1.0).to_event(1))
                pyro.sample("x", likelihood(z), obs=x)

        def plated(x):
            with pyro.plate("data", len(x)):
                guide(x)

        good = likelihood(torch.zeros(3, 4).double()).sample()
        check_support(model, plated, (good,))
        bad = good.clone()
        real = likelihood(torch.zeros(4).double()).support.base_constraint is constraints.real
        bad[1, 0, 2] = math.nan if real else -0.5
        with pytest.raises(ValueError, match=r"outside the support.*site 'x' is.*datum 1"):
            check_support(model, plated, (bad,))

    def test_single_values_can_be_masked(self, name, options):
        likelihood = _likelihood(name, options)
        z = torch.randn(3, 4).double()
        x = likelihood(z).sample()
        mask = torch.rand(3, *_EVENT) < 0.6
        mask[:, 0, 0] = True
        x_missing = torch.where(mask, x, torch.full_like(x, math.nan))

        def model(x):
            with pyro.plate("data", len(x)):
                pyro.sample("x", likelihood(z), obs=x)

        program, batch = mask_model(model), fill((x_missing,), mask)
        trace = pyro.poutine.trace(program).get_trace(*batch)
        trace.compute_log_prob()
        expected = (likelihood(z).base_dist.log_prob(x) * mask).sum((1, 2))
        torch.testing.assert_close(trace.nodes["x"]["log_prob"], expected)

    def test_divergence(self, name, options):
        """KL is that of quadrature; its Hessian at equality is the Fisher information."""
        likelihood, z = _free(name, options)
        other = copy.deepcopy(likelihood)
        with torch.no_grad():
            other.network.value += 0.5
        p, q = likelihood(z), other(z)
        if name not in _WITH_KL:
            with pytest.raises(NotImplementedError):
                kl_divergence(p, q)
            return
        x, weight = _points(p.base_dist)
        mass, log_ratio = p.base_dist.log_prob(x).exp() * weight, p.base_dist.log_prob(x)
        log_ratio = log_ratio - q.base_dist.log_prob(x)
        torch.testing.assert_close(
            kl_divergence(p, q), (mass * log_ratio).sum(), rtol=1e-4, atol=1e-6
        )
        output = likelihood.network.value.detach()

        def divergence(value):
            fixed = likelihood.values(output).to_event(2)
            return kl_divergence(fixed, likelihood.values(value).to_event(2))

        # Element (0, 1) of the last row: its own curvature, against E[score^2].
        row = output.flatten()
        place = row.numel() - 5
        hessian = torch.autograd.functional.hessian(divergence, output)
        hessian = hessian.reshape(row.numel(), row.numel())[place, place]
        step = torch.zeros_like(row)
        step[place] = 1e-4
        with torch.no_grad():
            up, down = (
                likelihood.values((row + s).reshape(output.shape)).log_prob(x)
                for s in (step, -step)
            )
        score = (up - down) / 2e-4
        fisher = (mass * score**2).sum()
        torch.testing.assert_close(hessian, fisher.detach(), rtol=1e-3, atol=1e-6)

    def test_says_what_it_is(self, name, options):
        likelihood = _likelihood(name, options)
        assert likelihood.description in repr(likelihood)
        if getattr(likelihood, "floor", 0):
            assert f"at least {likelihood.floor:.4g}" in likelihood.description

    def test_output_of_another_shape(self, name, options):
        likelihood = build_likelihood(
            name, lambda shape: MLP((4,), (*shape, 2), hidden=()), _EVENT, **options
        )
        with pytest.raises(ValueError, match=r"needs a network whose output has shape \(\.\.\., "):
            likelihood(torch.zeros(3, 4))

    def test_network_as_a_function_of_its_shape(self, name, options):
        """The same bits as the network itself."""
        torch.manual_seed(0)
        made = build_likelihood(name, _small_network, _EVENT, **options)
        torch.manual_seed(0)
        given = build_likelihood(name, _small_network(made.output_shape), _EVENT, **options)
        assert list(made.state_dict()) == list(given.state_dict())
        for one, two in zip(made.parameters(), given.parameters(), strict=True):
            assert torch.equal(one, two)

    def test_unknown_option(self, name, options):
        with pytest.raises(ValueError, match=f"likelihood {name!r} does not take colour; it takes"):
            build_likelihood(name, nn.Identity(), _EVENT, colour=1)


def _own(likelihood):
    return [p for key, p in likelihood.named_parameters() if not key.startswith("network")]


def _cells(cdf):
    """Indices that cut a distribution into at most 20 cells of enough mass."""
    cells, last = [], 0.0
    for i, c in enumerate(cdf[:-1]):
        if c - last > 0.04 and 1 - c > 0.01:
            cells.append(i)
            last = c
    return [*cells, len(cdf) - 1]


def test_exact_values():
    """Log densities of scipy, which shares no code with these."""
    double = {"dtype": torch.float64}
    loc, scale = torch.tensor([0.3, -2.0], **double), torch.tensor([0.7, 3.0], **double)
    x, k = torch.tensor([1.1, 4.0], **double), torch.tensor([3.0, 0.0], **double)
    pairs = [
        (densities.Laplace(loc, scale), scipy.stats.laplace(loc, scale), x),
        (densities.StudentT(4.5, loc, scale), scipy.stats.t(4.5, loc, scale), x),
        (densities.StudentT(60.0, loc, scale), scipy.stats.t(60.0, loc, scale), x),
        (masses.Binomial(7, logits=loc), scipy.stats.binom(7, torch.sigmoid(loc)), k),
    ]
    for ours, exact, value in pairs:
        log_prob = exact.logpmf if value is k else exact.logpdf
        torch.testing.assert_close(
            ours.log_prob(value), torch.as_tensor(log_prob(value)), rtol=1e-10, atol=1e-10
        )
    mean = torch.tensor([2.5, 40.0], **double)
    for dispersion in (0.05, 0.5, 3.0):
        r = 1 / dispersion
        exact = scipy.stats.nbinom(r, r / (r + mean))
        ours = masses.NegativeBinomial(mean, torch.tensor(dispersion, **double))
        torch.testing.assert_close(
            ours.log_prob(k), torch.as_tensor(exact.logpmf(k)), rtol=1e-10, atol=1e-10
        )
        torch.testing.assert_close(ours.variance, torch.as_tensor(exact.var()))


def test_rising_factorials_lose_no_digits():
    """Against the product r (r + 1) ... (r + x - 1), and Poisson and normal limits in float32."""
    for r in (0.3, 9.9, 10.1, 37.0, 1e4):
        for x in (0, 1, 7, 50):
            exact = math.fsum(math.log1p(i / r) for i in range(x))
            value = log_rising(*torch.tensor([r, x], dtype=torch.float64))
            assert value.item() == pytest.approx(exact, rel=1e-11, abs=1e-11)
    assert log_rising(torch.tensor(1e4), torch.tensor(7.0)).item() == pytest.approx(
        math.fsum(math.log1p(i / 1e4) for i in range(7)), abs=1e-6
    )
    k, rate = torch.arange(30.0), torch.tensor(11.0)
    counts = masses.NegativeBinomial(rate, torch.tensor(1e-7)).log_prob(k)
    torch.testing.assert_close(counts, dist.Poisson(rate).log_prob(k), rtol=1e-5, atol=5e-5)
    x = torch.linspace(-4, 4, 33)
    t = densities.StudentT(1e7, torch.tensor(0.0), 1.0).log_prob(x)
    torch.testing.assert_close(t, dist.Normal(0.0, 1.0).log_prob(x), rtol=1e-5, atol=1e-5)


class TestContinuousBernoulli:
    def test_is_torchs_away_from_the_middle(self):
        p = torch.tensor([0.02, 0.3, 0.4, 0.6, 0.9]).double()
        ours = densities.ContinuousBernoulli(logits=p.logit())
        torchs = dist.ContinuousBernoulli(probs=p)
        x = torch.linspace(0, 1, 11).double()[:, None]
        for method in ("log_prob", "cdf", "icdf"):
            torch.testing.assert_close(getattr(ours, method)(x), getattr(torchs, method)(x))
        for quantity in ("mean", "variance"):
            torch.testing.assert_close(getattr(ours, quantity), getattr(torchs, quantity))
        torch.testing.assert_close(ours.entropy(), torchs.entropy())

    @pytest.mark.parametrize("logit", [-0.50001, -0.5, -0.1, -1e-4, 0.0, 1e-4, 0.4999, 0.5001, 30])
    def test_moments_are_derivatives_of_the_normalizer(self, logit):
        """And both branches meet: first and second derivatives at and around one half."""
        l = torch.tensor(float(logit), dtype=torch.float64, requires_grad=True)  # noqa: E741
        p = densities.ContinuousBernoulli(logits=l)
        (first,) = torch.autograd.grad(p.log_prob(torch.tensor(0.0).double()), l, create_graph=True)
        (second,) = torch.autograd.grad(first, l)
        torch.testing.assert_close(-first, p.mean, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(-second, p.variance, rtol=1e-9, atol=1e-12)
        if abs(logit) > 0.1:
            variance = logit**-2 - math.exp(-logit) / math.expm1(-logit) ** 2
            assert p.variance.item() == pytest.approx(variance, abs=1e-13)
        if logit:
            exact = math.log(math.expm1(logit) / logit)
            assert -p.log_prob(torch.tensor(0.0).double()).item() == pytest.approx(exact, rel=3e-12)

    def test_torchs_own_is_not_exact(self):
        """The reason for the class: it clamps the probability."""
        zero, logit = torch.tensor(0.0), torch.tensor(40.0)
        exact = -(40 - math.log(40))
        ours = densities.ContinuousBernoulli(logits=logit).log_prob(zero).item()
        assert ours == pytest.approx(exact, rel=1e-6)
        assert abs(dist.ContinuousBernoulli(logits=logit).log_prob(zero).item() - exact) > 0.5


class TestDiscretizedLogistic:
    def test_is_the_difference_of_distribution_functions(self):
        loc, scale = torch.tensor(0.37).double(), torch.tensor(0.08).double()
        x = torch.arange(17).double() / 16
        logistic = scipy.stats.logistic(0.37, 0.08)
        edges = torch.as_tensor(logistic.cdf(x[:-1] + 1 / 32))
        exact = torch.cat([torch.zeros(1), edges, torch.ones(1)]).diff().log()
        ours = masses.DiscretizedLogistic(loc, scale, 17).log_prob(x)
        torch.testing.assert_close(ours, exact)

    @pytest.mark.parametrize("scale", [1e-6, 5e-4, 1e-2, 1.0, 1e6])
    def test_masses_sum_to_one_in_float32(self, scale):
        x = torch.arange(256) / 255
        loc = torch.tensor([-3.0, 0.0, 0.5, 0.5 + 0.5 / 255, 1.0, 40.0])[:, None]
        p = masses.DiscretizedLogistic(loc, torch.tensor(scale), 256)
        mass = p.log_prob(x).double().exp().sum(-1)
        torch.testing.assert_close(mass, torch.ones_like(mass), rtol=0, atol=1e-4)

    def test_data_off_the_grid(self):
        likelihood = build_likelihood("discretized-logistic", _Output(torch.zeros(4)), (4,))
        bytes_ = torch.tensor([[0.0, 3.0, 255.0, 17.0]])
        with pytest.raises(ValueError, match=r"such as 3\. Divide data of levels .* 255 by 255"):
            likelihood.initialize(bytes_)
        likelihood.initialize(bytes_ / 255)
        digits = torch.tensor([[0.0, 1.0, 7 / 16, 3 / 16]])
        with pytest.raises(ValueError, match=r"such as 0\.4375\. Set levels to the number"):
            likelihood.initialize(digits)
        build_likelihood("logistic-mixture", _Output(torch.zeros(15, 4)), (4,)).initialize(
            bytes_ / 255
        )
        grid = masses.Grid(17)
        assert grid.check(digits).all()
        assert not grid.check(torch.tensor([-1 / 16, 17 / 16, math.nan, math.inf])).any()
        assert not grid.check((torch.arange(16) + 0.03) / 16).any()
        for levels in (2, 17, 256, 65536):
            values = torch.arange(levels, dtype=torch.float32) / (levels - 1)
            assert masses.Grid(levels).check(values).all()


def test_mixture_of_one_component_is_that_component():
    torch.manual_seed(0)
    output = torch.randn(3, *_EVENT).double()
    mixture = build_likelihood("logistic-mixture", _Output(output), _EVENT, components=1, levels=9)
    single = build_likelihood(
        "discretized-logistic", _Output(output[1:]), _EVENT, levels=9, scale="network"
    )
    z = torch.zeros(4).double()
    x = single(z).sample((10,))
    torch.testing.assert_close(mixture(z).log_prob(x), single(z).log_prob(x))


def test_categorical_takes_integers():
    likelihood, z = _free("categorical", {"levels": 5})
    x = likelihood(z).sample((7,))
    assert torch.equal(likelihood(z).log_prob(x.long()), likelihood(z).log_prob(x))


@pytest.mark.parametrize("name", ["categorical", "binomial"])
def test_divergence_is_finite_where_probabilities_round_to_zero_or_one(name):
    """A NaN here would cost the datum its whole Gauss-Newton precision."""
    likelihood = build_likelihood(name, nn.Identity(), (), **_SMALL[name])
    output = torch.full(likelihood.output_shape, 200.0)
    output.view(-1)[1:] = -200.0
    output.requires_grad_()
    kl = kl_divergence(likelihood(output.detach()), likelihood(output))
    (slope,) = torch.autograd.grad(kl, output, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), output)
    assert kl.isfinite()
    assert slope.isfinite().all()
    assert curvature.isfinite().all()


class TestScale:
    def test_starts_at_the_data_and_has_a_floor(self):
        likelihood = _likelihood("normal", {})
        x = 3 * torch.randn(5000, *_EVENT).double()
        likelihood.initialize(x)
        assert likelihood.scale.item() == pytest.approx(3, rel=0.05)
        with torch.no_grad():
            likelihood.raw_scale.fill_(-1000.0)
        assert likelihood.scale.item() == likelihood.floor == 0.01
        likelihood.initialize(1000 * x)  # no overflow
        assert likelihood.scale.item() == pytest.approx(3000, rel=0.05)

    @pytest.mark.parametrize("scale", [500.0, 0.3, "0.3"])
    def test_fixed(self, scale):
        fixed = LIKELIHOODS["normal"](nn.Identity(), (4,), scale=scale)
        assert fixed.scale.item() == pytest.approx(float(scale))
        assert not list(fixed.parameters())
        assert fixed.floor == 0
        assert f"scale {float(scale):.4g}" in fixed.description

    @pytest.mark.parametrize("name", ["normal", "laplace", "student-t"])
    @pytest.mark.parametrize("scale", ["shared", "value", "network"])
    def test_standard_deviations_start_at_those_of_the_data(self, name, scale):
        """5,000 draws: 5 standard errors of a standard deviation are 0.05 of it."""
        torch.manual_seed(0)
        likelihood = build_likelihood(
            name, lambda shape: _Output(torch.zeros(shape)), _EVENT, scale=scale
        )
        sizes = torch.linspace(1, 4, 6).reshape(_EVENT)
        x = sizes * torch.randn(5000, *_EVENT)
        x[:, 0, 0] = 2.0  # a value that does not vary starts at a tenth of all
        likelihood.initialize(x)
        deviation = likelihood(torch.zeros(4)).variance.sqrt()
        overall = sizes.flatten()[1:].square().sum().div(6).sqrt()
        sizes[0, 0] = overall / 10
        expected = overall.expand(_EVENT) if scale == "shared" else sizes
        torch.testing.assert_close(deviation, expected, rtol=0.05, atol=0)

    def test_of_the_network_depends_on_z(self):
        likelihood = _likelihood("normal", {"scale": "network"})
        scale = likelihood(torch.randn(2, 4).double()).base_dist.scale
        assert (scale[0] != scale[1]).all()
        with pytest.raises(ValueError, match=r"scale depends on z.*base_dist\.scale"):
            _ = likelihood.scale
        value = _likelihood("normal", {"scale": "value"})
        assert value.scale.shape == _EVENT

    @pytest.mark.parametrize(
        ("name", "options", "message"),
        [
            ("normal", {"scale": 0.0}, "scale must be finite and above 0; got 0.0"),
            ("normal", {"scale": "-1"}, "scale must be finite and above 0"),
            ("normal", {"scale": "netwrok"}, r"unknown scale 'netwrok'.*mean 'network'"),
            ("normal", {"scale": None}, "unknown scale None; give a number above 0, or one of"),
            ("normal", {"scale": True}, "scale must be finite and above 0"),
            ("normal", {"floor": 0.0}, "floor must be a positive number"),
            ("logistic-mixture", {"floor": -1.0}, "floor must be a positive number"),
            ("normal", {"floors": 0.1}, r"it takes scale, floor\. Did you mean 'floor'"),
            ("bernoulli", {"scale": 0.1}, "'bernoulli' does not take scale; it takes no options"),
            ("negative-binomial", {"dispersion": "z"}, "unknown dispersion 'z'"),
            ("student-t", {"degrees_of_freedom": 2}, "must be finite and above 2.01"),
            ("student-t", {"degrees_of_freedom": "learnt"}, "Did you mean 'learned'"),
            ("categorical", {"levels": 1}, "levels must be a whole number of at least 2; got 1"),
            ("discretized-logistic", {"levels": 8.0}, "levels must be a whole number"),
            ("logistic-mixture", {"components": 0}, "components must be a whole number of at"),
            ("binomial", {"count": True}, "count must be a whole number"),
            ("norml", {}, r"unknown likelihood 'norml'.*Did you mean 'normal'"),
        ],
    )
    def test_wrong_options(self, name, options, message):
        with pytest.raises(ValueError, match=message):
            build_likelihood(name, nn.Identity(), (4,), **options)

    def test_fixed_degrees_of_freedom(self):
        fixed = build_likelihood("student-t", nn.Identity(), (4,), degrees_of_freedom="3.5")
        assert fixed.degrees_of_freedom.item() == pytest.approx(3.5)
        assert [name for name, _ in fixed.named_parameters()] == ["raw_scale"]
        learned = build_likelihood("student-t", nn.Identity(), (4,))
        assert learned.degrees_of_freedom.item() == pytest.approx(5)
        with torch.no_grad():
            learned.raw_degrees.fill_(-1e4)
        assert learned.degrees_of_freedom > 2


@pytest.mark.parametrize("shape", [(1,), (7,), (8,), (29,), (28, 28), (2, 3, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bits_in_groups_are_the_plain_sum(shape, dtype):
    """Without gradients a product stands in for eight logarithms; extreme logits included."""
    generator = torch.Generator().manual_seed(0)
    logits = 30 * torch.randn(4, 1, *shape, generator=generator).to(dtype)
    logits[0] *= 5
    x = torch.rand(4, 3, *shape, generator=generator).round().to(dtype)
    plain = dist.Bernoulli(logits=logits.double()).to_event(len(shape)).log_prob(x.double())
    grouped = densities.Bernoulli(logits=logits).to_event(len(shape))
    with torch.no_grad():
        close = 1e-6 if dtype == torch.float32 else 1e-14
        torch.testing.assert_close(grouped.log_prob(x).double(), plain, rtol=close, atol=close)
        with pytest.raises(ValueError, match="support"):
            grouped.log_prob(x + 0.5)
    assert grouped.expand((2, 4, 3)).log_prob(x).shape == (2, 4, 3)


def test_bits_keep_their_gradient():
    logits = torch.randn(5, 9, dtype=torch.float64, requires_grad=True)
    x = torch.rand(5, 9).round().double()
    (gradient,) = torch.autograd.grad(
        densities.Bernoulli(logits=logits).to_event(1).log_prob(x).sum(), logits
    )
    torch.testing.assert_close(gradient, x - logits.sigmoid())


class TestLargeCounts:
    """Numbers of float32 give what the same numbers give in float64, up to one rounding."""

    @staticmethod
    def _both(make, size, given):
        mean = torch.tensor([0.9, 1.0, 1.1]) * size
        x = (mean + torch.tensor([-1.0, 0.3, 2.0]) * size**0.5).round().clamp_min(0)
        results = []
        for dtype in (torch.float32, torch.float64):
            parameter = given(mean).to(dtype).requires_grad_()
            density = make(parameter).log_prob(x.to(dtype))
            assert density.dtype == dtype
            results.append((density, *torch.autograd.grad(density.sum(), parameter)))
        return results

    @pytest.mark.parametrize("size", [1.0, 1e3, 1e5, 1e7])
    @pytest.mark.parametrize(
        "make",
        [
            masses.Poisson,
            lambda m: masses.NegativeBinomial(m, torch.tensor(0.2, dtype=m.dtype)),
            lambda m: masses.NegativeBinomial(m, torch.tensor(1e-6, dtype=m.dtype)),
            lambda logits: masses.Binomial(2e7, logits=logits),
        ],
        ids=["poisson", "dispersed", "nearly-poisson", "binomial"],
    )
    def test_density_and_gradient(self, make, size, request):
        binomial = "binomial" in request.node.callspec.id
        given = (lambda m: (m / 2e7).logit()) if binomial else lambda m: m
        (density, slope), (exact, exact_slope) = self._both(make, size, given)
        torch.testing.assert_close(density.double(), exact, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(slope.double(), exact_slope, rtol=1e-3, atol=1e-6)

    def test_poisson_is_scipys(self):
        x, m = torch.tensor([0.0, 3.0, 99_900.0, 1e7]), torch.tensor([0.5, 2.0, 1e5, 1e7])
        exact = scipy.stats.poisson(m.double()).logpmf(x.double())
        ours = masses.Poisson(m).log_prob(x)
        torch.testing.assert_close(ours.double(), torch.as_tensor(exact), rtol=1e-6, atol=1e-6)


class TestPixelMixture:
    """Colour pictures whose channels depend on each other."""

    def _free(self, event, **options):
        torch.manual_seed(2)
        sizes = {"levels": 5, "components": 2, **options}
        return build_likelihood(
            "pixel-mixture", lambda shape: _Output(torch.randn(shape).double()), event, **sizes
        )

    def test_sums_to_one_over_all_colours(self):
        """The mass of every picture of one pixel of 3 channels, by the formula, one by one."""
        likelihood = self._free((3, 1, 1))
        rows = likelihood.network.value.detach().reshape(-1, 2)  # of 2 components each
        logits, loc, raw, links = rows.split((1, 3, 3, 3))
        scale = likelihood.floor + torch.nn.functional.softplus(raw)
        levels = torch.arange(5).double() / 4
        x = torch.cartesian_prod(levels, levels, levels)
        p = likelihood(torch.zeros(1, 4).double())
        log_p = p.expand((125,)).log_prob(x.reshape(125, 3, 1, 1))
        assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-12)
        total = torch.zeros(125).double()
        for j, weight in enumerate(logits[0].softmax(0)):
            red, green, _ = x.unbind(1)
            centres = (
                loc[0, j] + 0 * red,
                loc[1, j] + links[0, j] * (red - 0.5),
                loc[2, j] + links[1, j] * (red - 0.5) + links[2, j] * (green - 0.5),
            )
            product = weight
            for c, centre in enumerate(centres):
                logistic = masses.DiscretizedLogistic(centre, scale[c, j], 5)
                product = product * logistic.log_prob(x[:, c]).exp()
            total = total + product
        torch.testing.assert_close(log_p, total.log())

    def test_256_levels_of_a_channel(self):
        """The last channel's levels add up to the mass of the first two, which sum to one."""
        likelihood = self._free((3, 1, 1), levels=256)
        rows = likelihood.network.value.detach()
        two = build_likelihood(
            "pixel-mixture",
            _Output(torch.cat([rows[[0, 1, 2, 3, 4, 5]], rows[8:12], rows[14:16]])),
            (2, 1, 1),
            components=2,
        )
        grid = torch.arange(256).double() / 255
        x = torch.stack([grid[40].expand(256), grid[90].expand(256), grid], 1)
        summed = likelihood(torch.zeros(256, 4).double()).log_prob(x[..., None, None])
        known = two(torch.zeros(4).double()).log_prob(x[0, :2, None, None])
        torch.testing.assert_close(summed.logsumexp(0), known)
        pairs = torch.cartesian_prod(grid, grid)[..., None, None]
        total = two(torch.zeros(4).double()).expand((65536,)).log_prob(pairs).logsumexp(0)
        assert total.item() == pytest.approx(0, abs=1e-10)

    def test_draws_have_its_masses(self):
        """Frequencies of 40,000 colours of 3 levels: chi-square of 26 degrees of freedom."""
        p = self._free((3, 1, 1), levels=3)(torch.zeros(4).double())
        torch.manual_seed(0)
        codes = (p.sample((40_000,)).reshape(-1, 3) * 2).round() @ torch.tensor(
            [9.0, 3, 1]
        ).double()
        levels = torch.arange(3).double() / 2
        x = torch.cartesian_prod(levels, levels, levels).reshape(27, 3, 1, 1)
        expected = 40_000 * p.log_prob(x).exp()
        seen = torch.bincount(codes.long(), minlength=27)
        assert ((seen - expected) ** 2 / expected).sum() < 65  # its mean is 26, 65 its 1 - 4e-5

    def test_gray_is_the_mixture_of_values(self):
        pixel = self._free((2, 3))
        rows = pixel.network.value.detach()
        values = build_likelihood("logistic-mixture", _Output(rows), (2, 3), components=2, levels=5)
        x = torch.tensor([[0.0, 0.25, 1.0], [0.5, 0.5, 0.75]]).double()
        z = torch.zeros(4).double()
        torch.testing.assert_close(pixel(z).log_prob(x), values(z).log_prob(x))
        one = self._free((1, 2, 3))
        torch.testing.assert_close(one(z).log_prob(x[None]), values(z).log_prob(x))

    def test_starts_at_the_mean_and_trains(self):
        torch.manual_seed(0)
        base = torch.rand(60, 1, 8, 8)
        x = (base + 0.1 * torch.rand(60, 3, 8, 8)).div(1.1).mul(255).round() / 255
        likelihood = self._free((3, 8, 8), levels=256).float()
        likelihood.initialize(x)
        mean = likelihood(torch.zeros(1, 4)).mean[0]
        torch.testing.assert_close(mean, x.mean(0), atol=0.02, rtol=0)
        config = pv.Config(
            latent_dim=2, network="conv", hidden=(4,), likelihood="pixel-mixture", seed=0
        )
        vae = pv.VAE.from_config(config, event_shape=(3, 8, 8), data=x)
        history = pv.fit(vae, x, epochs=8, batch_size=20, learning_rate=0.01, progress=False)
        assert history.epochs[-1].train_elbo > history.epochs[0].train_elbo + 20
        evidence = pv.log_evidence(vae.model, vae.guide, x[:5], samples=20, search=False)
        assert 4 < evidence.bits_per_dim().value < 8  # below 8 bits of uniform levels

    def test_what_it_refuses(self):
        with pytest.raises(ValueError, match=r"for pictures of shape .*; got \(4,\)"):
            self._free((4,))
        likelihood = self._free((3, 2, 2))
        with pytest.raises(ValueError, match="3 channels of a pixel depend"):
            likelihood.values(likelihood.network.value)
        with pytest.raises(ValueError, match=r"outside the support.*Divide data of levels"):
            likelihood.initialize(torch.full((5, 3, 2, 2), 2.0))


_LARGE = (0, 1, 7, 11, 1e2, 1e5, 1e7 - 1, 1e7, 1e8)


def _grid():
    """Counts, and means at them and far from them, as float32 holds them."""
    for x in _LARGE:
        near = (x + k * (x + 1) ** 0.5 for k in (-3, 0, 1))
        for mean in (*near, 1e-6, 1.0, 1e8):
            if mean > 0:
                yield x, torch.tensor(mean, dtype=torch.float32)


def _float32(make, x, *parameters):
    """Log mass of float32 parameters, and its gradient."""
    free = [parameter.clone().requires_grad_() for parameter in parameters]
    value = make(*free).log_prob(torch.tensor(x, dtype=torch.float32))
    return value.item(), [gradient.item() for gradient in torch.autograd.grad(value, free)]


def _is_near(value, exact):
    """Within float32's rounding of the result, some 1e-6 nat near the mode; 1e-3 is asked for."""
    return abs(value - exact) < 1e-5 + 1.2e-7 * abs(exact)


@pytest.mark.parametrize("dispersion", [None, 1e-4, 0.11, 100.0])
def test_large_counts_are_exact(dispersion):
    """Log masses and gradients of mpmath with 40 digits, at counts from 0 to 1e8."""
    digits = mpmath.workdps(40)
    with digits:
        for x, mean in _grid():
            m, k = mpmath.mpf(mean.item()), mpmath.mpf(x)
            if dispersion is None:
                value, gradients = _float32(masses.Poisson, x, mean)
                exact = k * mpmath.log(m) - m - mpmath.loggamma(k + 1)
                slopes = [(k - m) / m]
            else:
                a = torch.tensor(dispersion)
                value, gradients = _float32(masses.NegativeBinomial, x, mean, a)
                r = 1 / mpmath.mpf(a.item())
                exact = mpmath.loggamma(k + r) - mpmath.loggamma(r) - mpmath.loggamma(k + 1)
                exact -= r * mpmath.log1p(m / r) + k * mpmath.log1p(r / m)
                slope = mpmath.digamma(k + r) - mpmath.digamma(r) - mpmath.log1p(m / r)
                slope += (m - k) / (r + m)
                slopes = [(k - m) / (m * (1 + m / r)), -slope * r**2]
            assert _is_near(value, exact), (x, mean, value, exact)
            for gradient, wanted in zip(gradients, slopes, strict=True):
                assert gradient == pytest.approx(float(wanted), rel=2e-5, abs=1e-6), (x, mean)


@pytest.mark.parametrize("count", [10, 1000, 10**7, 10**8])
def test_large_numbers_of_trials_are_exact(count):
    with mpmath.workdps(40):
        for x in {0.0, count // 5 * 1.0, count / 2, 1.0 * count}:
            near = math.log((x + 0.5) / (count - x + 0.5))
            for logit in map(torch.tensor, (-20.0, near, near + 1e-3, 0.0, 15.0)):
                total = torch.tensor(float(count))
                make = partial(masses.Binomial, total, None)
                value, (slope,) = _float32(make, x, logit)
                y = mpmath.mpf(logit.item())
                exact = mpmath.loggamma(count + 1) - mpmath.loggamma(x + 1)
                exact += (
                    x * y - mpmath.loggamma(count - x + 1) - count * mpmath.log1p(mpmath.exp(y))
                )
                assert _is_near(value, exact), (x, logit, value, exact)
                wanted = x - count / (1 + mpmath.exp(-y))
                assert slope == pytest.approx(float(wanted), rel=1e-6, abs=1e-3)


def test_large_zero_inflated_counts_are_exact():
    gate, x = torch.tensor(-1.5), torch.tensor([0.0, 1e7, 1e7 + 3000])
    mean = torch.tensor([12.0, 1e7, 1e7])
    given = masses.ZeroInflated(masses.Poisson(mean), gate)
    wide = dist.ZeroInflatedPoisson(mean.double(), gate_logits=gate.double())
    torch.testing.assert_close(
        given.log_prob(x).double(), wide.log_prob(x.double()), rtol=1e-6, atol=1e-6
    )
