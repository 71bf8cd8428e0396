"""Passes over the graphs of compiled functions, before Inductor writes code for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

__all__ = ["add_call", "graph_pass", "is_float32", "quick_logarithms"]


def graph_pass(**passes: Callable[[fx.Graph], None]) -> Any:
    """Return several passes as one, for Inductor's ``post_grad_custom_post_pass``.

    Compiled code is kept from one process to the next by the passes' names and by what is written
    in the files they come from: changed passes compile anew.

    Args:
        passes: functions that change a graph in place, by name.
    """
    from torch._inductor.custom_graph_pass import (  # slow to import
        CustomGraphPass,
        get_hash_for_files,
    )

    files = sorted({each.__code__.co_filename for each in passes.values()})
    written = get_hash_for_files((__file__, *files))

    class GraphPass(CustomGraphPass):  # type: ignore[misc, unused-ignore]
        def __call__(self, graph: fx.Graph) -> None:
            for each in passes.values():
                each(graph)

        def uuid(self) -> Any:
            return written, *passes

    return GraphPass()


def quick_logarithms(graph: fx.Graph) -> None:
    r"""Write each float32 :math:`\log(1 + x)` on the CPU by a plain logarithm.

    With u = 1 + x rounded, :math:`\log(1 + x) = \log u + (x - (u - 1)) / u` to within 2 units in
    the last place: u - 1 is exact near u = 1, and the second term restores what rounding took.
    torch's vectorized ``log1p``, in every softplus and Bernoulli density, takes up to 25 times as
    long as its ``log`` on some processors, and on others at some times.
    """
    aten = torch.ops.aten
    for node in list(graph.nodes):
        if node.target is not aten.log1p.default or not is_float32(node, "cpu"):
            continue
        (x,) = node.args
        with graph.inserting_before(node):
            u = add_call(graph, aten.add.Tensor, x, 1.0)
            rounded = add_call(graph, aten.sub.Tensor, u, 1.0)
            log = add_call(graph, aten.log.default, u)
            lost = add_call(graph, aten.sub.Tensor, x, rounded)
            restored = add_call(
                graph, aten.add.Tensor, log, add_call(graph, aten.div.Tensor, lost, u)
            )
            exact = add_call(graph, aten.eq.Tensor, rounded, x)  # so at -1 and at infinity
            new = add_call(graph, aten.where.self, exact, log, restored)
        node.replace_all_uses_with(new)
        graph.erase_node(node)


def add_call(graph: fx.Graph, op: Any, *args: Any) -> fx.Node:
    """Add a call to a graph, with the fake result that Inductor reads shapes from."""
    node = graph.call_function(op, args)
    values = [a.meta["val"] if isinstance(a, fx.Node) else a for a in args]
    fake: Any = next(v for v in values if isinstance(v, Tensor))
    with fake.fake_mode:
        node.meta["val"] = op(*values)
    return node


def is_float32(node: fx.Node, device: str | None) -> bool:
    """Whether a node computes a float32 tensor, on a device of this type if one is named."""
    value = node.meta.get("val")
    if node.op != "call_function" or not isinstance(value, Tensor):
        return False
    return value.dtype == torch.float32 and device in (None, value.device.type)
