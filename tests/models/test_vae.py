import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

import pyro_vae as pv

pytestmark = pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence")


@pytest.fixture
def vae():
    return pv.VAE.from_config(pv.Config(latent_dim=3, hidden=(16,)), event_shape=(8, 8))


def test_programs_declare_the_three_parts(vae, digits):
    x = digits.test.x[:5]
    guide = poutine.trace(vae.guide).get_trace(x)
    model = poutine.trace(poutine.replay(vae.model, guide)).get_trace(x)
    z = guide.nodes["z"]["value"]
    assert z.shape == (5, 3)
    torch.testing.assert_close(model.nodes["z"]["fn"].log_prob(z), vae.prior().log_prob(z))
    torch.testing.assert_close(model.nodes["x"]["fn"].log_prob(x), vae.likelihood(z).log_prob(x))
    torch.testing.assert_close(guide.nodes["z"]["fn"].log_prob(z), vae.posterior(x).log_prob(z))
    assert model.nodes["x"]["is_observed"]


def test_any_module_is_a_part(digits):
    """A user's own prior, with no base class and no registration."""

    class Laplace(nn.Module):
        def forward(self):
            return dist.Laplace(torch.zeros(3), 1.0).to_event(1)

    config = pv.Config(latent_dim=3, hidden=(16,))
    usual = pv.VAE.from_config(config, event_shape=(8, 8))
    own = pv.VAE(Laplace(), usual.likelihood, usual.posterior)
    pv.fit(own, digits.train.head(100), epochs=1)
    evidence = pv.log_evidence(own.model, own.guide, digits.test.x[:4], samples=2000, seed=0)
    normal = pv.log_evidence(usual.model, usual.guide, digits.test.x[:4], samples=2000, seed=0)
    assert not torch.allclose(evidence.log_px, normal.log_px, atol=1e-3)
    assert own.sample(2).shape == (2, 8, 8)


def test_encode_decode_reconstruct_interpolate(vae, digits):
    a, b = digits.test.x[:4], digits.test.x[4:8]
    assert torch.equal(vae.encode(a), vae.posterior(a).mean)
    torch.testing.assert_close(vae.reconstruct(a), vae.likelihood(vae.encode(a)).mean)
    frames = vae.interpolate(a, b, steps=5)
    assert frames.shape == (5, 4, 8, 8)
    torch.testing.assert_close(frames[0], vae.reconstruct(a))
    torch.testing.assert_close(frames[-1], vae.reconstruct(b))
    middle = vae.decode((vae.encode(a) + vae.encode(b)) / 2)
    torch.testing.assert_close(frames[2], middle)
    assert not frames.requires_grad
    with pytest.raises(ValueError, match="at least 2 steps"):
        vae.interpolate(a, b, steps=1)


def test_sample(vae):
    state = torch.get_rng_state()
    x = vae.sample(7, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, vae.sample(7, seed=3))
    assert not torch.equal(x, vae.sample(7, seed=4))
    assert set(x.unique().tolist()) == {0, 1}
    mean = vae.sample(7, seed=3, mean=True)
    assert ((mean > 0) & (mean < 1)).all()
    unseeded = vae.sample(7)
    assert not torch.equal(unseeded, vae.sample(7))
    with pytest.raises(ValueError, match="at least 1; got 0"):
        vae.sample(0)


def test_sample_follows_the_model():
    """Mean and covariance of draws from a linear-Gaussian VAE; 5 standard errors."""
    torch.manual_seed(0)
    decoder = pv.networks.MLP((2,), (3,), hidden=())
    vae = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.Normal(decoder, (3,), scale=0.5),
        nn.Identity(),
    )
    n = 40_000
    x = vae.sample(n, seed=0).double()
    weight = decoder.output.weight.detach().double()
    covariance = weight @ weight.T + 0.25 * torch.eye(3).double()
    assert (x.mean(0).abs() < 5 * (covariance.diagonal() / n).sqrt()).all()
    spread = covariance.diagonal()
    error = ((torch.outer(spread, spread) + covariance**2) / n).sqrt()
    assert ((torch.cov(x.T) - covariance).abs() < 5 * error).all()


def test_initial_parameters_depend_on_the_seed_alone():
    config = pv.Config(prior="mixture", latent_dim=3, hidden=(16,))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = pv.VAE.from_config(config, event_shape=(8, 8))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    two = pv.VAE.from_config(config, event_shape=(8, 8))
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)


def test_works_in_float64_and_as_a_copy(vae, digits):
    x = digits.test.x[:5].double()
    copied = copy.deepcopy(vae).double()
    evidence = pv.log_evidence(copied.model, copied.guide, x, samples=50)
    original = pv.log_evidence(vae.model, vae.guide, digits.test.x[:5], samples=50)
    assert evidence.log_px.isfinite().all()
    # other noise (float64 draws), same model: within 6 standard errors
    spread = (evidence.standard_error**2 + original.standard_error**2).sqrt()
    assert ((evidence.log_px - original.log_px).abs() < 6 * spread).all()


def test_importing_changes_no_flag():
    import subprocess
    import sys

    script = (
        "import torch, pyro, matplotlib; d = torch.distributions.Distribution;"
        "before = (d._validate_args, torch.get_default_dtype(), dict(matplotlib.rcParams),"
        " torch.get_rng_state().tolist());"
        "import pyro_vae as pv; [getattr(pv, name) for name in pv.__all__];"
        "after = (d._validate_args, torch.get_default_dtype(), dict(matplotlib.rcParams),"
        " torch.get_rng_state().tolist());"
        "assert before == after; print(len(pv.__all__))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20
    assert len(pyro.get_param_store()) == 0


def test_trained_object_pickles(vae, digits):
    import pickle

    pv.fit(vae, digits.train.head(50), epochs=1)
    again = pickle.loads(pickle.dumps(vae))
    assert torch.equal(again.encode(digits.test.x[:3]), vae.encode(digits.test.x[:3]))


def test_svi_trains_parts_of_one_class(digits):
    """Parameters are named by their part, so that none hides another's."""

    class Part(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(torch.zeros(()))

        def forward(self, value):
            return dist.Normal(value + self.shift, 1.0)

    class Prior(nn.Module):
        def forward(self):
            return dist.Normal(torch.tensor(0.0), 1.0)

    vae = pv.VAE(Prior(), Part(), Part())
    svi = pyro.infer.SVI(
        vae.model, vae.guide, pyro.optim.Adam({"lr": 0.1}), pyro.infer.Trace_ELBO()
    )
    svi.step(torch.ones(5))
    assert vae.likelihood.shift != 0
    assert vae.posterior.shift != 0
