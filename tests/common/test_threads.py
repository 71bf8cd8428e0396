"""Calls from several threads of one process: each gives the bits that it gives alone."""

import inspect
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module

import pytest
import torch

import pyro_vae as pv
from pyro_vae.common import verbs
from pyro_vae.common.verbs import exclusively, is_verb, verb

pytestmark = pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence")

_CONFIG = pv.Config(latent_dim=2, hidden=(8,))


def _fit(train, seed):
    vae = pv.VAE.from_config(_CONFIG, event_shape=(8, 8), data=train)
    pv.fit(vae, train, epochs=1, batch_size=50, seed=seed, device="cpu", progress=False)
    return [p.detach().clone() for p in vae.parameters()]


def _log_evidence(x, seed):
    vae = pv.VAE.from_config(_CONFIG, event_shape=(8, 8))
    return [pv.log_evidence(vae.model, vae.guide, x, samples=20, seed=seed).log_px]


def _sampled(x, seed):
    vae = pv.VAE.from_config(_CONFIG, event_shape=(8, 8))
    active = pv.analysis.active_units(vae.model, vae.guide, x, samples=20, seed=seed)
    return [vae.sample(20, seed=seed), vae.reconstruct(x), *active.variance.values()]


def test_threads_give_the_bits_of_calls_one_after_the_other(digits):
    train, x = digits.train.x[:100].round(), digits.test.x[:70].round()
    calls = [(_fit, train), (_log_evidence, x), (_sampled, x)]
    work = [(call, data, seed) for seed in (1, 2) for call, data in calls][1:]
    expected = [call(data, seed) for call, data, seed in work]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda given: given[0](*given[1:]), work))
    for one, other in zip(expected, found, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


class _Asking:
    """A loader that estimates log p(x) of a model between its batches, in the same thread."""

    def __init__(self, train, model):
        self.train, self.model, self.asked = train, model, 0

    def __len__(self):
        return 2

    def __iter__(self):
        for batch in self.train.split(50):
            self.asked += self.model is not None
            if self.model is not None:
                _log_evidence(batch, 0)
            yield batch


def test_a_call_within_a_call_runs_at_once_and_changes_nothing(digits):
    train, found = digits.train.x[:100].round(), []
    for model in (None, "asked"):
        loader = _Asking(train, model)
        vae = pv.VAE.from_config(_CONFIG, event_shape=(8, 8))
        pv.fit(vae, loader, epochs=2, device="cpu")
        assert (loader.asked > 0) == (model is not None)
        found.append(list(vae.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@verb
def _hold(started, end):
    started.set()
    end.wait(20)


def _held():
    """A thread that runs a verb, and the event that lets it end."""
    started, end = threading.Event(), threading.Event()
    thread = threading.Thread(target=_hold, args=(started, end), name="behind", daemon=True)
    thread.start()
    started.wait(20)
    return thread, end


def test_who_waits_says_for_what(monkeypatch):
    monkeypatch.setattr(verbs, "_PATIENCE", 0.05)
    thread, end = _held()
    threading.Timer(0.3, end.set).start()
    words = r"evidence .* waits for _hold \(thread 'behind'\)"
    with pytest.warns(pv.PyroVAEWarning, match=words), exclusively("evidence"):
        pass
    thread.join()


def test_turn_is_given_back_after_an_error():
    @verb
    def fail():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(verb(lambda: None)).result(timeout=10)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_does_not_wait_for_threads_that_it_has_not():
    thread, end = _held()
    child = os.fork()
    if child == 0:
        free = verbs._TURNS[-1].lock.acquire(timeout=5)
        os._exit(0 if free else 1)
    end.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0


def test_steps_by_turns_in_two_threads_are_no_secret(digits):
    vae = pv.VAE.from_config(_CONFIG, event_shape=(8, 8))
    step = pv.CompiledStep(vae, pv.ELBO(), torch.optim.Adam(vae.parameters()), rows=99)
    x = digits.train.x[:9].round()
    step(x)  # of fewer rows than it is compiled for
    with ThreadPoolExecutor(1) as pool:
        pool.submit(step, x).result()
        with pytest.warns(pv.PyroVAEWarning, match="neither gives the numbers"):
            step(x)


# What draws nothing, runs no program and changes nothing that belongs to the process, or leaves
# all of that to functions that run alone.
PURE = {
    "as_source bound default_statistics delta_corrected effective_sample_size fingerprint",
    "fingerprint_of holds_run jackknife kl_weight one_hot pareto_k partially_labelled",
    "picture_rows standard_error state_of to_csv to_datatree write write_csv",
    "build_objective objective_of warn",
    "check_parameters copy_of entries_of newest set_aside",
    "coded decoded describe exposed imputed infer some_of",
    "are_pictures arguments check_figures check_method complete draw_samples hidden identity",
    "partly_labelled",
}


def _functions():
    rooms = [pv, *(getattr(pv, name) for name in pv.__all__ if inspect.ismodule(getattr(pv, name)))]
    rooms += [
        import_module(f"pyro_vae.runs.{name}") for name in ("run", "inputs", "check", "figures")
    ]
    for room in rooms:
        for name in getattr(room, "__all__", ()):
            value = getattr(room, name)
            if inspect.isfunction(value) and not inspect.isgeneratorfunction(value):
                yield name, value
    for kind in (*pv.models.MODELS.values(), pv.Masked):
        for name in ("from_config", "encode", "decode", "sample", "classify", "accuracy", "impute"):
            if hasattr(kind, name):
                yield f"{kind.__name__}.{name}", getattr(kind, name)
    yield "CompiledStep", pv.CompiledStep.__call__


def test_every_public_function_runs_alone_or_is_pure():
    pure = {name for line in PURE for name in line.split()}
    missing = {name for name, function in _functions() if not is_verb(function)} - pure
    assert not missing, f"decorate them with @verb, or list them as pure: {missing}"
    assert not {name for name, function in _functions() if is_verb(function)} & pure
