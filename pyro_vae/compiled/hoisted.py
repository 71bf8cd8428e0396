"""Compiled functions that are called many times with some arguments unchanged."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from ..common.options import Precision
from .functions import as_function, compile_call, state_of
from .products import products_pass, second_factors

__all__ = ["HoistedFunction"]


class HoistedFunction:
    """The call of a module in two parts, the first of which does not change from call to call.

    What depends only on the fixed arguments and the module's state (an encoder's means, weights in
    lower precision or in the memory layout of their products) is computed by :meth:`prepare`; the
    rest, which depends on the other arguments or on random numbers, is compiled. ::

        function = HoistedFunction(module, moving=(z,), fixed=(x,))
        prepared = function.prepare(x)
        for z in draws:
            function(prepared, z)  # module(z, x)

    Nothing in the call may depend on values of tensors, or change a given tensor in place. It is
    compiled for the shapes of these arguments, and is only to be called with those.

    Args:
        module: takes tensors, the moving ones first, and returns tensors.
        moving: arguments that change.
        fixed: arguments that stay.
        precision: of matrix products.

    Raises:
        RuntimeError: the call depends on values of tensors, or changes a given one in place.
        Exception: any other error of the call or the compiler.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        moving: tuple[Tensor, ...],
        fixed: tuple[Tensor, ...],
        precision: Precision = "float32",
    ) -> None:
        self.state = state_of(module)
        tensors = (*moving, *fixed, *self.state)
        traced = _traced(module, tensors)
        products_pass(precision)(traced.graph)
        self._first, second = _split(traced, len(moving))
        on_cpu = all(tensor.device.type == "cpu" for tensor in tensors)
        self._second = compile_call(second, on_cpu=on_cpu)

    def prepare(self, *fixed: Tensor) -> list[Tensor]:
        """Compute what depends only on the fixed arguments and the module's state."""
        with torch.no_grad():
            prepared: list[Tensor] = self._first(*fixed, *self.state)
        return prepared

    def __call__(self, prepared: list[Tensor], *moving: Tensor) -> Any:
        """Compute the rest and return what the module does, detached."""
        with torch.no_grad():
            return self._second(*moving, *prepared)


def _traced(module: nn.Module, tensors: tuple[Tensor, ...]) -> fx.GraphModule:
    """Record the operations of a module's call on its arguments and state, computing nothing."""
    from torch._subclasses.fake_tensor import (
        DataDependentOutputException,
        DynamicOutputShapeException,
        FakeTensorMode,
    )
    from torch.fx.experimental.proxy_tensor import make_fx

    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode, torch.no_grad():
        fakes = [mode.from_tensor(tensor) for tensor in tensors]
        try:
            traced = make_fx(torch.func.functionalize(as_function(module)))(*fakes)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise RuntimeError(f"the program depends on values of tensors ({error.func})") from None
    for node in traced.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable:
            raise RuntimeError(f"a tensor given to the program is changed in place ({node.target})")
    return traced


def _split(traced: fx.GraphModule, number: int) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Split a graph into what depends on neither its first arguments nor chance, and the rest."""
    depending = _depending(traced.graph, number)
    moving = depending | _large(traced.graph, depending)
    for node in second_factors(traced.graph) - moving:  # products read them row by row
        with traced.graph.inserting_after(node):
            packed = traced.graph.call_function(
                torch.ops.aten.clone.default, (node,), {"memory_format": torch.contiguous_format}
            )
        node.replace_all_uses_with(packed, lambda user: user in moving)
    nodes = list(traced.graph.nodes)
    (output,) = (node for node in nodes if node.op == "output")
    moving.add(output)
    border = [n for n in nodes if n not in moving and any(user in moving for user in n.users)]

    first, second = fx.Graph(), fx.Graph()
    known: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        if node not in depending and node is not output:
            known[node] = first.node_copy(node, known.__getitem__)
    first.output([known[node] for node in border])
    first.eliminate_dead_code()  # large results that no other prepared result needs

    arguments = [node for node in nodes if node.op == "placeholder" and node in moving]
    known = {node: second.placeholder(node.name) for node in (*arguments, *border)}
    for node in nodes:
        if node in moving and node.op != "placeholder":
            known[node] = second.node_copy(node, known.__getitem__)
    return fx.GraphModule(traced, first), fx.GraphModule(traced, second)


def _depending(graph: fx.Graph, number: int) -> set[fx.Node]:
    """Nodes that depend on the first ``number`` arguments of a graph, or on random numbers."""
    arguments = [node for node in graph.nodes if node.op == "placeholder"]
    moving = set(arguments[:number])
    for node in graph.nodes:
        random = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        if node.op != "output" and (random or not moving.isdisjoint(node.all_input_nodes)):
            moving.add(node)
    return moving


def _large(graph: fx.Graph, moving: set[fx.Node]) -> set[fx.Node]:
    """Elementwise results that take more memory than the fixed arguments and the state together.

    Reading them back in every call would cost more than computing them again.
    """
    arguments = [node for node in graph.nodes if node.op == "placeholder" and node not in moving]
    most = sum(_bytes(node) for node in arguments)
    large: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        pointwise = torch.Tag.pointwise in getattr(node.target, "tags", ())
        used = any(user in moving or user in large for user in node.users)
        if node not in moving and pointwise and used and _bytes(node) > most:
            large.add(node)
    return large


def _bytes(node: fx.Node) -> int:
    value = node.meta["val"]
    return value.untyped_storage().nbytes() if isinstance(value, Tensor) else 0
