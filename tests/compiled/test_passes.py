"""Passes over compiled graphs: elementary functions and matrix products."""

import math

import pytest
import torch
from torch import nn

from pyro_vae.compiled import functions, products
from pyro_vae.compiled.functions import compile_call
from pyro_vae.compiled.passes import graph_pass


def _compiled(function, x):
    return compile_call(function, precision="float32", on_cpu=True)(x)


def _ulps(result, exact):
    """Distance in units in the last place of the exact value's float32."""
    rounded = exact.float().abs()
    unit = (torch.nextafter(rounded, torch.tensor(math.inf)) - rounded).double()
    return (result.double() - exact).abs() / unit


def _tiny_to_huge(most=38):
    return torch.logspace(-37, most, 200_001)


@pytest.mark.parametrize(
    "x",
    [
        _tiny_to_huge(),
        -torch.logspace(-37, -1e-4, 100_001),
        -1 + torch.logspace(-7.2, 0, 100_001),
    ],
    ids=["positive", "negative", "near -1"],
)
def test_log1p_is_exact_over_its_range(x):
    exact = torch.log1p(x.double())
    own = _ulps(torch.log1p(x), exact).max()
    assert _ulps(_compiled(torch.log1p, x), exact).max() <= max(2.0, own)


def test_log1p_at_its_edges():
    x = torch.tensor([0.0, -0.0, -1.0, math.inf, -2.0, math.nan])
    result = _compiled(torch.log1p, x)
    torch.testing.assert_close(result, torch.log1p(x), rtol=0, atol=0, equal_nan=True)
    assert torch.signbit(result[:2]).tolist() == [False, False]  # adding 1 loses the sign of zero


def test_log1p_in_float64_is_torchs():
    x = torch.linspace(-0.9, 5, 1001, dtype=torch.float64)
    torch.testing.assert_close(_compiled(torch.log1p, x), torch.log1p(x), rtol=1e-15, atol=1e-18)


_X = torch.cat([-_tiny_to_huge(1.93).flip(0), torch.zeros(1), _tiny_to_huge(1.93)])


def _derivative(x):
    x = x.detach().requires_grad_()
    (first,) = torch.autograd.grad(nn.functional.softplus(x).sum(), x, create_graph=True)
    return first


def _second_derivative(x):
    x = x.detach().requires_grad_()
    (first,) = torch.autograd.grad(nn.functional.softplus(x).sum(), x, create_graph=True)
    return torch.autograd.grad(first.sum(), x)[0].detach()


@pytest.mark.parametrize(
    ("function", "exact"),
    [
        (nn.functional.softplus, lambda x: x.clamp_min(0) + torch.log1p((-x.abs()).exp())),
        (nn.functional.logsigmoid, lambda x: x.clamp_max(0) - torch.log1p((-x.abs()).exp())),
        (lambda x: _derivative(x).detach(), torch.sigmoid),
        (_second_derivative, lambda x: torch.sigmoid(x) * torch.sigmoid(-x)),
    ],
    ids=["softplus", "log sigmoid", "derivative", "second derivative"],
)
def test_softplus_is_as_exact_as_torchs(function, exact):
    """Against float64: 2 units in the last place, or the error of torch's own, if that is larger.

    torch takes x for softplus(x) beyond 20, so that its derivatives there are 1 and 0.
    """
    reference = exact(_X.double())
    seen = reference.abs() > 1e-37  # below, float32 has no full precision
    plain, compiled = function(_X.clone()), _compiled(function, _X)
    own, found = (_ulps(result, reference)[seen] for result in (plain, compiled))
    spacing = torch.logspace(-7, 2, 4)  # in bands, so that a large error hides no other
    for low, high in zip([0.0, *spacing.tolist()], [*spacing.tolist(), math.inf], strict=True):
        band = (_X.abs() > low)[seen] & (_X.abs() <= high)[seen]
        if band.any():
            assert found[band].max() <= max(2.0, 1.01 * own[band].max()), (low, high)


@pytest.mark.parametrize("faster", [True, False])
@pytest.mark.parametrize("transposed", [(False, False), (False, True), (True, False)])
def test_products_by_either_library(faster, transposed, monkeypatch):
    """Whatever a machine measures, both libraries give the product, with its bias."""
    asked = []

    def chosen(a, b):
        asked.append((a, b))
        return faster

    monkeypatch.setattr(products, "onednn_is_faster", chosen)
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(shape, generator=generator) for shape in ((24, 24), (24, 24)))
    a, b = (m.t() if t else m for m, t in zip((a, b), transposed, strict=True))
    with torch._inductor.utils.fresh_cache():  # where the pass runs, whatever ran before
        call = compile_call(lambda a, b: torch.addmm(b[0], a, b), precision="float32", on_cpu=True)
        result = call(a, b)
    exact = (a.double() @ b.double() + b[0].double()).float()
    torch.testing.assert_close(result, exact, rtol=1e-5, atol=1e-5)
    assert len(asked) == 1


@pytest.mark.parametrize("slower", [True, False])
def test_rounded_products_on_any_processor(slower, monkeypatch):
    """Factors and product have 8 bits, sums those of float32, by whichever instructions."""
    monkeypatch.setattr(products, "bfloat16_is_slower", lambda a, b: slower)
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(3, *shape, generator=generator) for shape in ((5, 300), (300, 7)))
    with torch._inductor.utils.fresh_cache():
        both = compile_call(lambda a, b: (a @ b, a[0] @ b[0]), precision="bfloat16", on_cpu=True)
        stacks, matrices = both(a, b)
    exact = a.bfloat16().double() @ b.bfloat16().double()
    for result, reference in ((stacks, exact), (matrices, exact[0])):
        assert torch.equal(result, result.bfloat16().float())
        assert (result - reference).abs().max() < 2**-8 * reference.abs().max()
    assert not torch.allclose(exact.float(), a @ b, rtol=0, atol=1e-3)  # what is not rounded


def test_slow_bfloat16_is_measured(monkeypatch):
    layout = ((64, 32), (32, 1)), ((32, 16), (16, 1))
    for seconds, expected in (([1.0, 0.5], False), ([0.5, 1.0], True)):
        monkeypatch.setattr(products, "_seconds", lambda ways, factors, s=seconds: s)
        assert products.bfloat16_is_slower.__wrapped__(*layout) is expected


def test_the_faster_library_is_measured(monkeypatch):
    """The choice follows the clock and nothing else: no name of a processor, no shape."""
    layout = ((64, 32), (32, 1)), ((32, 16), (16, 1))
    for seconds, expected in (([1.0, 0.5], True), ([1.0, 0.95], False), ([0.5, 1.0], False)):
        monkeypatch.setattr(products, "_seconds", lambda ways, factors, s=seconds: s)
        assert products.onednn_is_faster.__wrapped__(*layout) is (
            expected and torch.backends.mkldnn.is_available()
        )


def test_any_layout_is_measured():
    """Transposed, expanded (rows that share their memory), of one row."""
    for layout in (((4, 3), (1, 4)), ((4, 3), (0, 1)), ((1, 3), (3, 1))):
        assert isinstance(products.onednn_is_faster(layout, ((3, 2), (2, 1))), bool)


def test_measuring_returns_a_time_for_each_way():
    state = torch.get_rng_state()
    times = products._seconds((torch.mm, products._linear), [torch.ones(8, 8), torch.ones(8, 8)])
    assert len(times) == 2
    assert all(0 < seconds < 1 for seconds in times)
    assert torch.equal(torch.get_rng_state(), state)


def test_changed_passes_compile_anew(tmp_path):
    """The key of compiled code holds the passes' names and what is written in their files."""

    def key(text, name="one"):
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.py"  # torch reads a file once
        file.write_text(text)
        space = {}
        exec(compile(text, str(file), "exec"), space)
        return graph_pass(**{name: space["change"]}).uuid()

    first = key("def change(graph): pass")
    assert key("def change(graph): pass") == first
    assert key("def change(graph): return None") != first
    assert key("def change(graph): pass", name="two") != first


def test_a_compiler_without_the_instructions(monkeypatch):
    """Where the C++ compiler does not know the processor's instructions, Inductor probes them."""
    from torch._inductor.exc import CppCompileError

    asked, forgotten = [], []

    def compiled(call, options):
        asked.append(options.get("cpp.vec_isa_ok"))

        def run(*tensors):
            if options.get("cpp.vec_isa_ok"):
                raise RuntimeError("backend") from CppCompileError(["g++"], "unknown -mamx-tile")
            return call(*tensors)

        return run

    monkeypatch.setattr(functions, "_compiled", compiled)
    monkeypatch.setattr(functions, "_forget_instructions", lambda: forgotten.append(True))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    call = compile_call(torch.neg, on_cpu=True)
    for _ in range(2):
        assert call(torch.ones(2)).tolist() == [-1, -1]
    assert (asked, forgotten) == ([True, None], [True])


def test_errors_of_a_program_are_not_the_compilers(monkeypatch):
    def compiled(call, options):
        return lambda *tensors: call(*tensors)

    def fail(x):
        raise ZeroDivisionError("the program's own")

    monkeypatch.setattr(functions, "_compiled", compiled)
    call = compile_call(fail, on_cpu=True)
    with pytest.raises(ZeroDivisionError):
        call(torch.ones(2))
