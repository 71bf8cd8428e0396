"""Sizes that no memory holds are refused before they are allocated, in one line."""

import numpy as np
import pytest
import torch

import pyro_vae as pv
from pyro_vae.cli import main
from pyro_vae.common import memory
from pyro_vae.common.devices import planned
from pyro_vae.common.memory import check_memory, free_memory, in_words
from pyro_vae.common.progress import Progress, announce, duration, part_done
from pyro_vae.common.verbs import verb


def test_free_memory_is_a_number_of_bytes():
    assert 2**20 < free_memory() < 2**50


@pytest.mark.parametrize(
    ("size", "words"), [(37e9, "37 GB"), (2.34e9, "2.3 GB"), (4e12, "4.0 TB"), (5e5, "0.5 MB")]
)
def test_sizes_in_words(size, words):
    assert in_words(size) == words


def test_what_does_not_fit_is_refused_with_both_numbers(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda device: 23_000_000_000)
    check_memory(22e9, "this")
    with pytest.raises(pv.NotEnoughMemory, match=r"this needs about 37 GB of memory; 23 GB are"):
        check_memory(37e9, "this")
    monkeypatch.setattr(memory, "free_memory", lambda device: None)  # nobody knows
    check_memory(37e9, "this")


@pytest.mark.parametrize(
    "fail",
    [
        lambda: torch.empty(10**15),
        lambda: torch.empty(2**40, 2**40),
        lambda: torch.ones(10**8).expand(10**8, 10**8) + 1,
        lambda: np.empty(10**16),
        lambda: bytearray(2**60),
    ],
)
def test_an_allocation_that_fails_is_one_sentence(fail):
    with pytest.raises(pv.NotEnoughMemory, match="does not fit into memory") as caught:
        verb(fail)()
    assert "\n" not in str(caught.value)


def test_other_errors_pass():
    @verb
    def fail():
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        fail()


@pytest.mark.parametrize(
    "options",
    [
        {"hidden": (10**6, 10**6)},
        {"latent_dim": 10**10},
        {"prior": "mixture", "prior_components": 10**12},
        {"posterior": "full", "latent_dim": 10**6},
        {"network": "conv", "hidden": (10**6, 10**6)},
    ],
)
def test_models_are_measured_before_they_are_built(options):
    config = pv.Config(**options)
    with pytest.raises(pv.NotEnoughMemory, match=r"the model needs about .* TB"):
        pv.build_program(config, event_shape=(8, 8), data=torch.rand(10, 8, 8))


def test_a_large_model_is_the_same_whether_measured_or_not(monkeypatch):
    config = pv.Config(latent_dim=3, hidden=(16,), prior="vamp", prior_components=4)
    x = torch.rand(10, 8, 8)
    plain = pv.VAE.from_config(config, event_shape=(8, 8), data=x)
    monkeypatch.setattr("pyro_vae.common.devices._LARGE", 100)
    measured = pv.VAE.from_config(config, event_shape=(8, 8), data=x)
    pairs = zip(plain.state_dict().values(), measured.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_bytes_of_what_is_made_are_counted(monkeypatch):
    monkeypatch.setattr(memory, "_SMALL", 0)
    monkeypatch.setattr("pyro_vae.common.devices._LARGE", 1000)
    monkeypatch.setattr(memory, "free_memory", lambda device: 4 * (50 * 30 + 30) - 1)
    with pytest.raises(pv.NotEnoughMemory):
        planned(lambda: torch.nn.Linear(50, 30), "a layer", cure="")
    monkeypatch.setattr(memory, "free_memory", lambda device: 4 * (50 * 30 + 30))
    assert planned(lambda: torch.nn.Linear(50, 30), "a layer", cure="").weight.shape == (30, 50)


@pytest.fixture(scope="module")
def vae():
    return pv.VAE.from_config(pv.Config(latent_dim=2, hidden=(16,)), event_shape=(8, 8))


@pytest.mark.parametrize("particles", [10**9, 10**15])
def test_a_step_is_measured_first(vae, digits, particles):
    with pytest.raises(pv.NotEnoughMemory, match=f"a step of 100 data and {particles:,} particles"):
        pv.fit(vae, digits.train.x.round(), objective=pv.IWAE(particles=particles), device="cpu")


def test_draws_are_measured_first(vae, digits, monkeypatch):
    x = digits.test.x[:10].round()
    state = torch.get_rng_state()
    with pytest.raises(pv.NotEnoughMemory, match="drawing 1,000,000,000,000 data needs about 256"):
        vae.sample(10**12)
    assert torch.equal(torch.get_rng_state(), state)
    assert vae.sample(20_000, seed=0).shape == (20_000, 8, 8)
    with pytest.raises(pv.NotEnoughMemory, match=r"weighing 10,000,000,000,000 draws .* 240 TB"):
        pv.log_evidence(vae.model, vae.guide, x, samples=10**13, progress=False)
    monkeypatch.setattr("pyro_vae.evidence.sizes._COPIES", 0)
    with pytest.raises(pv.NotEnoughMemory, match=r"keeping 100,000,000,000 draws of each datum"):
        pv.sample_posterior(vae.model, vae.guide, x, 10**11, samples=10**11, progress=False)


def test_how_long_many_samples_take_is_said_first(vae, digits, capsys):
    with pytest.raises(pv.NotEnoughMemory):
        pv.log_evidence(vae.model, vae.guide, digits.test.x[:10].round(), samples=10**12)
    assert "log p(x): some " in capsys.readouterr().err
    for seconds, words in ((3, "3 s"), (300, "5.0 min"), (90_000, "25 hours"), (1e9, "32 years")):
        assert duration(seconds) == words
    announce("this", 59.0)
    announce("this", 1e6, show=False)
    assert not capsys.readouterr().err


def test_the_command_line_says_so_in_one_line(tmp_path, capsys):
    out = str(tmp_path / "run")
    assert main(["fit", "--out", out, "--hidden", "1000000", "1000000"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("pyro-vae: error: the model needs about 8.0 TB of memory")


class _Clock:
    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


def _lines(monkeypatch, capsys, seconds, total, **options):
    """What is written of work of so many items, each taking so many seconds."""
    clock = _Clock()
    monkeypatch.setattr("pyro_vae.common.progress.time", clock)
    with Progress(total, "training", "epochs", **options) as progress:
        for _ in range(total):
            for part in (0.5, 1.0):
                clock.now += seconds / 2
                part_done(part, 1, "epochs")
                part_done(part, 1, "data")  # of other work
            progress.update(note="ELBO -3")
    return capsys.readouterr().err.splitlines()


def test_without_a_terminal_long_work_says_how_far_it_is(monkeypatch, capsys):
    assert not _lines(monkeypatch, capsys, 0.09, 100)  # nine seconds
    assert not _lines(monkeypatch, capsys, 60, 10, show=False)
    lines = _lines(monkeypatch, capsys, 1, 100)
    assert lines[0] == "training: 9 of 100 epochs (10.00%) after 10 s; about 90 s left; ELBO -3"
    assert 8 <= len(lines) <= 10  # a tenth each
    lines = _lines(monkeypatch, capsys, 5, 1000)
    assert 82 <= len(lines) <= 100  # a minute each, of 83
    lines = _lines(monkeypatch, capsys, 1200, 2)  # within an item, too
    assert lines[0] == "training: 0 of 2 epochs (25.00%) after 10 min; about 30 min left"
