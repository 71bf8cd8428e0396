"""Evidence on a GPU: the CPU's bits on every rung under the CPU's sizes, and few waits."""

from typing import get_args

import pyro
import pyro.distributions as dist
import pytest
import torch
from devices.pretend import pretend
from devices.twins import Clusters, Regression, arguments, as_on_a_cpu, build, same_on_both
from pyro.infer import autoguide
from torch.utils.data import TensorDataset

import pyro_vae as pv
from pyro_vae.common.options import Method
from pyro_vae.evidence import bias, search

pytestmark = pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence")
ANNEALING = pv.Annealing(temperatures=4, chains=8, pilot_chains=2)
ROUGH = {"samples": 64, "annealing": ANNEALING}


@pytest.fixture(autouse=True)
def _sizes_of_a_cpu(monkeypatch):
    as_on_a_cpu(monkeypatch)


@pytest.mark.parametrize("method", get_args(Method))
def test_evidence(digits, method):
    def compute(device):
        program = build(digits, latent_dim=2)[1].to(device)
        x = digits.test.x[:9]
        return pv.log_evidence(program.model, program.guide, x, method=method, **ROUGH)

    same_on_both(compute)


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_one_seed_one_result_and_the_callers_numbers(digits, device):
    with pretend():
        program = build(digits)[1].to(device)
        before = torch.cuda.get_rng_state(device)
        found = []
        for _ in range(2):
            x = digits.test.x[:5]
            found.append(pv.log_evidence(program.model, program.guide, x, samples=32).log_px)
            assert torch.equal(torch.cuda.get_rng_state(device), before)
            before = torch.cuda.get_rng_state(device)
        torch.rand(10, device=device)
        x = x.to(device)
        found.append(pv.log_evidence(program.model, program.guide, x, samples=32).log_px)
        assert found[0].device.type == "cpu"
        assert torch.equal(found[0], found[1])
        assert torch.equal(found[0], found[2])


@pytest.mark.parametrize(
    ("program", "method"),
    [
        ("conditional", "guide"),
        ("conditional", "auto"),
        ("semi-supervised", "guide"),
        ("top-down", "laplace"),
        ("bottom-up", "auto"),
    ],
)
def test_evidence_of_programs(digits, program, method):
    def compute(device):
        model = build(digits, program=program, latent_dim=2)[1].to(device)
        given = arguments(digits, 5, program=program)
        return pv.log_evidence(model.model, model.guide, given, method=method, **ROUGH)

    same_on_both(compute)


@pytest.mark.parametrize("place", ["cpu", "device"])
def test_masks_lie_anywhere(digits, place):
    def compute(device):
        program = build(digits)[1].to(device)
        x = digits.test.x[:5]
        mask = x.new_ones(8, 8).bool().triu()
        mask = mask.to(device) if place == "device" else mask
        model, guide = program.model, program.guide
        return pv.log_evidence(model, guide, x, mask=mask, method="laplace", **ROUGH)

    same_on_both(compute)


@pytest.mark.parametrize("inside", [True, False])
def test_masked_latents(inside):
    """A latent that some data do not have, masked outside of its event or, as a whole, inside."""

    def latent(loc, seen):
        normal = dist.Normal(loc, 1.0)
        return normal.mask(seen[:, None]).to_event(1) if inside else normal.to_event(1).mask(seen)

    def model(x, seen):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", latent(torch.zeros_like(x), seen))
            loc = torch.where(seen[:, None], z, torch.zeros_like(z))
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(x, seen):
        with pyro.plate("data", len(x)):
            pyro.sample("z", latent(x / 2, seen))

    def compute(device):
        x = torch.linspace(-1, 1, 10).reshape(5, 2).to(device)
        seen = torch.tensor([True, False, True, True, False]).to(device)
        return pv.log_evidence(model, guide, (x, seen), method="laplace", **ROUGH)

    same_on_both(compute)


def test_targets_and_weights_of_the_prior(digits):
    def compute(device):
        program = build(digits)[1].to(device)
        options = {"target_error": 0.5, "max_samples": 200, "defensive": 0.2}
        return pv.log_evidence(program.model, program.guide, digits.test.x[:9], **options)

    same_on_both(compute)


def test_data_that_are_read_block_by_block(digits):
    def compute(device):
        program = build(digits)[1].to(device)
        data = TensorDataset(digits.test.x[:70])
        return pv.log_evidence(program.model, program.guide, data, samples=20)

    same_on_both(compute)


@pytest.mark.search
def test_the_search_for_missed_mass(digits, monkeypatch):
    chains = pv.Annealing(start="prior", temperatures=8, chains=8, pilot_chains=4)
    monkeypatch.setattr(search, "_ANNEALING", chains)

    def compute(device):
        program = build(digits, latent_dim=2)[1].to(device)
        found = pv.log_evidence(program.model, program.guide, digits.test.x[:12], samples=64)
        assert found.search.simulated
        assert found.search.annealed
        assert not found.search.skipped
        return found

    same_on_both(compute)


@pytest.mark.parametrize("method", ["guide", "laplace", "auto"])
def test_latents_with_bounds_summed_out_and_discrete(method):
    def compute(device):
        x = torch.linspace(-1, 3, 12).reshape(6, 2)
        program = pv.amortize(Clusters().model, x).to(device)
        return pv.log_evidence(program.model, program.guide, x, method=method, **ROUGH)

    same_on_both(compute)


def test_latents_that_are_all_discrete():
    def compute(device):
        logits = torch.zeros(3, device=device)

        def model(x):
            with pyro.plate("data", len(x)):
                k = pyro.sample("k", dist.Categorical(logits=logits))
                pyro.sample("x", dist.Normal(k.to(x.dtype), torch.ones_like(x)), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("k", dist.Categorical(logits=logits))

        return pv.log_evidence(model, guide, torch.arange(5.0, device=device), samples=50)

    same_on_both(compute)


@pytest.mark.parametrize("method", ["guide", "laplace", "annealed"])
def test_evidence_of_a_whole_data_set(method, monkeypatch):
    """Draw by draw on both: the pretended GPU does not see into what torch.vmap takes at once."""

    def refuse(*args, **kwargs):
        raise RuntimeError("no vmap")

    monkeypatch.setattr(torch, "vmap", refuse)

    def compute(device):
        z = torch.linspace(-1, 1, 9, device=device)
        model = Regression().model
        guide = autoguide.AutoNormal(model)
        return pv.log_evidence(model, guide, (z, 2 * z), method=method, **ROUGH)

    same_on_both(compute)


def test_certify(digits):
    def compute(device):
        program = build(digits, latent_dim=2)[1].to(device)
        options = {"number": 5, "samples": 32, "annealing": ANNEALING}
        return pv.certify(program.model, program.guide, digits.test.x[:5], **options)

    same_on_both(compute)


def test_sample_posterior(digits):
    def compute(device):
        program = build(digits, latent_dim=2)[1].to(device)
        model, guide, x = program.model, program.guide, digits.test.x[:5]
        return pv.sample_posterior(model, guide, x, 3, method="laplace", samples=64)

    same_on_both(compute)


@pytest.mark.parametrize("place", ["cpu", "device"])
def test_bridge_and_predictions(place):
    def compute(device):
        z = torch.linspace(-1, 1, 9, device=device)
        model = Regression().model
        draws = {"w": torch.linspace(0.5, 2.5, 40)}
        draws = {"w": draws["w"].to(device)} if place == "device" else draws
        new = (z[:3], z[:3])
        ahead = pv.log_predictive(model, new, draws)
        return [pv.bridge(model, (z, 2 * z), draws), ahead]

    same_on_both(compute)


@pytest.mark.parametrize("method", ["guide", "laplace"])
def test_unbiased(digits, method):
    def compute(device):
        program = build(digits, latent_dim=2)[1].to(device)
        options = {"base": 16, "method": method}
        x = digits.test.x[:9]
        return pv.evidence.unbiased_log_evidence(program.model, program.guide, x, **options)

    same_on_both(compute)


def test_diagnostics_stay_where_their_weights_are():
    functions = (
        pv.evidence.effective_sample_size,
        pv.evidence.jackknife,
        pv.evidence.pareto_k,
        pv.evidence.standard_error,
        bias.delta_corrected,
    )

    def compute(device):
        found = []
        for samples in (1, 10, 300):
            log_weights = torch.linspace(-3, 1, 2 * samples).reshape(samples, 2).double()
            found += [function(log_weights.to(device)) for function in functions]
        strata = torch.arange(300) % 10 == 0
        found.append(pv.evidence.standard_error(log_weights.to(device), strata=strata.to(device)))
        assert all(value.device.type == device.type for value in found)
        return [*found, pv.evidence.convergence(log_weights.to(device))]

    same_on_both(compute)
