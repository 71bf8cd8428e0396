"""Threads that are worth it, and nothing of the caller's that is changed."""

import pytest
import torch

import pyro_vae as pv
from pyro_vae.common import host


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


class _Clock:
    """A clock by which work takes the seconds that a table names for its number of threads."""

    def __init__(self, seconds):
        self.seconds, self.now, self.seen = seconds, 0.0, []

    def perf_counter(self):
        return self.now

    def work(self):
        torch.rand(3)
        self.seen.append(torch.get_num_threads())
        self.now += self.seconds[torch.get_num_threads()]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({1: 1.0, 2: 0.9, 4: 0.1}, 1),  # not worth a second thread
        ({1: 1.0, 2: 0.6, 4: 0.58}, 2),
        ({1: 1.0, 2: 0.6, 4: 0.3}, 4),
        ({1: 1.0, 2: 45.0, 4: 45.0}, 1),
    ],
)
def test_number_of_threads_follows_the_clock(seconds, expected, four_threads, monkeypatch):
    clock = _Clock(seconds)
    monkeypatch.setattr(host, "time", clock)
    state = torch.get_rng_state()
    assert host.threads_worth(clock.work, 4) == expected
    assert torch.get_num_threads() == 4
    assert torch.equal(torch.get_rng_state(), state)
    if seconds[2] > 1:  # a busy processor: one look must do
        assert clock.seen == [1, 1, 1, 2]


def test_small_work_takes_one_thread_uncompared(four_threads, monkeypatch):
    clock = _Clock({1: 5e-4})
    monkeypatch.setattr(host, "time", clock)
    assert host.threads_worth(clock.work, 4) == 1
    assert clock.seen == [1, 1]


def test_one_thread_is_not_measured():
    assert host.threads_worth(lambda: pytest.fail("measured"), 1) == 1


def test_no_more_than_allowed(monkeypatch):
    monkeypatch.setattr(host, "_is_small", lambda work: False)
    monkeypatch.setattr(host, "_are_worth", lambda work, few, many: True)
    assert host.threads_worth(lambda: None, 3) == 3


def test_threads_come_back_after_an_error(four_threads):
    def fail():
        with host.use_threads(2):
            assert torch.get_num_threads() == 2
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert torch.get_num_threads() == 4


def _watched(monkeypatch, worth):
    """Make every piece of work worth so many threads; return those that models computed with."""
    for module in ("pyro_vae.training.loop", "pyro_vae.programs.evaluation"):
        monkeypatch.setattr(f"{module}.threads_worth", lambda work, most: min(worth, most))
    seen = []
    forward = pv.networks.MLP.forward

    def watching(self, *args):
        seen.append(torch.get_num_threads())
        return forward(self, *args)

    monkeypatch.setattr(pv.networks.MLP, "forward", watching)
    return seen


def test_training_and_evaluation_take_what_was_measured(
    small_config, digits, four_threads, monkeypatch
):
    seen = _watched(monkeypatch, 2)
    vae = pv.VAE.from_config(small_config, event_shape=(8, 8), data=digits.train.x)
    pv.fit(vae, digits.train.head(100), epochs=2, device="cpu")
    assert seen[-1] == 2
    assert set(seen) == {1, 2}  # checks take one
    seen.clear()
    pv.log_evidence(vae.model, vae.guide, digits.test.x[:10], samples=10)
    assert seen[-1] == 2
    assert set(seen) == {1, 2}
    assert torch.get_num_threads() == 4


def test_a_resumed_run_keeps_its_number(small_config, digits, four_threads, monkeypatch, tmp_path):
    """Sums may depend on the number of threads in their last bits."""
    data = digits.train.head(100)
    vae = pv.VAE.from_config(small_config, event_shape=(8, 8), data=data.x)
    _watched(monkeypatch, 2)
    pv.fit(vae, data, epochs=1, device="cpu", out=tmp_path)
    seen = _watched(monkeypatch, 4)
    pv.fit(vae, data, epochs=2, device="cpu", out=tmp_path, resume=True)
    assert seen[-1] == 2
    torch.set_num_threads(1)  # the caller's word
    pv.fit(vae, data, epochs=3, device="cpu", out=tmp_path, resume=True)
    assert seen[-1] == 1


def test_measuring_is_no_part_of_the_run(small_config, digits, monkeypatch):
    """Measured or not: the same bits, batch normalization's statistics among them."""
    data = digits.train.head(100)
    found = []
    for most in (1, 2):
        torch.manual_seed(0)
        vae = pv.VAE.from_config(small_config, event_shape=(8, 8), data=data.x)
        vae.posterior.network = torch.nn.Sequential(
            torch.nn.Flatten(-2), torch.nn.BatchNorm1d(64), *_flat(vae.posterior.network)
        )
        monkeypatch.setattr(host, "_is_small", lambda work: work() is None)
        monkeypatch.setattr(host, "_are_worth", lambda work, few, many: work() is None)
        with host.use_threads(most):
            pv.fit(vae, data, epochs=1, device="cpu")
        found.append({key: value.clone() for key, value in vae.state_dict().items()})
    assert "posterior.network.1.running_mean" in found[0]
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_programs_that_count_their_steps_see_no_others(small_config, digits, monkeypatch):
    monkeypatch.setattr(host, "_is_small", lambda work: work() is None)
    monkeypatch.setattr(host, "_are_worth", lambda work, few, many: work() is None)

    class Counting(pv.VAE):
        calls = 0

        def model(self, x):
            self.calls += self.training
            return super().model(x)

    data = digits.train.head(100)
    vae = Counting.from_config(small_config, event_shape=(8, 8), data=data.x)
    with host.use_threads(2):
        pv.fit(vae, data, epochs=2, batch_size=50, device="cpu")
    assert vae.calls == 4


def _flat(network):
    """Layers of a network, for data that are flat already."""
    return [torch.nn.Unflatten(-1, (8, 8)), network]
