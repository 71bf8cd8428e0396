"""How much a GPU gets at once: large blocks, small chunks of large tensors, few waits."""

import pytest
import torch
from devices.pretend import pretend
from devices.twins import build, short_fits

import pyro_vae as pv
from pyro_vae.evidence import sizes
from pyro_vae.programs.evaluation import evaluating

pytestmark = pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence")


@pytest.fixture(autouse=True)
def _short_fits(monkeypatch):
    short_fits(monkeypatch)


# Waits for each block of 64 data more.
WAITS = {"guide": 3, "refined": 3, "laplace": 6, "annealed": 6, "auto": 10}


@pytest.mark.parametrize("method", WAITS)
def test_waits_of_a_block(digits, method, monkeypatch):
    monkeypatch.setattr(sizes, "_ROUNDS", sizes._ROWS)  # 64 data, as with the guide
    annealing = pv.Annealing(temperatures=6, chains=8, pilot_chains=2)
    counts = []
    with pretend() as gpu:
        program = build(digits, latent_dim=2, hidden=(8,))[1].to("cuda")
        model, guide = program.model, program.guide
        for number in (128, 192):  # of up to 64 data there are no others to look at
            with gpu.counting() as found:
                x, options = digits.test.x[:number], {"samples": 300, "annealing": annealing}
                pv.log_evidence(model, guide, x, method=method, **options)
            counts.append(found)
    more = counts[1] - counts[0]
    assert 0 < sum(more.values()) <= WAITS[method], more
    assert sum(counts[0].values()) < 50


def test_blocks_are_large(digits):
    with pretend() as gpu:
        program = build(digits, latent_dim=2, hidden=(8,))[1].to("cuda")
        counts = []
        for number in (128, 360):
            with gpu.counting() as found:
                x = digits.test.x[:number]
                pv.log_evidence(program.model, program.guide, x, method="laplace", samples=64)
            counts.append(sum(found.values()))
    assert counts[0] == counts[1]


def test_estimates_agree_with_those_of_the_cpu(digits):
    program = build(digits, latent_dim=2)[1]
    pv.fit(program, digits.train, epochs=5, device="cpu")
    options = {"method": "laplace", "samples": 500}
    here = pv.log_evidence(program.model, program.guide, digits.test.x[:80], **options)
    with pretend():
        program.to("cuda")
        there = pv.log_evidence(program.model, program.guide, digits.test.x[:80], **options)
    error = (here.standard_error.square() + there.standard_error.square()).sqrt()
    assert not torch.equal(here.log_px, there.log_px)
    assert ((here.log_px - there.log_px).abs() < 5 * error + 1e-3).all()


@pytest.mark.parametrize(
    ("likelihood", "levels", "chunk"), [("bernoulli", None, 1024), ("categorical", 2048, 8)]
)
def test_large_tensors_make_small_chunks(digits, likelihood, levels, chunk):
    """64 pixels of 2048 classes take 2^20 bytes in float64: 2^29 hold 512 rows."""
    with pretend():
        options = {} if levels is None else {"likelihood_levels": levels}
        program = build(digits, likelihood=likelihood, **options)[1].to("cuda")
        model, guide = program.model, program.guide
        with evaluating(model, guide, digits.test.x[:64]) as evaluation:
            assert sizes.chunk_for(evaluation, 64) == chunk
            assert sizes.draws_for(evaluation.device, 4096) == 16
