"""The pretended GPU refuses what a GPU refuses, counts waits, and leaves nothing behind."""

import pytest
import torch
from devices import pretend as module
from devices.pretend import pretend


def test_tensors_say_where_they_lie_and_follow():
    with pretend():
        x = torch.ones(3, device="cuda")
        layer = torch.nn.Linear(3, 2).to("cuda:1")
        assert x.device == torch.device("cuda", 0)
        assert x[1:].view(2, 1).mT.device == x.device
        assert (2 * x).exp().device == x.device
        assert layer.weight.device == torch.device("cuda", 1)
        layer(x.to("cuda:1")).sum().backward()
        assert layer.weight.grad.device == torch.device("cuda", 1)
        assert type(x) is torch.Tensor
        assert x.is_cuda
    assert not module._tags


@pytest.mark.parametrize(
    "mix",
    [
        lambda x: x + torch.ones(3),
        lambda x: x.to("cuda:1") + x,
        lambda x: torch.cat([x, torch.ones(3)]),
        lambda x: torch.nn.Linear(3, 2)(x),
        lambda x: torch.zeros(3).add_(x),
        lambda x: torch.zeros(()).add_(x.sum()),
        lambda x: torch.zeros(3).masked_fill(x > 0, 1.0),
        lambda x: x.masked_fill(torch.tensor(True), 1.0),
        lambda x: torch.zeros(3)[x > 0],
        lambda x: x.index_select(0, torch.arange(2)),
        lambda x: torch.where(x > 0, x, torch.zeros(3)),
        lambda x: torch.rand(3, device="cuda", generator=torch.Generator()),
        lambda x: torch.ones(3, device="cuda:2"),
    ],
)
def test_devices_do_not_mix(mix):
    with pretend(), pytest.raises(RuntimeError, match="device"):
        mix(torch.ones(3, device="cuda"))


def test_arrays_are_of_the_host():
    with pretend(), pytest.raises(TypeError, match="numpy"):
        torch.ones(3, device="cuda").numpy()


@pytest.mark.parametrize(
    ("waits", "compute"),
    [
        (0, lambda x: (2 * x + 1).exp().sum().clamp(0, 1)),
        (0, lambda x: torch.where(x > 0, x, 0.0)),
        (0, lambda x: x + torch.tensor(2.0)),
        (0, lambda x: x.masked_fill(x > 0, 1.0)),
        (0, lambda x: torch.arange(3).to("cuda", non_blocking=True)),
        (1, lambda x: torch.arange(3).to("cuda")),
        (1, lambda x: torch.tensor(2.0, device="cuda")),
        (1, lambda x: torch.where(x > 0, x, torch.tensor(2.0))),
        (1, lambda x: x.sum().item()),
        (1, lambda x: bool(x.any())),
        (1, lambda x: x.cpu()),
        (1, lambda x: x.tolist()),
        (1, lambda x: x[x > 0]),
        (1, lambda x: x.nonzero()),
        (1, lambda x: torch.linalg.cholesky(x.diag())),
        (0, lambda x: torch.linalg.cholesky_ex(x.diag())),
        (1, lambda x: torch.multinomial(x, 1, True)),
    ],
)
def test_waits_are_counted(waits, compute):
    with pretend() as gpu:
        x = torch.ones(3, device="cuda")
        with gpu.counting() as found:
            compute(x)
    assert sum(found.values()) == waits, found


def test_each_gpu_has_a_generator_that_draws_as_the_cpu_does():
    torch.manual_seed(3)
    expected = torch.randn(4)
    with pretend():
        torch.cuda.manual_seed_all(3)
        assert torch.equal(torch.randn(4, device="cuda:1").cpu(), expected)
        assert torch.equal(torch.randn(4, device="cuda:0").cpu(), expected)
        state = torch.cuda.get_rng_state("cuda:1")
        again = torch.rand(2, device="cuda:1").cpu()
        torch.cuda.set_rng_state(state, "cuda:1")
        assert torch.equal(torch.rand(2, device="cuda:1").cpu(), again)


def test_nothing_is_left_behind():
    before = [torch.Tensor.device, torch.Tensor.to, torch.tensor, torch.cuda.is_available]
    state = torch.get_rng_state()
    with pretend():
        torch.rand(3, device="cuda")
    after = [torch.Tensor.device, torch.Tensor.to, torch.tensor, torch.cuda.is_available]
    assert all(a is b for a, b in zip(before, after, strict=True))
    assert torch.equal(torch.get_rng_state(), state)
