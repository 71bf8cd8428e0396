"""The gallery's scripts on latent spaces: autoencoder, manifold, the ELBO as a bound."""

import copy
import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import kl_divergence

import pyro_vae as pv

pytestmark = pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence")


@pytest.fixture(scope="module")
def hard():
    return pv.load("digits", binarize="threshold")


def _trained(train, beta=1.0, epochs=60):
    config = pv.Config(latent_dim=2, hidden=(100,), seed=0)
    vae = pv.VAE.from_config(config, event_shape=train.event_shape, data=train.x)
    options = {"learning_rate": 1e-2, "schedule": "one-cycle", "seed": 0}
    pv.fit(vae, train, epochs=epochs, beta=beta, device="cpu", **options)
    return vae


@pytest.fixture(scope="module")
def vae(hard):
    return _trained(hard.train).double()


class Part(nn.Module):
    """A part of a VAE from a function that returns a distribution."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, *given):
        return self.make(*given)


def _program(logits, mean=0.0, scale=1.0):
    """Two latents, pixels of given logits of z, and one normal q for all data."""
    zero = torch.zeros(2, dtype=torch.float64)

    def posterior(x):
        return dist.Normal(zero.expand(len(x), 2) + mean, scale).to_event(1)

    likelihood = Part(lambda z: dist.Bernoulli(logits=logits(z)).to_event(2))
    return pv.VAE(dist.Normal(zero, 1.0).to_event(1), likelihood, Part(posterior))


def _constant(z):
    """Logits of 1 x 3 pixels that do not depend on z."""
    return torch.tensor([[0.3, -1.2, 2.0]], dtype=z.dtype).expand(*z.shape[:-1], 1, 3)


_X = torch.tensor([[[1.0, 0.0, 1.0]], [[0.0, 1.0, 1.0]]], dtype=torch.float64)
_LOG_PX = dist.Bernoulli(logits=_constant(torch.zeros(2).double())).to_event(2).log_prob(_X)


def _first(z):
    """One pixel whose logit is the first latent: p(x) is one half by symmetry."""
    return z[..., :1, None]


def test_unobserved_leaves_the_kl_term(autoencoder, hard):
    config = pv.Config(latent_dim=2, hidden=(16,), seed=0)
    vae = pv.VAE.from_config(config, event_shape=(8, 8), data=hard.train.x)
    trained = autoencoder.Unobserved(vae.prior, vae.likelihood, vae.posterior)
    x = hard.train.x[:50]
    loss, _ = pv.ELBO(kl="analytic").terms(trained.model, trained.guide, x)
    torch.testing.assert_close(loss, kl_divergence(vae.posterior(x), vae.prior()).sum())
    before = [parameter.clone() for parameter in vae.likelihood.parameters()]
    pv.fit(trained, hard.train, epochs=30, learning_rate=1e-2, schedule="one-cycle", device="cpu")
    assert all(map(torch.equal, before, vae.likelihood.parameters()))
    with torch.no_grad():
        assert kl_divergence(vae.posterior(x), vae.prior()).mean() < 0.02


@pytest.mark.slow
def test_without_kl_the_codes_become_points_outside_the_prior(autoencoder, hard):
    widths, outside = [], []
    for beta in (0.0, 1.0):
        vae = _trained(hard.train, beta=beta)
        with torch.no_grad():
            q = vae.posterior(hard.test.x)
        widths.append((q.stddev.mean() / q.mean.std(0).mean()).item())
        outside.append((q.mean.norm(dim=1) > autoencoder.RADIUS).double().mean().item())
    assert widths[0] < 0.01 < 0.1 < widths[1]
    assert outside[1] < 0.02 < 0.4 < outside[0]


@pytest.mark.parametrize("distance", [0.0, 0.7, 2.0, 30.0])
def test_uncovered_mass_in_closed_form(autoencoder, distance):
    """The total variation distance of N(0, I) and N(m, I) is 2 Phi(|m| / 2) - 1."""
    pyro.set_rng_seed(0)
    mean = distance * torch.tensor([0.6, 0.8], dtype=torch.float64)
    found, error = autoencoder.uncovered(_program(_constant, mean), _X, 4000)
    exact = math.erf(distance / 2 / math.sqrt(2))
    assert found == pytest.approx(exact, abs=4 * error + 1e-12)
    assert error < 0.02


def test_grids_in_closed_form(autoencoder, elbo_bound):
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    half = autoencoder.exact(_program(_first), one)
    torch.testing.assert_close(half, torch.full_like(half, math.log(0.5)), rtol=0, atol=1e-10)
    torch.testing.assert_close(autoencoder.exact(_program(_constant), _X), _LOG_PX)

    mean, scale = torch.tensor([0.5, -1.0], dtype=torch.float64), 0.4
    flat = _program(_constant, mean, scale)
    exact = elbo_bound.quadrature(flat, _X)
    # The posterior is the prior here.
    kl = kl_divergence(flat.posterior(_X), flat.prior())
    torch.testing.assert_close(exact.log_px, _LOG_PX, rtol=0, atol=1e-10)
    torch.testing.assert_close(exact.kl, kl, rtol=0, atol=1e-10)
    torch.testing.assert_close(elbo_bound.elbo(flat, _X), _LOG_PX - kl, rtol=0, atol=1e-10)
    known = elbo_bound.quadrature(_program(_constant), _X)  # and q too: all weights are p(x)
    torch.testing.assert_close(known.variance, torch.zeros(2).double(), rtol=0, atol=1e-10)
    torch.testing.assert_close(known.kl, torch.zeros(2).double(), rtol=0, atol=1e-10)


def test_elbo_and_kl_add_up_to_log_px(autoencoder, elbo_bound, vae, hard):
    x = hard.test.x[:40].double()
    exact, bounds = elbo_bound.quadrature(vae, x, step=0.04), elbo_bound.elbo(vae, x)
    torch.testing.assert_close(bounds + exact.kl, exact.log_px, rtol=0, atol=1e-5)
    assert (exact.kl > 0).all()
    assert exact.kl.max() > 0.3  # or there would be nothing to add
    torch.testing.assert_close(autoencoder.exact(vae, x), exact.log_px, rtol=0, atol=1e-8)

    evidence = pv.log_evidence(vae.model, vae.guide, x, samples=4000, defensive=0.5)
    in_errors = (evidence.log_px - exact.log_px) / evidence.standard_error
    assert in_errors.abs().max() < 4.5
    with torch.no_grad():
        log_w = elbo_bound.log_weights(vae, x, 0.0, 2000)
    error = log_w.std(0) / math.sqrt(len(log_w))
    assert ((log_w.mean(0) - bounds).abs() < 4.5 * error).all()


def test_weights_variance_on_the_grid_is_that_of_draws(elbo_bound, vae, hard):
    pyro.set_rng_seed(0)
    x = hard.test.x[:40].double()
    exact = elbo_bound.quadrature(vae, x, step=0.04)
    with torch.no_grad():
        log_w = elbo_bound.log_weights(vae, x, elbo_bound.SHARE, 8000)
    weights = (log_w - exact.log_px).exp()
    error = weights.std(0) / math.sqrt(len(weights))
    assert ((weights.mean(0) - 1).abs() < 4.5 * error).all()
    squares, light = (weights - 1).square(), exact.variance < 1.5
    assert light.sum() > 20  # the others' tails are too heavy to see in so few draws
    error = squares.std(0) / math.sqrt(len(weights))
    assert ((squares.mean(0) - exact.variance).abs() < 5 * error)[light].all()


def test_weights_of_q_alone_have_infinite_variance(elbo_bound, vae, hard):
    """Far out p(x, z)² / q(z) grows without end, as the logits are bounded and q is narrow."""
    x = hard.test.x[:20].double()
    with torch.no_grad():
        q = vae.posterior(x)
        assert q.stddev.square().max() < 0.5
        z = torch.tensor([[20.0, 0.0], [40.0, 0.0], [80.0, 0.0]], dtype=torch.float64)
        joint = elbo_bound.log_joint(vae, x, z)
        integrands = [
            2 * joint - elbo_bound.proposal(vae, x, share).log_prob(z[:, None]).T
            for share in (0.0, elbo_bound.SHARE)
        ]
    assert (integrands[0].diff(dim=1) > 100).all()
    assert (integrands[1].diff(dim=1) < -100).all()


@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_jensens_gap_of_log_normal_weights(elbo_bound, scale):
    """One weight has the gap s² / 2; many have (exp(s²) - 1) / 2K."""
    torch.manual_seed(0)
    log_px = torch.tensor([-3.0, 5.0, 0.0, 2.0], dtype=torch.float64)
    log_w = log_px - scale**2 / 2 + scale * torch.randn(40_000, 4, dtype=torch.float64)
    value, error, gap, gap_error = elbo_bound.bound(log_w, log_px, 1)
    assert abs(value - (log_px.mean() - scale**2 / 2)) < 4 * error
    assert abs(gap - scale**2 / 2) < 4 * gap_error
    value, error, gap, gap_error = elbo_bound.bound(log_w, log_px, 200)
    assert abs(log_px.mean() - value - gap) < 4 * error
    assert gap == pytest.approx(math.expm1(scale**2) / 400, abs=4 * gap_error)
    assert gap_error < error / 2

    parts = torch.tensor([elbo_bound.bound(part, log_px, 20) for part in log_w.split(1000)])
    for values, errors in (parts[:, :2].unbind(1), parts[:, 2:].unbind(1)):
        # The spread of 40 values is known to 11 %.
        assert errors.mean().item() == pytest.approx(values.std().item(), rel=0.4)


@pytest.mark.slow
def test_bounds_rise_to_log_px(elbo_bound, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    numbers = elbo_bound.main(smoke=True)
    assert (tmp_path / "elbo-bound-digits.png").stat().st_size > 10_000
    assert numbers["residual"] < 1e-5
    assert numbers["step"] < 1e-5
    assert numbers["limit"] < 1e-5
    assert numbers["ELBO"] + numbers["KL"] == pytest.approx(numbers["log p(x)"], abs=1e-5)
    assert numbers["log_evidence, in errors"] < 2
    assert abs(numbers["IWAE, in errors"]) < 4
    assert numbers["L_1, q"] == pytest.approx(numbers["ELBO"], abs=4 * numbers["L_1, q, error"])
    for name in elbo_bound.PROPOSALS:
        gaps = [numbers[f"gap {k}, {name}"] for k in elbo_bound.SIZES]
        assert all(one > other > 0 for one, other in itertools.pairwise(gaps))
    gap, error = (numbers[f"gap 100, q and prior{rest}"] for rest in ("", ", error"))
    assert gap == pytest.approx(numbers["variance"] / 200, rel=0.1, abs=4 * error)


def test_autoencoder_runs(autoencoder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    numbers = autoencoder.main(smoke=True)
    assert (tmp_path / "autoencoder-digits.png").stat().st_size > 10_000
    assert list(numbers) == list(autoencoder.LOSSES)
    reconstruction, kl, both = numbers.values()
    name = "KL(q || prior), nats"
    assert kl[name] < both[name] < reconstruction[name]
    name = "reconstruction, nats"
    assert kl[name] < both[name] < reconstruction[name]
    for row in numbers.values():
        assert abs(row["  log_evidence - grid, nats"]) < 0.1
        bound = row["reconstruction, nats"] - row["KL(q || prior), nats"]
        assert bound < row["log p(x) on a grid, nats"]


def test_decoded_grid_runs_through_the_priors_quantiles(manifold):
    class Plain:
        def decode(self, z):
            return z

    grid = manifold.decoded_grid(Plain())
    levels = torch.linspace(0.02, 0.98, manifold.SIDE)
    across = torch.distributions.Normal(0.0, 1.0).cdf(grid)
    for line in across[..., 0]:  # to the right
        torch.testing.assert_close(line, levels)
    for line in across[..., 1].T:  # upwards, the first row on top
        torch.testing.assert_close(line, levels.flip(0))


def test_paths_and_traversals(manifold, hard):
    config = pv.Config(latent_dim=3, hidden=(16,), seed=0)
    vae = pv.VAE.from_config(config, event_shape=(8, 8), data=hard.train.x)
    with torch.no_grad():
        vae.likelihood.network.hidden[0].weight[:, 1] = 0  # a latent without use
    a, b = hard.test.x[:4], hard.test.x[4:8]
    ways = manifold.paths(vae, a, b)
    across, blend = ways["line in latent space"], ways["blend of pixels"]
    assert across.shape == blend.shape == (manifold.STEPS, 4, 8, 8)
    for step, end in ((0, a), (-1, b)):
        torch.testing.assert_close(across[step], vae.reconstruct(end))
        torch.testing.assert_close(blend[step], end)
    torch.testing.assert_close(blend[manifold.STEPS // 2], (a + b) / 2)

    moved = manifold.traversal(vae, a)
    assert moved.shape == (3, 4, manifold.STEPS, 8, 8)
    z = vae.encode(a)
    torch.testing.assert_close(moved[1], vae.decode(z)[:, None].expand_as(moved[1]))
    z[:, 2] = manifold.REACH
    torch.testing.assert_close(moved[2, :, -1], vae.decode(z))


@pytest.mark.slow
def test_lines_in_latent_space_pass_over_likely_digits(manifold, vae, hard):
    """Half way, pixels are blended to something far less likely than a digit."""
    pyro.set_rng_seed(0)
    plane = copy.deepcopy(vae).float()
    judge = manifold.train_vae(hard.train, 8, {"epochs": 60, "learning_rate": 5e-3}, smoke=False)
    start = (hard.test.y[:-1] != hard.test.y[1:]).nonzero().flatten()[:60]
    falls = {}
    for name, gray in manifold.paths(plane, hard.test.x[start], hard.test.x[start + 1]).items():
        ends_and_middle = gray[[0, manifold.STEPS // 2, -1]].flatten(0, 1)
        log_px = manifold.log_evidence(judge, torch.bernoulli(ends_and_middle), 200).log_px
        first, middle, last = log_px.reshape(3, -1)
        falls[name] = middle - (first + last) / 2
    line, blend = falls["line in latent space"], falls["blend of pixels"]
    assert manifold.estimate(blend)[0] < -5
    mean, error = manifold.estimate(line - blend)
    assert mean > 3 + 2 * error


def test_manifold_runs(manifold, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    numbers = manifold.main(smoke=True)
    for name in ("manifold", "latents"):
        assert (tmp_path / f"{name}-digits.png").stat().st_size > 10_000
    assert numbers["change, most"] > numbers["change, least"] >= 0
    assert 0 <= numbers["correlation"] < 1
