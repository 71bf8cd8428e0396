"""Matrix products of compiled functions: by which library, and in which precision."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx

from ..common.options import Precision
from ..common.seeding import seeded
from .passes import add_call, is_float32

__all__ = ["products_pass", "second_factors"]

_CLEARLY = 0.9  # of the other library's time: choices are not to change from run to run
_MOST_SECONDS = 0.02  # of measuring one product by one library


def products_pass(precision: Precision) -> Callable[[fx.Graph], None]:
    """Return the pass that rewrites the float32 matrix products of a graph.

    Args:
        precision: ``"float32"`` gives each product on the CPU to oneDNN, if that is measured to be
            faster at its sizes; ``"bfloat16"`` rounds factors and products, and leaves all else as
            it is. Where this CPU multiplies rounded factors faster in float32, that is done: the
            sums are of float32 either way.

    Returns:
        Function that changes a graph in place.
    """
    multiply, device = _MULTIPLY[precision]
    _operators()  # which compiled code from the cache calls, and no pass
    aten = torch.ops.aten
    plain = {op: op for op in (aten.mm.default, aten.bmm.default)}
    summed = {aten.addmm.default: aten.mm.default, aten.baddbmm.default: aten.bmm.default}

    def products(graph: fx.Graph) -> None:
        for node in list(graph.nodes):
            if not is_float32(node, device) or node.kwargs:
                continue
            if node.target in plain:
                with graph.inserting_before(node):
                    new = multiply(graph, plain[node.target], *node.args)
            elif node.target in summed:
                bias, *factors = node.args
                with graph.inserting_before(node):
                    product = multiply(graph, summed[node.target], *factors)
                    new = add_call(graph, aten.add.Tensor, product, bias)
            else:
                continue
            node.replace_all_uses_with(new)
            graph.erase_node(node)

    return products


def second_factors(graph: fx.Graph) -> set[fx.Node]:
    """Second factors of the matrix products of a graph."""
    products = {torch.ops.aten.mm.default, torch.ops.aten.bmm.default, *_operators()[:2]}
    return {node.args[1] for node in graph.nodes if node.target in products}


def _by_the_faster(graph: fx.Graph, op: Any, a: fx.Node, b: fx.Node) -> fx.Node:
    if op is torch.ops.aten.mm.default and onednn_is_faster(*map(_layout, (a, b))):
        op = _operators()[0]
    return add_call(graph, op, a, b)


def _rounded(graph: fx.Graph, op: Any, a: fx.Node, b: fx.Node) -> fx.Node:
    if a.meta["val"].device.type == "cpu" and bfloat16_is_slower(*map(_layout, (a, b))):
        return add_call(graph, _operators()[1], a, b)
    convert = torch.ops.prims.convert_element_type.default
    low = [add_call(graph, convert, factor, torch.bfloat16) for factor in (a, b)]
    return add_call(graph, convert, add_call(graph, op, *low), torch.float32)


# How a product is made, and on which type of device if not on all.
_MULTIPLY: dict[Precision, tuple[Callable[..., fx.Node], str | None]] = {
    "float32": (_by_the_faster, "cpu"),
    "bfloat16": (_rounded, None),
}


def _layout(factor: fx.Node) -> tuple[tuple[int, ...], tuple[int, ...]]:
    value = factor.meta["val"]
    return tuple(value.shape), tuple(value.stride())


@cache
def onednn_is_faster(a: tuple[Any, Any], b: tuple[Any, Any]) -> bool:
    """Measure whether oneDNN multiplies two matrices faster here than torch's default.

    On processors where MKL takes a slow path, oneDNN is about twice as fast.

    Args:
        a: shape and strides of the first factor.
        b: of the second.
    """
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        default, onednn = _measured((torch.mm, _linear), a, b)
    except (RuntimeError, AttributeError):  # a build without the operator
        return False
    return onednn < _CLEARLY * default


@cache
def bfloat16_is_slower(a: tuple[Any, Any], b: tuple[Any, Any]) -> bool:
    """Measure whether matrices of bfloat16 take longer to multiply here than those of float32.

    On processors without instructions for bfloat16 they take up to fifteen times as long.
    Arguments are those of :func:`onednn_is_faster`, of matrices or stacks of them.
    """

    def low(a: Tensor, b: Tensor) -> Tensor:
        return torch.matmul(a.bfloat16(), b.bfloat16())

    plain, reduced = _measured((torch.matmul, low), a, b)
    return reduced > plain


def _measured(ways: tuple[Callable[..., Tensor], ...], a: Any, b: Any) -> list[float]:
    """Least seconds of each way to multiply random matrices of these layouts."""
    from torch._subclasses.fake_tensor import unset_fake_temporarily

    with unset_fake_temporarily(), seeded("measure", 0), torch.no_grad():
        return _seconds(ways, [_with_layout(*layout) for layout in (a, b)])


def _with_layout(shape: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
    """Random numbers in this layout, in which rows may share their memory."""
    last = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    return torch.randn(1 + last).as_strided(shape, strides)


def _seconds(ways: tuple[Callable[..., Tensor], ...], factors: list[Tensor]) -> list[float]:
    """Least seconds of each way to multiply, which take turns."""
    times: list[list[float]] = [[] for _ in ways]
    for turn in range(21):
        for fn, taken in zip(ways, times, strict=True):
            started = time.perf_counter()
            fn(*factors)
            taken.append(time.perf_counter() - started)
        if turn > 2 and sum(map(sum, times)) > len(ways) * _MOST_SECONDS:
            break
    return [min(taken[1:]) for taken in times]


def _linear(a: Tensor, b: Tensor) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise.default(a, b.t(), None, "none", [], "")
    return product


def _by_float32(a: Tensor, b: Tensor) -> Tensor:
    """What a product of bfloat16 is, with its sums in float32."""
    return torch.matmul(a.bfloat16().float(), b.bfloat16().float()).bfloat16().float()


@cache
def _operators() -> tuple[Any, Any, Any]:
    """Products as opaque operators: by oneDNN, rounded; and their library, which must stay alive.

    Inductor's own treatment of oneDNN's operator requires constant weights, and it leaves out
    conversions to bfloat16 and back.
    """
    library = torch.library.Library("pyro_vae", "DEF")
    for name, function in (("matmul", _linear), ("rounded_matmul", _by_float32)):
        library.define(f"{name}(Tensor a, Tensor b) -> Tensor")
        library.impl(name, function, "CPU")
        torch.library.register_fake(
            f"pyro_vae::{name}",
            lambda a, b: a.new_empty(*a.shape[:-1], b.shape[-1]),
            lib=library,
        )
    own = torch.ops.pyro_vae
    return own.matmul.default, own.rounded_matmul.default, library
