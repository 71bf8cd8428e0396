import itertools
import math
from contextlib import ExitStack
from typing import get_args

import pyro
import pyro.distributions as dist
import pytest
import torch
from functorch.compile import aot_function, nop
from pyro import poutine
from pyro.infer import RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import nn
from torch.distributions import kl_divergence

import pyro_vae as pv
from pyro_vae.common.options import ObjectiveName
from pyro_vae.objectives import ELBO, IWAE, OBJECTIVES, Renyi, build_objective, kl_weight


def _vae(prior="normal"):
    config = pv.Config(prior=prior, latent_dim=3, hidden=(16,))
    return pv.VAE.from_config(config, event_shape=(8, 8)).double()


def _gradients(vae, loss):
    vae.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in vae.parameters()]


@pytest.mark.parametrize("prior", ["normal", "mixture"])
@pytest.mark.parametrize("particles", [1, 4])
def test_sampled_is_pyros_trace_elbo(digits, prior, particles):
    vae, x = _vae(prior), digits.train.x[:20].double()
    pyros = Trace_ELBO(num_particles=particles, vectorize_particles=True, max_plate_nesting=2)
    if particles == 1:
        pyros.max_plate_nesting = 1
    torch.manual_seed(0)
    expected_loss = pyros.differentiable_loss(vae.model, vae.guide, x)
    expected = _gradients(vae, expected_loss)
    ours = pv.ELBO(particles=particles)
    torch.manual_seed(0)
    loss, elbo = ours.terms(vae.model, vae.guide, x)
    torch.testing.assert_close(loss, expected_loss.detach(), check_dtype=False, rtol=1e-12, atol=0)
    assert elbo.item() == pytest.approx(-loss.item(), rel=1e-12)
    for gradient, reference in zip(_gradients(vae, loss), expected, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-10, atol=1e-12)


def test_analytic_is_pyros_mean_field_elbo(digits):
    vae, x = _vae(), digits.train.x[:20].double()
    torch.manual_seed(0)
    expected_loss = TraceMeanField_ELBO().differentiable_loss(vae.model, vae.guide, x)
    expected = _gradients(vae, expected_loss)
    torch.manual_seed(0)
    loss, _ = pv.ELBO(kl="analytic").terms(vae.model, vae.guide, x)
    torch.testing.assert_close(loss, expected_loss.detach(), rtol=1e-12, atol=0)
    for gradient, reference in zip(_gradients(vae, loss), expected, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-10, atol=1e-12)


def test_analytic_falls_back_to_the_sampled_term(digits):
    """A mixture has no closed form: both objectives are then the same number."""
    vae, x = _vae("mixture"), digits.train.x[:20].double()
    losses = []
    for kl in ("sampled", "analytic"):
        torch.manual_seed(0)
        losses.append(pv.ELBO(kl=kl).terms(vae.model, vae.guide, x)[0])
    assert losses[0] == losses[1]


def test_analytic_keeps_to_the_order_of_the_guide():
    """A latent whose prior depends on a later latent of the guide keeps the sampled term."""

    def model(x):
        with pyro.plate("data", len(x)):
            top = pyro.sample("top", dist.Normal(0.0, 1.0))
            low = pyro.sample("low", dist.Normal(top, 1.0))
            pyro.sample("x", dist.Normal(low, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            low = pyro.sample("low", dist.Normal(x, 0.5))
            pyro.sample("top", dist.Normal(low, 0.5))

    x, losses = torch.randn(5), []
    for kl in ("sampled", "analytic"):
        torch.manual_seed(0)
        losses.append(pv.ELBO(kl=kl).terms(model, guide, x)[0].item())
    assert losses[0] == losses[1]


@pytest.mark.parametrize("kl", ["sampled", "analytic"])
def test_kl_weight_runs_from_exactly_zero(digits, kl):
    vae, x = _vae(), digits.train.x[:20].double()
    values = []
    for weight in (0.0, 0.5, 1.0):
        torch.manual_seed(0)
        values.append(pv.ELBO(kl=kl).terms(vae.model, vae.guide, x, kl_weight=weight))
    losses = [loss.item() for loss, _ in values]
    assert losses[1] == pytest.approx((losses[0] + losses[2]) / 2, rel=1e-12)
    assert len({elbo.item() for _, elbo in values}) == 1  # the ELBO itself has no weight
    torch.manual_seed(0)
    z = vae.posterior(x).rsample()
    reconstruction = vae.likelihood(z).log_prob(x).sum().item()
    assert losses[0] == pytest.approx(-reconstruction, rel=1e-10)


def test_works_with_svi(digits):
    """pyro.infer.SVI trains the object as it is, and leaves Pyro's store empty."""
    vae, x = _vae(), digits.train.x[:100].double()
    for objective in (Trace_ELBO(), pv.ELBO(), pv.ELBO(kl="analytic")):
        optimizer = pyro.optim.Adam({"lr": 1e-2})
        svi = pyro.infer.SVI(vae.model, vae.guide, optimizer, objective)
        before = [p.detach().clone() for p in vae.parameters()]
        first = svi.step(x)
        changed = [not torch.equal(a, b) for a, b in zip(before, vae.parameters(), strict=True)]
        assert all(changed)
        for _ in range(20):
            last = svi.step(x)
        assert last < first
        assert math.isfinite(svi.evaluate_loss(x))
    assert len(pyro.get_param_store()) == 0


def test_two_models_do_not_share_parameters(digits):
    one, two = _vae(), _vae()
    svi = pyro.infer.SVI(one.model, one.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    before = [p.detach().clone() for p in two.parameters()]
    svi.step(digits.train.x[:10].double())
    assert all(torch.equal(a, b) for a, b in zip(before, two.parameters(), strict=True))
    svi = pyro.infer.SVI(two.model, two.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    svi.step(digits.train.x[:10].double())
    assert not any(torch.equal(a, b) for a, b in zip(before, two.parameters(), strict=True))


def test_errors():
    with pytest.raises(ValueError, match="particles"):
        pv.ELBO(particles=0)
    with pytest.raises(ValueError, match="'sampled' or 'analytic'"):
        pv.ELBO(kl="exact")

    def model(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(k, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Bernoulli(0.4))

    with pytest.raises(NotImplementedError, match="'k' of the guide is not reparameterized"):
        pv.ELBO().terms(model, guide, torch.zeros(3))


class Chain(nn.Module):
    """Three latents, a guide in which each depends on all before it, and learned networks."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(7)
        self.a, self.b, self.c = nn.Linear(3, 2), nn.Linear(1, 2), nn.Linear(2, 2)
        self.decoder, self.middle = nn.Linear(1, 3), nn.Linear(1, 1)
        self.double()

    def model(self, x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Normal(torch.zeros(1).double(), 1.0).to_event(1))
            b = pyro.sample("b", dist.Normal(c.sin(), 1.0).to_event(1))
            a = pyro.sample("a", dist.Normal(self.middle(b) + c, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(a), 0.7).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", self.q_a(x))
            b = pyro.sample("b", self.q_b(a))
            pyro.sample("c", self.q_c(a, b))

    def q_a(self, x):
        return _normal(self.a(x))

    def q_b(self, a):
        return _normal(self.b(a))

    def q_c(self, a, b):
        return _normal(self.c(torch.cat([a.sin(), b], -1)))

    def log_weight(self, x, z, beta=1.0):
        a, b, c = z
        likelihood = dist.Normal(self.decoder(a), 0.7).log_prob(x).sum(-1)
        prior = dist.Normal(self.middle(b) + c, 1.0).log_prob(a).sum(-1)
        prior = prior + dist.Normal(c.sin(), 1.0).log_prob(b).sum(-1)
        prior = prior + dist.Normal(0.0, 1.0).log_prob(c).sum(-1)
        log_q = self.q_a(x).log_prob(a) + self.q_b(a).log_prob(b) + self.q_c(a, b).log_prob(c)
        return likelihood + beta * (prior - log_q)

    def redraw(self, x, z):
        """The same draws, as functions of the guide's parameters."""
        values = []
        for fn, drawn in zip((self.q_a, self.q_b, self.q_c), z, strict=True):
            q = fn(x) if not values else fn(*values) if fn == self.q_c else fn(values[0])
            noise = (drawn - q.mean) / q.stddev
            values.append(q.mean + q.stddev * noise.detach())
        return values

    def guide_parameters(self):
        return [p for m in (self.a, self.b, self.c) for p in m.parameters()]

    def model_parameters(self):
        return [*self.decoder.parameters(), *self.middle.parameters()]


def _normal(parameters):
    loc, log_scale = parameters.tanh().chunk(2, -1)
    return dist.Normal(loc, log_scale.exp()).to_event(1)


class Encoder(nn.Module):
    """The linear Gaussian with a learned guide, which starts at the exact posterior."""

    def __init__(self, truth, away=0.0):
        super().__init__()
        self.weight = nn.Parameter(truth.weight @ truth.covariance / truth.scale**2 + away)
        self.tril = nn.Parameter(torch.linalg.cholesky(truth.covariance))
        self.truth, self.model = truth, truth.model

    def guide(self, x):
        with pyro.plate("data", len(x)):
            loc = (x - self.truth.bias) @ self.weight
            pyro.sample("z", dist.MultivariateNormal(loc, scale_tril=self.tril))


def _terms(objective, program, *args, seed=0, **options):
    torch.manual_seed(seed)
    return objective.terms(program.model, program.guide, *args, **options)


def _draws(objective, program, x, seed=0):
    """The latents that :func:`_terms` draws, each ``(K, N, 1)``."""
    objective.prepare(program.model, program.guide, x)
    torch.manual_seed(seed)
    guide = objective._vectorized_num_particles(program.guide)
    trace = poutine.trace(guide).get_trace(x)
    values = [trace.nodes[name]["value"].detach() for name in "abc"]
    return [value if value.dim() == 3 else value.unsqueeze(0) for value in values]


def _flat_gradient(loss, parameters):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])


def _gradients_of(objective, program, parameters, x, repeats):
    """Independent gradients of the loss, one row each."""
    return torch.stack(
        [
            _flat_gradient(_terms(objective, program, x, seed=seed)[0], parameters)
            for seed in range(repeats)
        ]
    )


_X = torch.linspace(-1, 2, 12).double().reshape(4, 3)
_ALL = [
    ELBO(),
    ELBO(particles=3, kl="analytic"),
    ELBO(gradient="stl"),
    ELBO(particles=3, free_bits=0.3),
    IWAE(particles=3),
    IWAE(particles=3, gradient="stl"),
    IWAE(particles=3, gradient="dreg"),
    Renyi(particles=3, alpha=0.4),
    Renyi(particles=3, alpha=0.4, gradient="dreg"),
]


@pytest.mark.parametrize("gradient", ["reparameterized", "stl", "dreg"])
@pytest.mark.parametrize("alpha", [-1.0, 0.0, 0.4, 2.0])
@pytest.mark.parametrize("beta", [0.0, 0.6, 1.0])
def test_bound_is_the_formula_per_datum(gradient, alpha, beta):
    chain = Chain()
    objective = IWAE(particles=5, gradient=gradient)
    if alpha:
        objective = Renyi(particles=5, alpha=alpha, gradient=gradient)
    draws = _draws(objective, chain, _X)
    loss, elbo = _terms(objective, chain, _X, kl_weight=beta)
    weights = chain.log_weight(_X, draws, beta).exp()
    expected = -((weights ** (1 - alpha)).mean(0).log() / (1 - alpha)).sum()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    expected = chain.log_weight(_X, draws).mean(0).sum()
    torch.testing.assert_close(elbo, expected.detach(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("beta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize(
    ("objective", "factor"),
    [
        (ELBO(particles=4), None),
        (ELBO(particles=4, gradient="stl"), lambda w, beta: 1.0),
        (IWAE(particles=4), None),
        (IWAE(particles=4, gradient="stl"), lambda w, beta: 1.0),
        (IWAE(particles=4, gradient="dreg"), lambda w, beta: 1 - beta + beta * w),
        (
            Renyi(particles=4, alpha=0.4, gradient="dreg"),
            lambda w, beta: 1 - 0.6 * beta + 0.6 * beta * w,
        ),
    ],
    ids=lambda value: repr(value) if hasattr(value, "terms") else "",
)
def test_gradient_is_the_formula(objective, factor, beta):
    """Sums over k of normalized weight, factor, d log w_k / d z_k, d z_k / d phi; by hand."""
    chain = Chain()
    order = 1 - getattr(objective, "alpha", 1.0)
    draws = _draws(objective, chain, _X)
    live = chain.redraw(_X, draws)
    leaves = [value.detach().requires_grad_() for value in live]
    log_weight = chain.log_weight(_X, leaves, beta)
    weight = (order * log_weight.detach()).softmax(0)
    if factor is None:
        total = chain.log_weight(_X, live, beta)
        expected = _flat_gradient(-(weight * total).sum(), chain.guide_parameters())
    else:
        slopes = torch.autograd.grad(log_weight.sum(), leaves, retain_graph=True)
        w = (weight * factor(weight, beta)).unsqueeze(-1)
        total = sum((w * g * value).sum() for g, value in zip(slopes, live, strict=True))
        expected = _flat_gradient(-total, chain.guide_parameters())
    loss, _ = _terms(objective, chain, _X, kl_weight=beta)
    actual = torch.autograd.grad(loss, [*chain.guide_parameters(), *chain.model_parameters()])
    actual = torch.cat([g.flatten() for g in actual])
    torch.testing.assert_close(actual[: len(expected)], expected, rtol=1e-10, atol=1e-12)
    total = -(weight * log_weight).sum()  # the model's gradient is the usual one
    if beta == 0:  # parameters of the prior have none
        total = total + 0 * sum(p.sum() for p in chain.middle.parameters())
    expected = _flat_gradient(total, chain.model_parameters())
    torch.testing.assert_close(actual[-len(expected) :], expected, rtol=1e-10, atol=1e-12)


def test_gradients_have_one_expectation():
    """Difference of means within 5 standard errors; 40 blocks of 500 draws; STL of IWAE is off."""
    chain, x = Chain(), _X[3:].expand(500, 3)

    def mean(objective):
        blocks = _gradients_of(objective, chain, chain.guide_parameters(), x, 40) / 500
        return blocks.mean(0), blocks.var(0) / 40

    def distance(one, two):
        (mean_one, variance_one), (mean_two, variance_two) = mean(one), mean(two)
        return ((mean_one - mean_two) / (variance_one + variance_two).sqrt()).abs().max()

    assert distance(ELBO(), ELBO(gradient="stl")) < 5
    assert distance(IWAE(particles=4), IWAE(particles=4, gradient="dreg")) < 5
    assert distance(IWAE(particles=4), IWAE(particles=4, gradient="stl")) > 10
    renyi = Renyi(particles=4, alpha=-0.5)
    assert distance(renyi, Renyi(particles=4, alpha=-0.5, gradient="dreg")) < 5


def test_gradient_has_no_variance_at_the_posterior(linear_gaussian):
    program, x = Encoder(linear_gaussian), linear_gaussian.x
    parameters = list(program.parameters())
    for objective in (
        ELBO(gradient="stl"),
        ELBO(particles=3, gradient="stl"),
        IWAE(particles=3, gradient="stl"),
        IWAE(particles=3, gradient="dreg"),
        Renyi(particles=3, alpha=0.4, gradient="dreg"),
    ):
        loss, _ = _terms(objective, program, x)
        assert _flat_gradient(loss, parameters).abs().max() < 1e-9
    assert _flat_gradient(_terms(ELBO(), program, x)[0], parameters).abs().max() > 1


def test_variance_near_the_posterior(linear_gaussian):
    """Trace of the covariance over 100 gradients, the guide's weights off by 0.02."""
    program = Encoder(linear_gaussian, away=0.02)
    parameters = list(program.parameters())

    def variance(objective):
        return _gradients_of(objective, program, parameters, linear_gaussian.x, 100).var(0).sum()

    assert variance(ELBO()) > 10 * variance(ELBO(gradient="stl"))
    standard = variance(IWAE(particles=16))
    for gradient in ("stl", "dreg"):
        assert standard > 10 * variance(IWAE(particles=16, gradient=gradient))


@pytest.mark.parametrize(("gradient", "elbos"), [("reparameterized",) * 2, ("dreg", "stl")])
def test_one_particle_is_the_elbo(gradient, elbos):
    chain = Chain()
    elbo = _terms(ELBO(gradient=elbos), chain, _X)
    iwae = _terms(IWAE(particles=1, gradient=gradient), chain, _X)
    torch.testing.assert_close(iwae, elbo, rtol=1e-14, atol=0)
    gradients = [_flat_gradient(loss, list(chain.parameters())) for loss, _ in (elbo, iwae)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("gradient", ["reparameterized", "dreg"])
def test_orders_between_iwae_and_elbo(gradient):
    chain = Chain()
    parameters = list(chain.parameters())

    def at(objective):
        loss, _ = _terms(objective, chain, _X)
        return torch.cat([loss.detach()[None], _flat_gradient(loss, parameters)])

    assert torch.equal(
        at(Renyi(particles=4, alpha=0.0, gradient=gradient)),
        at(IWAE(particles=4, gradient=gradient)),
    )
    limit = at(Renyi(particles=4, alpha=1.0, gradient=gradient))
    elbo = at(ELBO(particles=4, gradient="stl" if gradient == "dreg" else gradient))
    torch.testing.assert_close(limit, elbo, rtol=1e-12, atol=1e-12)
    near = at(Renyi(particles=4, alpha=1 - 1e-6, gradient=gradient))
    torch.testing.assert_close(near, elbo, rtol=1e-5, atol=1e-5)


def test_bound_rises_with_particles_to_log_px(linear_gaussian):
    """By more than 5 standard errors a step, of 20 blocks of 300 draws; never above log p(x)."""
    truth, values = linear_gaussian, []
    x = truth.x[:1].expand(300, -1)
    for particles in (1, 2, 8, 64):
        objective = IWAE(particles=particles)
        with torch.no_grad():
            blocks = torch.stack(
                [-objective.terms(truth.model, truth.wide_guide, x)[0] / len(x) for _ in range(20)]
            )
        values.append((blocks.mean(), blocks.std() / math.sqrt(20)))
    for (low, low_error), (high, high_error) in itertools.pairwise(values):
        assert high - low > 5 * (low_error**2 + high_error**2).sqrt()
    last, error = values[-1]
    assert last < truth.log_px[0] + 5 * error


class SuppliedNoise(dist.Normal):
    """Normal whose noise, ``(K, N)``, is given."""

    def expand(self, batch_shape, _instance=None):
        new = super().expand(batch_shape, _instance)
        new.noise = self.noise
        return new

    def rsample(self, sample_shape=()):
        noise = self.noise if len(self.batch_shape) == 2 else self.noise[0]
        return self.loc + self.scale * noise


class Subsampled:
    """4 data in a plate that takes a part of them."""

    @staticmethod
    def model(x, noise, index):
        with pyro.plate("data", 4, subsample=index):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(3 * z, 1.0), obs=x)

    @staticmethod
    def guide(x, noise, index):
        with pyro.plate("data", 4, subsample=index):
            q = SuppliedNoise(0.2 * x, torch.ones_like(x))
            q.noise = noise
            pyro.sample("z", q)


@pytest.mark.parametrize("objective", [IWAE(particles=3), Renyi(particles=3, alpha=0.4)], ids=repr)
def test_subsamples_are_unbiased(objective):
    """The mean over all 6 pairs of 4 data is the loss of the 4; Pyro's overstates the bound."""
    x = torch.tensor([-2.0, 0.5, 1.0, 4.0]).double()
    noise = torch.randn(3, 4).double()
    parts = [torch.tensor(pair) for pair in itertools.combinations(range(4), 2)]
    pyros = RenyiELBO(
        alpha=objective.alpha, num_particles=3, vectorize_particles=True, max_plate_nesting=1
    )

    def mean(loss):
        return sum(loss(x[part], noise[:, part], part) for part in parts) / len(parts)

    everything = (x, noise, torch.arange(4))
    loss, elbo = objective.terms(Subsampled.model, Subsampled.guide, *everything)
    ours = mean(lambda *args: objective.terms(Subsampled.model, Subsampled.guide, *args)[0])
    torch.testing.assert_close(ours, loss, rtol=1e-10, atol=0)
    logged = mean(lambda *args: objective.terms(Subsampled.model, Subsampled.guide, *args)[1])
    torch.testing.assert_close(2 * logged, elbo, rtol=1e-10, atol=0)
    theirs = mean(lambda *args: pyros.loss(Subsampled.model, Subsampled.guide, *args))
    full = pyros.loss(Subsampled.model, Subsampled.guide, *everything)
    assert full == pytest.approx(loss.item(), rel=1e-6)
    assert full - theirs > 0.3


@pytest.mark.parametrize("gradient", ["reparameterized", "stl", "dreg"])
def test_plate_that_draws_its_own_subsample(gradient):
    """Model and guide see the same rows: the weights of exact posteriors are p(x) of each."""
    x = torch.tensor([-2.0, 0.5, 1.0, 4.0]).double()
    log_px = dist.Normal(torch.zeros(()).double(), math.sqrt(2)).log_prob(x)
    scale = torch.tensor(0.5).double().sqrt().requires_grad_()

    def model(x):
        with pyro.plate("data", 4, subsample_size=2) as index:
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[index])

    def guide(x):
        with pyro.plate("data", 4, subsample_size=2) as index:
            pyro.sample("z", dist.Normal(x[index] / 2, scale))

    loss, elbo = IWAE(particles=3, gradient=gradient).terms(model, guide, x)
    pairs = torch.tensor([sum(pair) for pair in itertools.combinations(log_px.tolist(), 2)])
    assert (elbo - pairs).abs().min() < 1e-6
    torch.testing.assert_close(loss, -2 * elbo, rtol=1e-12, atol=0)


class Features:
    """Two latents, one of them in a plate over features, and missing observations."""

    @staticmethod
    def model(x, seen):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            with pyro.plate("features", 3, dim=-2), poutine.mask(mask=seen.T):
                w = pyro.sample("w", dist.Normal(z.sum(-1), 2.0))
                pyro.sample("x", dist.Normal(w, 0.5), obs=x.T)

    @staticmethod
    def guide(x, seen):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x[:, :2], 0.8).to_event(1))
            with pyro.plate("features", 3, dim=-2), poutine.mask(mask=seen.T):
                pyro.sample("w", dist.Normal(x.T + 0.1 * z.sum(-1), 0.6))


@pytest.mark.parametrize("particles", [1, 4])
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_inner_plates_masks_and_scales(particles, scale):
    seen = torch.rand(4, 3) < 0.7
    objective = IWAE(particles=particles)
    programs = [poutine.scale(fn, scale=scale) for fn in (Features.model, Features.guide)]
    objective.prepare(*programs, _X, seen)
    torch.manual_seed(0)
    guide = objective._vectorized_num_particles(Features.guide)
    nodes = poutine.trace(guide).get_trace(_X, seen).nodes
    z, w = nodes["z"]["value"], nodes["w"]["value"]
    z = z.reshape(particles, 1, 4, 2)
    w = w.reshape(particles, 3, 4)
    log_weight = (dist.Normal(0.0, 1.0).log_prob(z) - dist.Normal(_X[:, :2], 0.8).log_prob(z)).sum(
        (1, 3)
    )
    inner = dist.Normal(z.sum(-1), 2.0).log_prob(w) + dist.Normal(w, 0.5).log_prob(_X.T)
    inner = inner - dist.Normal(_X.T + 0.1 * z.sum(-1), 0.6).log_prob(w)
    log_weight = log_weight + torch.where(seen.T, inner, 0.0).sum(1)
    torch.manual_seed(0)
    loss, elbo = objective.terms(*programs, _X, seen)
    expected = -scale * (log_weight.logsumexp(0) - math.log(particles)).sum()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(elbo, log_weight.mean(0).sum(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("particles", [1, 4])
@pytest.mark.parametrize("gradient", ["reparameterized", "stl", "dreg"])
def test_inner_plate_is_an_event(particles, gradient):
    """The same three values in a plate inside that of the data, or as one event."""
    scale = torch.full((3,), 0.6).double().requires_grad_()

    def plated(x):
        with pyro.plate("data", len(x), dim=-2), pyro.plate("features", 3, dim=-1):
            w = pyro.sample("w", dist.Normal(torch.zeros(3).double(), 1.0))
            pyro.sample("x", dist.Normal(w, 0.5), obs=x)

    def plated_guide(x):
        with pyro.plate("data", len(x), dim=-2), pyro.plate("features", 3, dim=-1):
            pyro.sample("w", dist.Normal(x / 2, scale))

    def event(x):
        with pyro.plate("data", len(x)):
            w = pyro.sample("w", dist.Normal(torch.zeros(3).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(w, 0.5).to_event(1), obs=x)

    def event_guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("w", dist.Normal(x / 2, scale).to_event(1))

    results = []
    for model, guide in ((plated, plated_guide), (event, event_guide)):
        torch.manual_seed(0)
        loss, elbo = IWAE(particles=particles, gradient=gradient).terms(model, guide, _X)
        results.append(torch.cat([loss[None], elbo[None], _flat_gradient(loss, [scale])]))
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kl", ["sampled", "analytic"])
@pytest.mark.parametrize("particles", [1, 3])
def test_free_bits_per_dimension(digits, kl, particles):
    vae, x = _vae(), digits.train.x[:20].double()
    with torch.no_grad():  # one dimension far from the prior, two near
        vae.posterior.network.output.bias[0] += 2.0
    plain, floored = (ELBO(particles=particles, kl=kl, free_bits=bits) for bits in (0.0, 0.5))
    loss, elbo = _terms(plain, vae, x)
    guide = plain._vectorized_num_particles(vae.guide)
    torch.manual_seed(0)
    z = poutine.trace(guide).get_trace(x).nodes["z"]["value"].reshape(particles, 20, 3)
    q, p = vae.posterior(x).base_dist, dist.Normal(torch.zeros(3).double(), 1.0)
    per_draw = kl_divergence(q, p) if kl == "analytic" else q.log_prob(z) - p.log_prob(z)
    per_dimension = per_draw.reshape(-1, 3).mean(0)
    assert (per_dimension < 0.5).any()
    assert (per_dimension > 0.5).any()
    expected = loss + 20 * (per_dimension.clamp(min=0.5) - per_dimension).sum()
    floored_loss, floored_elbo = _terms(floored, vae, x)
    torch.testing.assert_close(floored_loss, expected, rtol=1e-12, atol=0)
    assert floored_elbo == elbo
    kl_term = floored_loss - _terms(floored, vae, x, kl_weight=0.0)[0]
    bias = vae.posterior.network.output.bias
    gradient = torch.autograd.grad(kl_term, bias)[0].reshape(2, 3).abs().amax(0)
    assert torch.equal(gradient > 1e-9, per_dimension > 0.5)


def test_free_bits_of_a_site_that_does_not_factor(linear_gaussian):
    truth = linear_gaussian
    for bits in (0.1, 5.0):
        floored, elbo = _terms(ELBO(free_bits=bits), truth, truth.x)
        plain, _ = _terms(ELBO(), truth, truth.x)
        likelihood, _ = _terms(ELBO(), truth, truth.x, kl_weight=0.0)
        mean = (plain - likelihood) / len(truth.x)
        assert (mean > 3 * bits) == (bits == 0.1)
        expected = likelihood + len(truth.x) * mean.clamp(min=3 * bits)
        torch.testing.assert_close(floored, expected, rtol=1e-12, atol=0)
        assert elbo == -plain


def test_free_bits_with_inner_plates_and_scales():
    """Every element of an inner plate is a dimension; a missing one has no KL."""
    seen = torch.ones(4, 3, dtype=torch.bool)
    seen[0, 1] = False
    programs = [poutine.scale(fn, scale=2.0) for fn in (Features.model, Features.guide)]
    losses = []
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        losses.append(ELBO(free_bits=1.0).terms(*programs, _X, seen, kl_weight=weight)[0])
    torch.manual_seed(0)
    nodes = poutine.trace(Features.guide).get_trace(_X, seen).nodes
    z, w = nodes["z"]["value"], nodes["w"]["value"]
    of_z = dist.Normal(_X[:, :2], 0.8).log_prob(z) - dist.Normal(0.0, 1.0).log_prob(z)
    of_w = dist.Normal(_X.T + 0.1 * z.sum(-1), 0.6).log_prob(w)
    of_w = of_w - dist.Normal(z.sum(-1), 2.0).log_prob(w)
    per_dimension = torch.cat([of_z.mean(0), torch.where(seen.T, of_w, 0.0).mean(1)])
    expected = 2 * 4 * per_dimension.clamp(min=1.0).sum()
    torch.testing.assert_close(losses[1] - losses[0], expected, rtol=1e-12, atol=0)
    assert 0 < (per_dimension < 1.0).sum() < 5


@pytest.mark.parametrize("particles", [1, 3])
def test_free_bits_with_masked_rows(digits, particles):
    """A threshold that no closed form falls below changes nothing."""
    vae, x = _vae(), digits.train.x[:20].double()
    vae.model, vae.guide = (
        poutine.mask(fn, mask=torch.arange(20) % 3 > 0) for fn in (vae.model, vae.guide)
    )
    losses = [
        _terms(ELBO(particles=particles, kl="analytic", free_bits=bits), vae, x)[0]
        for bits in (0.0, 1e-9)
    ]
    torch.testing.assert_close(*losses, rtol=1e-12, atol=0)


def test_says_which_kl_it_used(digits):
    x = digits.train.x[:5].double()
    for objective in _ALL:
        vae = _vae()
        used = {"z": "analytic" if getattr(objective, "kl", None) == "analytic" else "sampled"}
        assert objective.kl_used(vae.model, vae.guide, x) == used
        mixture = _vae("mixture")
        assert objective.kl_used(mixture.model, mixture.guide, x) == {"z": "sampled"}
    chain = Chain()
    assert set(ELBO(kl="analytic").kl_used(chain.model, chain.guide, _X).values()) == {"sampled"}


def test_closed_form_leaves_out_no_density():
    """A latent that is a transformed draw of another has a sampled term."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.LogNormal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    guide = AutoNormal(model)
    guide(_X[:, 0])
    losses = []
    for kl in ("sampled", "analytic"):
        torch.manual_seed(0)
        losses.append(ELBO(kl=kl).terms(model, guide, _X[:, 0])[0].item())
    assert losses[0] == losses[1]


@pytest.mark.parametrize("store", [True, False])
def test_stl_wherever_the_parameters_live(store):
    """Posterior N(x/2, 1/2) of z ~ N(0, 1), x ~ N(z, 1): no gradient at it."""
    x = torch.tensor([0.3, -1.0, 2.0]).double()
    loose = torch.full((), 0.5).double().requires_grad_()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        weight = pyro.param("weight", torch.tensor(0.5).double()) if store else loose
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(weight * x, math.sqrt(0.5)))

    for gradient in ("reparameterized", "stl"):
        guide(x)
        weight = pyro.param("weight").unconstrained() if store else loose
        torch.manual_seed(0)
        loss, _ = ELBO(gradient=gradient).terms(model, guide, x)
        slope = torch.autograd.grad(loss, weight)[0].abs()
        assert slope < 1e-12 if gradient == "stl" else slope > 0.1


@pytest.mark.parametrize("objective", _ALL, ids=repr)
def test_scale_is_in_the_loss_alone(objective):
    chain = Chain()
    loss, elbo = _terms(objective, chain, _X)
    chain.model, chain.guide = (poutine.scale(fn, scale=2.5) for fn in (chain.model, chain.guide))
    scaled_loss, scaled_elbo = _terms(objective, chain, _X)
    torch.testing.assert_close(scaled_loss, 2.5 * loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(scaled_elbo, elbo, rtol=1e-12, atol=0)


@pytest.mark.parametrize("objective", _ALL, ids=repr)
def test_runs_each_network_once(objective):
    """A second pass through the guide would have other dropout, and cost as much again."""
    chain, calls = Chain(), []
    for module in (chain.a, chain.b, chain.c, chain.decoder):
        module.register_forward_hook(lambda module, *_: calls.append(module))
    objective.prepare(chain.model, chain.guide, _X)
    calls.clear()
    loss, _ = objective.terms(chain.model, chain.guide, _X)
    loss.backward()
    assert calls == [chain.a, chain.b, chain.c, chain.decoder]


@pytest.mark.parametrize("objective", _ALL, ids=repr)
def test_without_parameters_or_gradients(linear_gaussian, objective):
    truth = linear_gaussian
    assert objective.terms(truth.model, truth.prior_guide, truth.x)[0].isfinite()
    chain = Chain()
    losses = [_terms(objective, chain, _X)]
    with torch.no_grad():
        losses.append(_terms(objective, chain, _X))
    torch.testing.assert_close(*losses, rtol=1e-13, atol=0)
    assert losses[0][0].requires_grad
    assert not losses[0][1].requires_grad


@pytest.mark.parametrize("objective", _ALL, ids=repr)
def test_every_objective_works_with_svi(objective):
    chain = Chain()

    def shown(x):
        pyro.module("chain", chain)
        return chain.guide(x)

    svi = pyro.infer.SVI(chain.model, shown, pyro.optim.Adam({"lr": 1e-2}), objective)
    before = [p.detach().clone() for p in chain.parameters()]
    losses = [svi.step(_X) for _ in range(3)]
    assert all(math.isfinite(loss) for loss in [*losses, svi.evaluate_loss(_X)])
    assert not any(map(torch.equal, before, chain.parameters()))


@pytest.mark.parametrize("objective", _ALL, ids=repr)
def test_can_be_traced(objective):
    """As one graph with its gradient, below Python; the KL weight is a tensor."""
    config = pv.Config(latent_dim=2, hidden=(3,))
    vae = pv.VAE.from_config(config, event_shape=(3,)).double()
    names = [name for name, _ in (*vae.named_parameters(), *vae.named_buffers())]
    state = [*vae.parameters(), *vae.buffers()]
    parameters = list(vae.parameters())
    x, weight = _X.gt(0).double(), torch.tensor(0.7).double()

    class Terms(nn.Module):
        def __init__(self):
            super().__init__()
            self.vae = vae

        def forward(self, weight, x):
            return objective.terms(self.vae.model, self.vae.guide, x, kl_weight=weight)

    module = Terms()

    def call(weight, x, *state):
        values = {f"vae.{name}": value for name, value in zip(names, state, strict=True)}
        return torch.func.functional_call(module, values, (weight, x))

    objective.prepare(vae.model, vae.guide, x)
    results = []
    with pyro.validation_enabled(False):
        for run in (call, aot_function(call, nop)):
            torch.manual_seed(0)
            loss, elbo = run(weight, x, *state)
            results.append(torch.cat([loss[None], elbo[None], _flat_gradient(loss, parameters)]))
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)


def test_prepare_finds_deeper_plates():
    objective, chain = IWAE(particles=3), Chain()
    objective.terms(chain.model, chain.guide, _X)
    seen = torch.ones(4, 3, dtype=torch.bool)
    objective.prepare(Features.model, Features.guide, _X, seen)
    loss, _ = objective.terms(Features.model, Features.guide, _X, seen)
    assert loss.isfinite()


def test_prepare_draws_nothing_from_the_caller():
    before = torch.get_rng_state()
    IWAE(particles=3).prepare(Chain().model, Chain().guide, _X)
    assert not torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("cycles", [1, 3])
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 4.0])
def test_kl_weight_from_exactly_zero_to_exactly_beta(cycles, beta):
    steps = 7  # a epoch
    weights = [
        kl_weight(step / steps, warmup=6, cycles=cycles, beta=beta) for step in range(9 * steps)
    ]
    assert weights[0] == 0
    assert all(weight == beta for weight in weights[6 * steps :])
    assert all(0 <= weight <= beta for weight in weights)
    assert weights[6 * steps - 1] == pytest.approx(beta * (41 / 42 if cycles == 1 else 1))
    if cycles == 1:
        assert weights[3 * steps] == pytest.approx(beta / 2)
    else:
        starts = [weights[2 * cycle * steps] for cycle in range(3)]
        assert starts == pytest.approx([0, 0, 0], abs=1e-12)
        assert weights[steps] == pytest.approx(beta)  # from the middle of a cycle
        assert weights[steps // 2] == pytest.approx(beta * 3 / 7)
    assert kl_weight(0.0, warmup=0, cycles=cycles, beta=beta) == beta


def test_registry():
    assert list(OBJECTIVES) == list(get_args(ObjectiveName))
    assert repr(build_objective("elbo", kl="analytic")) == "ELBO(particles=1, kl='analytic')"
    built = build_objective("renyi", particles=4, alpha=0.2, gradient="dreg")
    assert repr(built) == "Renyi(particles=4, alpha=0.2, gradient='dreg')"
    assert repr(build_objective("elbo", free_bits=0.5)).endswith("free_bits=0.5)")
    assert len({repr(objective) for objective in _ALL}) == len(_ALL)
    for objective in _ALL:
        assert repr(eval(repr(objective))) == repr(objective)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("elbow", {}, "unknown objective 'elbow'.*Did you mean 'elbo'"),
        ("iwae", {"particles": 5, "kl": "analytic"}, "'iwae' does not take kl='analytic'"),
        ("iwae", {"particles": 5, "free_bits": 0.1}, "only 'elbo' does"),
        ("iwae", {"particles": 5, "alpha": 0.0}, "only 'renyi' does"),
        ("elbo", {"alpha": 0.5}, "'elbo' does not take alpha=0.5"),
        ("elbo", {"gradient": "dreg"}, "ELBO must be 'reparameterized' or 'stl'; got 'dreg'"),
        ("elbo", {"gradient": "stl", "kl": "analytic"}, "use one of the two"),
        ("elbo", {"gradient": "stl", "free_bits": 1.0}, "use one of the two"),
        ("elbo", {"free_bits": -1.0}, "free_bits must not be negative"),
        ("renyi", {"particles": 2, "alpha": math.inf}, "alpha must be finite"),
        ("renyi", {}, "set particles to more than one"),
    ],
)
def test_wrong_options(name, options, words):
    with pytest.raises(ValueError, match=words):
        build_objective(name, **options)


def test_wrong_schedules():
    for options in ({"warmup": -1}, {"warmup": 1, "cycles": 0}, {"warmup": 1, "beta": math.nan}):
        with pytest.raises(ValueError, match="expected progress, warmup and beta"):
            kl_weight(0.0, **options)


def test_wrong_programs_for_weights_per_datum(linear_gaussian):
    truth, objective = linear_gaussian, IWAE(particles=2)

    def scaled(x):
        with pyro.plate("data", len(x)):
            with poutine.scale(scale=0.5):
                z = pyro.sample("z", truth.prior())
            pyro.sample("x", truth.likelihood(z), obs=x)

    with pytest.raises(ValueError, match=r"site 'x' has scale 1.0, site 'z' 0.5.*kl_weight"):
        objective.terms(scaled, truth.guide, truth.x)
    tensor = torch.tensor(0.5)
    with pytest.raises(ValueError, match="has a tensor as scale"):
        objective.terms(poutine.scale(truth.model, scale=tensor), truth.guide, truth.x)


def test_density_at_its_own_draws_only():
    """A planar flow has no inverse, so its density cannot be taken at a leaf."""
    flow = dist.transforms.Planar(2)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            base = dist.Normal(x, torch.ones_like(x)).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, [flow]))

    ELBO().terms(model, guide, torch.zeros(3, 2))
    with pytest.raises(NotImplementedError, match="a density at its own draws only"):
        ELBO(gradient="stl").terms(model, guide, torch.zeros(3, 2))
    with torch.no_grad():  # no gradient, no need
        assert ELBO(gradient="stl").terms(model, guide, torch.zeros(3, 2))[0].isfinite()


def test_the_data_plate_may_lie_in_another():
    """A plate over time around that over the data changes no bound."""

    def programs(order):
        def nested(x):
            plates = {
                "time": pyro.plate("time", x.shape[1], dim=-2),
                "data": pyro.plate("data", len(x), dim=-1),
            }
            stack = ExitStack()
            for name in order:
                stack.enter_context(plates[name])
            return stack

        def model(x):
            with nested(x):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z, 0.5), obs=x.T)

        def guide(x):
            with nested(x):
                pyro.sample("z", dist.Normal(0.5 * x.T, 0.8))

        return model, guide

    x = torch.randn(7, 3)
    bounds = []
    for order in (("data", "time"), ("time", "data")):
        torch.manual_seed(0)
        bounds.append(IWAE(particles=5).terms(*programs(order), x)[0])
    torch.testing.assert_close(*bounds)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
@pytest.mark.parametrize("particles", [1, 4])
def test_renyi_of_a_whole_data_set_is_that_of_pyro(alpha, particles):
    """Latents of all the data: one weight for each draw."""
    x = torch.linspace(-1, 2, 7)

    def model(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mu, 0.5), obs=x)

    def guide(x):
        pyro.sample("mu", dist.Normal(0.3, 0.4))

    options = {"num_particles": particles, "vectorize_particles": True, "max_plate_nesting": 1}
    pyros = pyro.infer.RenyiELBO(alpha=alpha, **options)
    results = []
    for objective in (pv.Renyi(particles=particles, alpha=alpha), pyros):
        pyro.set_rng_seed(0)
        results.append(objective.loss(model, guide, x))
    assert results[0] == pytest.approx(results[1], rel=1e-5)


def test_doubly_reparameterized_gradient_of_a_whole_data_set():
    """The same expectation as the plain gradient, with less spread."""
    x = torch.linspace(-1, 2, 7)

    def model(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mu, 0.5), obs=x)

    loc = torch.tensor(0.3, requires_grad=True)

    def guide(x):
        pyro.sample("mu", dist.Normal(loc, 0.4))

    spread, mean = [], []
    for gradient in ("reparameterized", "dreg"):
        objective, slopes = pv.IWAE(particles=5, gradient=gradient), []
        for seed in range(300):
            pyro.set_rng_seed(seed)
            loss, _ = objective.terms(model, guide, x)
            slopes.append(torch.autograd.grad(loss, loc)[0])
        mean.append(torch.stack(slopes).mean())
        spread.append(torch.stack(slopes).std())
    error = (spread[0] ** 2 + spread[1] ** 2).sqrt() / 300**0.5
    assert abs(mean[0] - mean[1]) < 4 * error
    assert spread[1] < 0.8 * spread[0]


def test_enumerated_elbo_counts_its_plates_and_takes_none():
    data = torch.tensor([-1.0, 0.5, 2.0])

    def model(x):
        k = pyro.sample("k", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
        mean = (2 * k).unsqueeze(-1) * torch.ones(3)
        pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    losses = [
        objective.loss(model, lambda x: None, data)
        for objective in (
            pv.EnumeratedELBO(),
            pv.EnumeratedELBO(plates=0),
            pyro.infer.TraceEnum_ELBO(max_plate_nesting=0),
        )
    ]
    likelihood = torch.stack([dist.Normal(2.0 * k, 1.0).log_prob(data).sum() for k in (0, 1)])
    exact = (likelihood + torch.tensor([0.7, 0.3]).log()).logsumexp(0)
    assert losses == pytest.approx([-exact.item()] * 3, rel=1e-6)


def test_analytic_kl_of_a_latent_that_is_masked_away():
    x = torch.zeros(4)

    def model(x):
        with pyro.plate("data", 4):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).mask(False))
            pyro.sample("x", dist.Normal(0 * z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", 4):
            pyro.sample("z", dist.Normal(0.0, 2.0).mask(False))

    exact = -dist.Normal(0.0, 1.0).log_prob(x).sum().item()
    assert pv.ELBO(kl="analytic").loss(model, guide, x) == pytest.approx(exact, rel=1e-6)


def test_subsample_of_the_batch_counts_for_all_of_it():
    """``pyro.plate("data", 6, 4)`` inside a program that is given six data."""
    x = torch.linspace(-1, 1, 6)

    def model(x):
        with pyro.plate("data", 6, 4) as index:
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[index])

    def guide(x):
        with pyro.plate("data", 6, 4) as index:
            pyro.sample("z", dist.Normal(x[index] / 2, 0.5**0.5))

    values = []
    for seed in range(400):
        pyro.set_rng_seed(seed)
        values.append(pv.ELBO().terms(model, guide, x)[1])
    values = torch.stack(values)
    exact = dist.Normal(0.0, 2**0.5).log_prob(x).sum()  # the guide is the posterior
    assert abs(values.mean() - exact) < 4 * values.std() / 400**0.5
