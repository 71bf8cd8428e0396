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

__all__ = ["onednn_is_faster", "products_pass", "second_factors"]


def products_pass(precision: Precision) -> Any:
    """Return the pass with which Inductor rewrites the float32 matrix products of a graph.

    Args:
        precision: ``"float32"`` gives products on the CPU to oneDNN, if that is faster there;
            ``"bfloat16"`` rounds factors and products, and leaves all else as it is.

    Returns:
        A pass for ``post_grad_custom_post_pass``, or ``None``.
    """
    if precision == "bfloat16":
        return _reduced_pass()
    return _onednn_pass() if onednn_is_faster() else None


@cache
def onednn_is_faster() -> bool:
    """Measure whether oneDNN multiplies float32 matrices faster here than torch's default.

    On processors where MKL takes a slow path, oneDNN is about twice as fast.
    """
    if not torch.backends.mkldnn.is_available():
        return False
    with seeded("measure", 0), torch.no_grad():
        a, b = torch.randn(128, 512), torch.randn(512, 512)
        try:
            default, onednn = _seconds(torch.mm, a, b), _seconds(_linear, a, b)
        except (RuntimeError, AttributeError):  # a build without the operator
            return False
    return onednn < 0.8 * default


def _seconds(fn: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> float:
    fn(a, b)
    times = []
    for _ in range(20):
        started = time.perf_counter()
        fn(a, b)
        times.append(time.perf_counter() - started)
    return min(times)


def _linear(a: Tensor, b: Tensor) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise.default(a, b.t(), None, "none", [], "")
    return product


@cache
def _operator() -> tuple[Any, Any]:
    """The product by oneDNN as an opaque operator, and its library, which must stay alive.

    Inductor's own treatment of oneDNN's operator requires constant weights.
    """
    library = torch.library.Library("pyro_vae", "DEF")
    library.define("matmul(Tensor a, Tensor b) -> Tensor")
    library.impl("matmul", _linear, "CPU")
    torch.library.register_fake(
        "pyro_vae::matmul", lambda a, b: a.new_empty(a.shape[0], b.shape[1]), lib=library
    )
    return torch.ops.pyro_vae.matmul.default, library


@cache
def _onednn_pass() -> Any:
    product, _ = _operator()

    def multiply(graph: fx.Graph, op: Any, a: fx.Node, b: fx.Node) -> fx.Node:
        if op is not torch.ops.aten.mm.default:
            return _call(graph, op, a, b)
        return _call(graph, product, a, b)

    return _pass(multiply, "onednn", device="cpu")


@cache
def _reduced_pass() -> Any:
    def multiply(graph: fx.Graph, op: Any, a: fx.Node, b: fx.Node) -> fx.Node:
        convert = torch.ops.prims.convert_element_type.default
        low = [_call(graph, convert, factor, torch.bfloat16) for factor in (a, b)]
        return _call(graph, convert, _call(graph, op, *low), torch.float32)

    return _pass(multiply, "bfloat16", device=None)


def _pass(multiply: Callable[..., fx.Node], name: str, device: str | None) -> Any:
    """Make a pass that replaces the float32 products of a graph."""
    from torch._inductor.custom_graph_pass import CustomGraphPass

    aten = torch.ops.aten
    plain = {op: op for op in (aten.mm.default, aten.bmm.default)}
    summed = {aten.addmm.default: aten.mm.default, aten.baddbmm.default: aten.bmm.default}

    class Products(CustomGraphPass):  # type: ignore[misc, unused-ignore]
        def __call__(self, graph: fx.Graph) -> None:
            for node in list(graph.nodes):
                if not _is_float32(node, device) or node.kwargs:
                    continue
                if node.target in plain:
                    with graph.inserting_before(node):
                        new = multiply(graph, plain[node.target], *node.args)
                elif node.target in summed:
                    bias, *factors = node.args
                    with graph.inserting_before(node):
                        product = multiply(graph, summed[node.target], *factors)
                        new = _call(graph, aten.add.Tensor, product, bias)
                else:
                    continue
                node.replace_all_uses_with(new)
                graph.erase_node(node)

        def uuid(self) -> Any:
            return f"pyro_vae {name} 2"

    return Products()


def second_factors(graph: fx.Graph) -> set[fx.Node]:
    """Second factors of the matrix products of a graph."""
    products = {torch.ops.aten.mm.default, torch.ops.aten.bmm.default, _operator()[0]}
    return {node.args[1] for node in graph.nodes if node.target in products}


def _call(graph: fx.Graph, op: Any, *args: Any) -> fx.Node:
    """Add a call to a graph, with the fake result that Inductor reads shapes from."""
    node = graph.call_function(op, args)
    values = [a.meta["val"] if isinstance(a, fx.Node) else a for a in args]
    fake: Any = next(v for v in values if isinstance(v, Tensor))
    with fake.fake_mode:
        node.meta["val"] = op(*values)
    return node


def _is_float32(node: fx.Node, device: str | None) -> bool:
    value = node.meta.get("val")
    if node.op != "call_function" or not isinstance(value, Tensor):
        return False
    return value.dtype == torch.float32 and device in (None, value.device.type)
