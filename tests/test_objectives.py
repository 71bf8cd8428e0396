import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO

import pyro_vae as pv


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
