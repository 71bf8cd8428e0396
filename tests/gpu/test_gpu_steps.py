"""Training steps on a real GPU: the CPU's numbers, no wait, no lost precision, few kernels."""

import pyro
import pytest
import torch
from devices.twins import EVERY, arguments, build, label
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from pyro_vae.compiled import CompiledGradients, Gradients
from pyro_vae.objectives import objective_of

pytestmark = pytest.mark.gpu


class HostNoise(TorchDispatchMode):
    """Random numbers of the GPU come from the CPU's generator, so that both draw alike."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        place = [a.device for a in args if isinstance(a, torch.Tensor)]
        place = torch.device(kwargs.get("device") or (place[0] if place else "cpu"))
        if torch.Tag.nondeterministic_seeded not in func.tags or place.type == "cpu":
            return func(*args, **kwargs)
        if kwargs.get("device") is not None:
            kwargs["device"] = torch.device("cpu")
        host = tree_map_only(torch.Tensor, lambda t: t.cpu(), args)
        out = func(*host, **kwargs)
        if func._schema.name.endswith("_"):
            args[0].copy_(host[0])
            return args[0]
        return tree_map_only(torch.Tensor, lambda t: t.to(place), out)


def _step(digits, device, dtype, options):
    config, program = build(digits, dtype=dtype, **options)
    x, *rest = arguments(digits, 32, **options)
    batch = (x.to(device, dtype), *(a.to(device) for a in rest))
    gradients = Gradients(program.to(device).train(), objective_of(config))
    with pyro.validation_enabled(False), HostNoise():
        gradients(*batch)
        torch.manual_seed(1)
        elbo = gradients(*batch, kl_weight=0.7)
    return elbo.cpu(), [p.grad.cpu() for p in program.parameters() if p.grad is not None]


@pytest.mark.parametrize("options", EVERY, ids=label)
def test_step_in_float64(digits, options):
    expected, slopes = _step(digits, "cpu", torch.float64, options)
    got, found = _step(digits, "cuda", torch.float64, options)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-8)
    for a, b in zip(found, slopes, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("options", EVERY, ids=label)
def test_step_in_float32(digits, options):
    expected, slopes = _step(digits, "cpu", torch.float32, options)
    got, found = _step(digits, "cuda", torch.float32, options)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-3)
    for a, b in zip(found, slopes, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3 * (1e-3 + b.abs().max().item()))


def _stepping(digits, options, *, compiled=False, rows=64):
    config, program = build(digits, **options)
    program.to("cuda").train()
    batch = tuple(a.to("cuda") for a in arguments(digits, rows, **options))
    kind = CompiledGradients if compiled else Gradients
    gradients = kind(program, objective_of(config))
    optimizer = torch.optim.Adam(program.parameters(), lr=1e-3, fused=True)

    def step():
        with pyro.validation_enabled(False):
            elbo = gradients(*batch)
        optimizer.step()
        return elbo

    for _ in range(3):
        step()
    torch.cuda.synchronize()
    return step


def _without_waiting(step, steps=10):
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(steps):
            step()
    finally:
        torch.cuda.set_sync_debug_mode(mode)


@pytest.mark.parametrize("options", EVERY, ids=label)
def test_a_step_does_not_wait(digits, options):
    _without_waiting(_stepping(digits, options))


@pytest.mark.parametrize("options", [{}, {"prior": "mixture"}, {"posterior": "full"}], ids=label)
def test_a_compiled_step_does_not_wait(digits, options):
    _without_waiting(_stepping(digits, options, compiled=True))


def test_nothing_in_a_step_synchronizes(digits):
    """What the debug mode does not know of: calls within libraries."""
    step = _stepping(digits, {})
    with torch.profiler.profile(activities=list(torch.profiler.supported_activities())) as seen:
        for _ in range(5):
            step()
    names = [event.name for event in seen.events()]
    assert not [name for name in names if "StreamSynchronize" in name or name == "aten::item"]


def test_a_compiled_step_is_a_few_kernels(digits):
    step = _stepping(digits, {"hidden": (400,), "latent_dim": 50}, compiled=True, rows=256)
    with torch.profiler.profile(activities=list(torch.profiler.supported_activities())) as seen:
        step()
        torch.cuda.synchronize()
    kernels = [e for e in seen.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    assert 0 < len(kernels) <= 50, [kernel.name for kernel in kernels]


@pytest.mark.parametrize(
    ("precision", "near"), [("float32", 1e-4), ("bfloat16", 2e-2)], ids=["float32", "bfloat16"]
)
@pytest.mark.parametrize("options", [{}, {"prior": "vamp"}, {"objective": "iwae", "particles": 5}])
def test_a_compiled_step_is_the_plain_one(digits, options, precision, near):
    config, program = build(digits, **options)
    program.to("cuda")
    x = digits.train.x[:64].to("cuda")
    compiled = CompiledGradients(program, objective_of(config), precision=precision)
    found = []
    for gradients in (compiled, Gradients(program, objective_of(config))):
        with pyro.validation_enabled(False):
            gradients(x)
            torch.manual_seed(2)
            elbo = gradients(x, kl_weight=0.5)
        slopes = [p.grad.flatten() for p in program.parameters() if p.grad is not None]
        found.append((elbo, torch.cat(slopes)))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=near, atol=near)
    distance = (found[0][1] - found[1][1]).norm() / found[1][1].norm()
    assert distance < 10 * near


def test_convolutions_of_float32_keep_their_bits(digits):
    """TF32 would leave some three digits of the encoder's means."""
    _, program = build(digits, network="conv")
    program.to("cuda")
    x = digits.train.x[:200]
    found = program.encode(x)
    exact = program.double().encode(x.double())
    assert (found - exact).abs().max() < 1e-5 * exact.abs().max()
