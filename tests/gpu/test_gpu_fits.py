"""fit on a real GPU: resuming, checkpoints, generators, wrong data, several processes, speed."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from devices.twins import Stopping, Stored, arguments, build

import pyro_vae as pv

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence")]


def _parameters(program):
    return [p.detach().cpu() for p in program.parameters()]


def _second_gpu():
    return pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU: no second one")


@pytest.mark.parametrize("options", [{}, {"prior": "mixture"}, {"posterior": "full"}], ids=str)
def test_a_run_taken_up_again_ends_at_the_same_bits(digits, tmp_path, options):
    def run(name, *parts):
        for place, epochs in enumerate(parts):
            program = build(digits, **options)[1]
            out = tmp_path / name
            data = digits.train.head(300)
            pv.fit(program, data, epochs=epochs, device="cuda", out=out, resume=place > 0)
        return _parameters(program)

    assert all(map(torch.equal, run("whole", 3), run("parts", 1, 3)))


def test_a_run_stopped_at_a_step_goes_on_with_its_random_numbers(digits, tmp_path):
    def run(out, objective, **options):
        program = build(digits)[1]
        data = digits.train.head(300)
        pv.fit(program, data, objective=objective, epochs=2, device="cuda", out=out, **options)
        return _parameters(program)

    whole = run(tmp_path / "whole", pv.ELBO())
    with pytest.raises(pv.Interrupted):
        run(tmp_path / "parts", Stopping(step=4))
    assert all(map(torch.equal, whole, run(tmp_path / "parts", pv.ELBO(), resume=True)))


def test_convolutions_end_at_the_same_bits_by_deterministic_algorithms(digits, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    try:
        found = []
        for _ in range(2):
            program = build(digits, network="conv")[1]
            pv.fit(program, digits.train.head(200), epochs=2, device="cuda")
            found.append(_parameters(program))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(map(torch.equal, *found))


def test_a_checkpoint_of_one_device_goes_on_on_the_other(digits, tmp_path):
    for first, second in (("cuda", "cpu"), ("cpu", "cuda")):
        out = tmp_path / first
        config, program = build(digits)
        data = digits.train.head(200)
        pv.fit(program, data, epochs=1, device=first, out=out, config=config)
        there = pv.load_run(out, device=second).vae
        assert there.device.type == second
        assert all(map(torch.equal, _parameters(program), _parameters(there)))
        program = build(digits)[1]
        history = pv.fit(program, data, epochs=2, device=second, out=out, resume=True)
        assert len(history.epochs) == 2


@pytest.mark.parametrize("device", ["cuda", pytest.param("cuda:1", marks=_second_gpu())])
def test_the_callers_random_numbers_stay(digits, device):
    program = build(digits)[1].to(device)
    torch.rand(3, device=device)
    before = torch.cuda.get_rng_state(device)
    pv.fit(program, digits.train.head(100), epochs=1, device=device)
    found = [
        pv.log_evidence(program.model, program.guide, digits.test.x[:5], samples=32).log_px
        for _ in range(2)
    ]
    assert torch.equal(*found)
    assert torch.equal(torch.cuda.get_rng_state(device), before)


def test_the_store_of_pyro_follows(digits):
    import pyro

    x = digits.train.x[:60].flatten(1)
    program = pv.as_program(Stored.model, Stored.guide, x)
    pv.fit(program, x, epochs=3, learning_rate=0.1, device="cuda")
    assert pyro.param("loc").is_cuda
    assert torch.equal(pyro.param("loc"), program.stored[program.places["loc"]])


@pytest.mark.parametrize("program", ["conditional", "semi-supervised"])
def test_wrong_labels_are_a_message_and_the_gpu_goes_on(digits, program):
    config, model = build(digits, program=program)
    objective = pv.objectives.objective_of(config)
    x, y = arguments(digits, 40, program=program)
    y[7] = 10
    with pytest.raises(ValueError, match="got 10 in row 7"):
        pv.fit(model, (x, y), objective=objective, epochs=1, device="cuda")
    y[7] = 3
    pv.fit(model, (x, y), objective=objective, epochs=1, device="cuda")


def test_a_loss_that_is_not_finite_is_a_message_and_the_gpu_goes_on(digits):
    class Poisoned(pv.ELBO):
        def terms(self, *args, **kwargs):
            loss, elbo = super().terms(*args, **kwargs)
            return loss * torch.nan, elbo * torch.nan

    program = build(digits)[1]
    with pytest.raises(pv.NonFiniteLoss, match="step 1"):
        pv.fit(program, digits.train, objective=Poisoned(), epochs=1, device="cuda")
    pv.fit(build(digits)[1], digits.train.head(100), epochs=1, device="cuda")


_WORK = """
import sys, torch, pyro, pyro.distributions as dist, pyro_vae as pv
from torch import nn
class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(8, 8).double()
        with torch.no_grad():
            self.net.weight.zero_(), self.net.bias.zero_()
    def model(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(self.net(x.roll(1, -1)), 1.0).to_event(1), obs=x)
    def guide(self, x):
        pass
x = torch.linspace(-1, 1, 8 * 101).reshape(101, 8).sin().double()
program = Linear()
pv.fit(program, x, batch_size=20, epochs=3, device="cuda", progress=False)
torch.save(program.net.weight.detach().cpu(), sys.argv[1])
"""


@pytest.mark.parametrize("processes", [2, pytest.param(torch.cuda.device_count() + 1, id="more")])
def test_processes_give_the_gradients_of_one(tmp_path, processes):
    """Also more of them than GPUs: they share these, and NCCL is not asked."""
    script, found = tmp_path / "work.py", []
    script.write_text(_WORK)
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    for number in (1, processes):
        out = tmp_path / f"{number}.pt"
        runner = ["-m", "torch.distributed.run", "--nproc-per-node", str(number)]
        command = [sys.executable, *runner, str(script), str(out)]
        subprocess.run(command, check=True, env=environment, timeout=200)
        found.append(torch.load(out))
    assert found[0].abs().max() > 1e-3
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)


def test_a_compiled_run_is_no_slower(digits):
    seconds = {}
    data = digits.train.x.repeat(20, 1, 1)
    for compiled in (False, True):
        program = build(digits, hidden=(200, 200))[1]
        options = {"device": "cuda", "batch_size": 256, "compiled": compiled}
        pv.fit(program, data, epochs=1, **options)
        start = time.perf_counter()
        pv.fit(program, data, epochs=4, **options)
        torch.cuda.synchronize()
        seconds[compiled] = time.perf_counter() - start
    assert seconds[True] < 1.2 * seconds[False] + 10  # it is compiled within
