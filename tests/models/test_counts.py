"""Counts given their exposure: the density against quadrature, exposures as offsets, wrong ones."""

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae.distributions import exposed, masses
from pyro_vae.likelihoods import LIKELIHOODS

pytestmark = pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence")

_COUNTS = (
    "poisson",
    "negative-binomial",
    "zero-inflated-poisson",
    "zero-inflated-negative-binomial",
)


def _vae(likelihood="poisson", **options):
    config = pv.Config(
        program="counts", likelihood=likelihood, latent_dim=1, hidden=(8,), seed=1, **options
    )
    return pv.build_program(config, event_shape=(4,))


def _data(rows=12):
    torch.manual_seed(3)
    exposure = dist.LogNormal(torch.full((rows,), 1.0), 0.5).sample()
    return dist.Poisson(exposure[:, None] * torch.tensor([0.5, 2.0, 4.0, 0.1])).sample(), exposure


@pytest.mark.parametrize(
    "likelihood",
    [pytest.param(name, marks=[pytest.mark.slow] * ("zero" not in name)) for name in _COUNTS],
)
def test_evidence_is_that_of_quadrature(likelihood):
    x, exposure = _data(5)
    vae = _vae(likelihood)
    vae.initialize(x, exposure)
    torch.testing.assert_close(vae.unit, exposure.mean())
    vae.double()
    x, exposure = x.double(), exposure.double()
    z = torch.linspace(-8, 8, 1001, dtype=torch.float64)[:, None]
    rates = vae.likelihood(z[:, None]).base_dist
    rates = rates.expand((1001, len(x), 4))
    inside = exposed(rates, (exposure / vae.unit)[:, None]).log_prob(x).sum(-1)
    exact = (inside + dist.Normal(0.0, 1.0).log_prob(z)).logsumexp(0) + math.log(16 / 1000)

    def guide(x, exposure):
        with pyro.plate("data", len(x)):
            pyro.sample("z", vae.prior())

    found = pv.log_evidence(vae.model, guide, (x, exposure), samples=2000, search=False)
    assert ((found.log_px - exact) / found.standard_error).abs().max() < 5
    assert found.standard_error.max() < 0.2


@pytest.mark.parametrize("likelihood", _COUNTS)
def test_an_exposure_scales_the_mean_and_leaves_the_rest(likelihood):
    vae, z = _vae(likelihood), torch.randn(6, 1)
    size = torch.tensor([0.5, 1.0, 2.0, 4.0, 1e3, 1e7])
    with torch.no_grad():
        one, more = vae.likelihood(z), exposed(vae.likelihood(z), size)
    torch.testing.assert_close(more.mean, one.mean * size[:, None])
    x = one.mean.round()
    assert torch.equal(exposed(one, torch.ones(6)).log_prob(x), one.log_prob(x))
    counts, scaled = one.base_dist, more.base_dist
    if "inflated" in likelihood:
        assert torch.equal(scaled.gate_logits, counts.gate_logits)
        counts, scaled = counts.base_dist, scaled.base_dist
    if "negative" in likelihood:
        assert torch.equal(scaled.dispersion, counts.dispersion)


def test_distributions_of_pyro_are_scaled_as_ours():
    mean, shape, gate = torch.tensor([0.3, 5.0]), torch.tensor(2.5), torch.tensor(0.2)
    size, x = torch.tensor([3.0, 0.2]), torch.tensor([2.0, 0.0])
    pairs = [
        (dist.Poisson(mean), dist.Poisson(size * mean)),
        (
            dist.NegativeBinomial(shape, logits=(mean / shape).log()),
            dist.NegativeBinomial(shape, logits=(size * mean / shape).log()),
        ),
        (dist.GammaPoisson(shape, shape / mean), dist.GammaPoisson(shape, shape / mean / size)),
        (
            dist.ZeroInflatedPoisson(mean, gate=gate),
            dist.ZeroInflatedPoisson(size * mean, gate=gate),
        ),
        (
            masses.NegativeBinomial(mean, 1 / shape),
            dist.NegativeBinomial(shape, logits=(size * mean / shape).log()),
        ),
    ]
    for given, wanted in pairs:
        torch.testing.assert_close(exposed(given, size).log_prob(x), wanted.log_prob(x))
    with pytest.raises(TypeError, match="Normal has no rate that an exposure could scale"):
        exposed(dist.Normal(mean, 1.0), size)


def test_zero_inflation_is_that_of_pyro():
    mean, x = torch.tensor([0.3, 5.0, 40.0]), torch.tensor([0.0, 3.0, 0.0])
    gate = torch.tensor([-2.0, 0.5, -30.0])
    ours = masses.ZeroInflated(masses.Poisson(mean), gate)
    other = dist.ZeroInflatedPoisson(mean, gate_logits=gate)
    torch.testing.assert_close(ours.log_prob(x), other.log_prob(x))
    ours.sample()  # which looks the gate up
    torch.testing.assert_close(ours.expand((2, 3)).log_prob(x), other.log_prob(x).expand(2, 3))
    certain = masses.ZeroInflated(masses.Poisson(mean), torch.full((3,), 200.0))
    assert certain.sample().sum() == 0
    torch.testing.assert_close(certain.log_prob(x)[1], mean[1].log() * 3 - 205 - math.log(6))


def test_units_of_the_exposure_do_not_matter():
    """Exposures in seconds or in hours give the same model, up to rounding."""
    x, exposure = _data(40)
    found = []
    for scale in (1.0, 3600.0):
        config = pv.Config(program="counts", likelihood="negative-binomial", latent_dim=2)
        vae = pv.build_program(config, event_shape=(4,), data=(x, scale * exposure))
        pv.fit(vae, (x, scale * exposure), epochs=2, device="cpu")
        found.append(vae.decode(torch.zeros(1, 2), scale * exposure[:1]))
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-4)


def test_a_likelihood_starts_at_the_rates():
    """Data of ten times the exposure and ten times the counts start where the others do."""
    x, exposure = _data(400)
    for name in _COUNTS:
        starts = []
        for scale in (1, 10):
            vae = _vae(name)
            vae.initialize(scale * x, scale * exposure)
            starts.append(vae.decode(torch.zeros(1, 1), exposure[:1]))
        torch.testing.assert_close(*starts, rtol=1e-3, atol=1e-3)
        rates = (x / exposure[:, None]).mean(0)
        torch.testing.assert_close(starts[0] / exposure[0], rates[None], rtol=0.02, atol=1e-3)


class Programs(nn.Module):
    """A user's own programs of counts and exposures."""

    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.zeros(4))

    def model(self, x, exposure):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            mean = exposure[:, None] * (self.rate + 0.1 * z[..., None]).exp()
            pyro.sample("x", dist.Poisson(mean).to_event(1), obs=x)

    def guide(self, x, exposure):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))


def test_data_with_exposures_reach_programs_by_name():
    x, exposure = _data()
    data = pv.Data(x, y=torch.arange(len(x)), exposure=exposure)
    results = []
    for given in (data, (x, exposure)):
        program = Programs()
        pv.fit(program, given, epochs=2, batch_size=12, device="cpu")
        found = pv.log_evidence(program.model, program.guide, given, samples=20)
        results.append((program.rate.detach().clone(), found.log_px))
    assert torch.equal(results[0][1], results[1][1])
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(data.take(torch.tensor([3, 1])).exposure, exposure[[3, 1]])
    assert torch.equal(data.head(2).joined(data.head(1)).exposure, exposure[[0, 1, 0]])
    with pytest.raises(TypeError, match="has no exposures; give a tuple"):
        pv.fit(Programs(), pv.Data(x), epochs=1, device="cpu")


def test_draws_and_codes():
    x, exposure = _data()
    vae = _vae()
    vae.initialize(x, exposure)
    assert vae.encode(x, exposure).shape == (12, 1)
    assert vae.reconstruct(x, exposure).shape == x.shape
    assert vae.sample(5, seed=0).shape == (5, 4)
    torch.testing.assert_close(
        vae.sample(2 * vae.unit.expand(5), seed=0, mean=True), 2 * vae.sample(5, seed=0, mean=True)
    )
    other = copy.deepcopy(vae)
    state = vae.state_dict()
    other.load_state_dict(state)
    assert "unit" in state


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda e: e.index_fill(0, torch.tensor([2]), 0.0), "that of datum 2 is 0"),
        (lambda e: e.index_fill(0, torch.tensor([1]), -1.0), "that of datum 1 is -1"),
        (lambda e: e.index_fill(0, torch.tensor([0]), math.nan), "NaN|datum 0 is nan"),
        (lambda e: e.index_fill(0, torch.tensor([0]), math.inf), "infinite|datum 0 is inf"),
        (lambda e: e[:, None], r"shape \(\d+, 1\); expected \(\d+,\)"),
        (lambda e: e[:5], "has 5 rows, x 12"),
    ],
    ids=["zero", "negative", "nan", "inf", "column", "short"],
)
def test_wrong_exposures(wrong, says):
    x, exposure = _data()
    vae = _vae()
    for verb in (
        lambda data: pv.fit(vae, data, epochs=1, device="cpu"),
        lambda data: pv.log_evidence(vae.model, vae.guide, data, samples=5),
    ):
        with pytest.raises(ValueError, match=says):
            verb((x, wrong(exposure)))


@pytest.mark.parametrize("value", [-1.0, 0.5])
def test_wrong_counts(value):
    x, exposure = _data()
    x[3, 1] = value
    with pytest.raises(ValueError, match=rf"outside the support.*datum 3.*such as {value:g}"):
        pv.fit(_vae(), (x, exposure), epochs=1, device="cpu")


def test_a_likelihood_without_a_rate_is_refused():
    x, exposure = _data()
    with pytest.raises(
        TypeError, match="no rate that an exposure could scale; use a likelihood of"
    ):
        pv.fit(_vae("normal"), (x, exposure), epochs=1, device="cpu")


def test_all_likelihoods_of_counts_are_here():
    assert {name for name in LIKELIHOODS if "poisson" in name or "negative" in name} == {*_COUNTS}
