"""Two processes do what one does: gradients, evidence, checkpoints."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae.common.processes import Processes

pytestmark = pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence")

_DATA = 101  # batches of 20: the last one has a single row, and none for the second process


class Linear(nn.Module):
    """A program without noise, of which two processes must compute the same as one."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(64, 64).double()
        with torch.no_grad():
            self.net.weight.zero_()
            self.net.bias.zero_()

    def model(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(self.net(x.roll(1, -1)), 1.0).to_event(1), obs=x)

    def guide(self, x):
        pass


class Noisy(Linear):
    """The same, noting the noise that a process draws, and stopping where it is told to."""

    def __init__(self, stop_at=None):
        super().__init__()
        self.drawn, self.stop_at = [], stop_at

    def model(self, x):
        if self.training:
            self.drawn.append(torch.rand(()).item())
            if len(self.drawn) == self.stop_at:
                os.kill(os.getpid(), 15)
        super().model(x)


def vae():
    return pv.VAE.from_config(pv.Config(latent_dim=2, hidden=(8,)), event_shape=(64,))


def work(folder: Path) -> dict:
    """What is done by one process here and by two below; results by name."""
    x = pv.load("digits")[0].x.flatten(1)[:_DATA]
    options = {"batch_size": 20, "epochs": 3, "progress": False}
    results = {}
    program = Linear()
    history = pv.fit(program, x.double(), x.double()[:30], **options)
    results["weight"] = program.net.weight.sum(1).tolist()
    results["elbo"] = history.columns()["train_elbo"]
    results["valid"] = history.columns()["valid_elbo"]

    model = vae()
    evidence = pv.log_evidence(model.model, model.guide, x[:90], samples=40, chunk=8)
    results["log_px"] = evidence.log_px.tolist()

    noisy = Noisy()
    pv.fit(noisy, x.double(), out=folder / "whole", **options)
    results["drawn"] = noisy.drawn[-5:]
    noisy = Noisy(stop_at=9)  # in the middle of an epoch
    with pytest.raises(pv.Interrupted):
        pv.fit(noisy, x.double(), out=folder / "stopped", **options)
    noisy = Noisy()
    pv.fit(noisy, x.double(), out=folder / "stopped", resume=True, **options)
    results["drawn again"] = noisy.drawn[-5:]
    results["weight again"] = noisy.net.weight.sum(1).tolist()
    Processes.join().wait()
    return results


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return work(tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Results of two processes, started as a user starts them."""
    folder = tmp_path_factory.mktemp("pair")
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    done = subprocess.run(
        [*torchrun, __file__, str(folder)],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    written = [folder / f"{rank}.json" for rank in range(2)]
    assert all(path.exists() for path in written), done.stderr[-3000:]
    return folder, [json.loads(path.read_text()) for path in written]


def test_gradients_are_those_of_the_whole_batch(alone, pair):
    for results in pair[1]:
        for name in ("weight", "elbo", "valid", "weight again"):
            reference = alone[name.removesuffix(" again")]
            assert results[name] == pytest.approx(reference, rel=1e-10), name


def test_evidence_is_the_same_to_the_bit(alone, pair):
    assert pair[1][0]["log_px"] == pair[1][1]["log_px"]
    assert pair[1][0]["log_px"] == alone["log_px"]


def test_each_process_draws_noise_of_its_own(pair):
    first, second = (results["drawn"] for results in pair[1])
    assert not set(first) & set(second)


def test_a_stopped_pair_goes_on_with_the_same_noise(pair):
    for results in pair[1]:
        assert results["drawn again"] == results["drawn"]


@pytest.mark.parametrize("name", ["whole", "stopped"])
def test_one_checkpoint_that_one_process_takes_up(pair, name):
    folder, results = pair
    program = Noisy()
    x = pv.load("digits")[0].x.flatten(1)[:_DATA].double()
    options = {"batch_size": 20, "epochs": 4, "out": folder / name, "progress": False}
    history = pv.fit(program, x, resume=True, **options)
    assert history.columns()["train_elbo"][:3] == pytest.approx(results[0]["elbo"], rel=1e-10)
    assert len(history.epochs) == 4
    assert not torch.allclose(
        program.net.weight.sum(1), torch.tensor(results[0]["weight"]).double()
    )
    assert sorted(path.name for path in (folder / name).iterdir()) == [
        "checkpoint.previous.pt",
        "checkpoint.pt",
        "history.csv",
    ]


def test_rows_are_shared_without_remainder():
    rows = [range(10)[Processes(rank, 3).share] for rank in range(3)]
    assert sorted(itertools.chain(*rows)) == list(range(10))


if __name__ == "__main__":
    target = Path(sys.argv[1])
    outcome = work(target)
    (target / f"{Processes.join().rank}.json").write_text(json.dumps(outcome))
    Processes.join().wait()
