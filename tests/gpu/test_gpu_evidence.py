"""Evidence on a real GPU: exact values, the CPU's estimates, bounded memory."""

from typing import get_args

import pyro
import pyro.distributions as dist
import pytest
import torch
from devices.twins import build

import pyro_vae as pv
from pyro_vae.common.options import Method

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence")]


class Linear(torch.nn.Module):
    """The linear Gaussian model of the other tests, as a module that can be moved."""

    def __init__(self, exact):
        super().__init__()
        self.scale = exact.scale
        for name in ("weight", "bias", "covariance"):
            self.register_buffer(name, getattr(exact, name))

    def _prior(self):
        zero = self.bias.new_zeros(self.weight.shape[1])
        return dist.Normal(zero, torch.ones_like(zero)).to_event(1)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self._prior())
            mean = z @ self.weight.T + self.bias
            pyro.sample("x", dist.Normal(mean, self.scale).to_event(1), obs=x)

    def guide(self, x):
        mean = (x - self.bias) @ self.weight @ self.covariance / self.scale**2
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(mean, 1.3**2 * self.covariance))


@pytest.mark.parametrize("method", get_args(Method))
def test_exact_values(linear_gaussian, method):
    program = Linear(linear_gaussian).to("cuda")
    x = linear_gaussian.x
    found = pv.log_evidence(program.model, program.guide, x, samples=2000, method=method)
    error = (found.log_px - linear_gaussian.log_px).abs() / found.standard_error
    assert error.max() < 4.5
    assert found.log_px.device.type == "cpu"


@pytest.mark.parametrize("method", ["guide", "laplace"])
def test_chunks_do_not_matter(digits, method):
    program = build(digits)[1].to("cuda")
    found = [
        pv.log_evidence(
            program.model, program.guide, digits.test.x[:70], samples=500, method=method, chunk=c
        ).log_px
        for c in (7, 512, None)
    ]
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(found[0], found[2], rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("method", ["guide", "laplace", "auto"])
def test_both_devices_agree(digits, method):
    program = build(digits)[1]
    pv.fit(program, digits.train, epochs=5, device="cpu")
    options = {"method": method, "samples": 1000}
    here = pv.log_evidence(program.model, program.guide, digits.test.x[:200], **options)
    program.to("cuda")
    there = pv.log_evidence(program.model, program.guide, digits.test.x[:200], **options)
    error = (here.standard_error.square() + there.standard_error.square()).sqrt()
    trusted = ~(here.unreliable() | there.unreliable())
    assert ((here.log_px - there.log_px).abs() < 5 * error + 1e-3)[trusted].all()


def test_compiled_evidence(digits):
    program = build(digits)[1].to("cuda")
    options = {"samples": 1000}
    plain = pv.log_evidence(program.model, program.guide, digits.test.x[:70], **options)
    fast = pv.log_evidence(
        program.model, program.guide, digits.test.x[:70], compiled=True, **options
    )
    torch.testing.assert_close(plain.log_px, fast.log_px, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("method", ["guide", "laplace"])
def test_memory_is_bounded(method):
    """256 classes of 784 pixels: 65,536 rows at once would take 49 GiB."""
    config = pv.Config(likelihood="categorical", likelihood_levels=256, latent_dim=8, hidden=(64,))
    program = pv.VAE.from_config(config, event_shape=(28, 28)).to("cuda")
    x = torch.randint(0, 256, (70, 28, 28)).float()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    pv.log_evidence(program.model, program.guide, x, samples=200, method=method)
    assert torch.cuda.max_memory_allocated() - before < 12 * 2**30


@pytest.mark.search
def test_the_search_and_the_certificate(digits):
    program = build(digits)[1]
    pv.fit(program, digits.train, epochs=3, device="cuda")
    model, guide, test = program.model, program.guide, digits.test.x[:50]
    found = pv.log_evidence(model, guide, test, method="auto")
    assert found.search.simulated
    assert not found.search.skipped
    certificate = pv.certify(model, guide, test, number=20)
    assert certificate.gap[0] < 1.0
