"""A function of tensors as the operations that it was once seen to make."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from operator import itemgetter
from typing import Any, NoReturn

import torch
from torch import Tensor, fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["Recorded"]

Function = Callable[..., tuple[Tensor, ...]]

_PLAIN_CALLS = 2  # of one kind of arguments: what is called that rarely is not worth a recording
_MOST_BYTES = 2**28  # of all tensors of a call: beyond that it is not Python that takes the time


class Recorded:
    """A function that is run many times with tensors of the same shapes.

    What Python does between one operation of torch and the next (a Pyro program's handlers, its
    distributions, ``torch.vmap``, the bookkeeping of gradients) is done once: the third call with
    the same shapes is recorded, the fourth one checks the recording, and from the fifth one on its
    operations are repeated in their order, without those that do not depend on the arguments or
    that nothing depends on. Results are the same to the bit.

    A function is called as it is if it looks at values of what depends on its arguments (by which
    another call might take another way), draws random numbers, changes tensors of others, or works
    on so much that Python's part is small; and on a GPU, which would have to wait for the check.

    Args:
        function: of tensors; returns a tuple of tensors, without gradients. What else it reads is
            the same at every call.
    """

    def __init__(self, function: Function) -> None:
        self.function = function
        self.calls: dict[Any, int] = {}
        self.recordings: dict[Any, Function] = {}

    def __call__(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        """Return what the function returns."""
        if any(argument.device.type != "cpu" for argument in arguments):
            return self.function(*arguments)
        kind = tuple((a.shape, a.stride(), a.dtype) for a in arguments)
        count = self.calls[kind] = self.calls.get(kind, 0) + 1
        if kind in self.recordings:
            with torch.no_grad():
                found = self.recordings[kind](*arguments)
            if count > _PLAIN_CALLS + 2:
                return found
            results = self.function(*arguments)
            if not all(map(_same, found, results)):
                del self.recordings[kind]
            return results
        if count != _PLAIN_CALLS + 1:
            return self.function(*arguments)
        recorder = _Recorder(arguments)
        with suppress(_NotRecorded), _NothingLeaves(recorder), recorder:
            results = self.function(*arguments)
        if recorder.stopped:  # also where the function went on in spite of it
            return self.function(*arguments)
        if recording := recorder.made(arguments, results):
            self.recordings[kind] = recording
        return results


class _NotRecorded(BaseException):
    """A function is not to be repeated; no exception, so that nobody between takes it for one."""


class _NothingLeaves(TorchFunctionMode):
    """No value is taken out of torch, where it could not be followed."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _EXITS:
            self.recorder.stop()
        return func(*args, **(kwargs or {}))


_EXITS = {getattr(Tensor, n) for n in ("numpy", "tolist", "__array__", "__dlpack__", "data_ptr")}


class _Recorder(TorchDispatchMode):
    """Builds the graph of the operations on some tensors, and on those that are made within it.

    Args:
        arguments: the tensors.
    """

    def __init__(self, arguments: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self.constants = torch.nn.Module()
        self.nodes: dict[int, fx.Node] = {}  # by the number of a tensor
        self.tensors: dict[fx.Node, Tensor] = {}  # which keeps them, and so their numbers
        self.reads: dict[int, fx.Node] = {}  # of constants
        self.depends: set[int] = set()  # storages whose values depend on the arguments
        self.written: set[int] = set()  # storages that were changed in place
        self.kept: list[Tensor] = []
        self.bytes = 0
        self.stopped = False
        for place, argument in enumerate(arguments):
            self._keep(argument, self.graph.placeholder(f"argument_{place}"))
            self.depends.add(_storage(argument))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given, changed = list(_tensors((args, kwargs))), _changed(func, args, kwargs)
        if not all(map(_is_plain, given)):
            self.stop()
        of_arguments = [tensor for tensor in given if _storage(tensor) in self.depends]
        depends = bool(of_arguments)
        if (
            torch.Tag.nondeterministic_seeded in func.tags
            or (depends and _OF_VALUES.intersection(func.tags) and not self._takes(func, args))
            or any(id(tensor) not in self.nodes for tensor in (*of_arguments, *changed))
        ):
            self.stop()
        out = func(*args, **kwargs)
        if not all(map(_is_plain, _tensors(out))):
            self.stop()
        self.written.update(map(_storage, changed))
        if depends:
            self.depends.update(map(_storage, (*_tensors(out), *changed)))
        if not given or any(id(tensor) in self.nodes for tensor in given) or _is_new(func):
            node = self.graph.call_function(func, *tree_map(self._node_of, (args, kwargs)))
            self._name(out, node)
        return out

    def stop(self) -> NoReturn:
        """Give up."""
        self.stopped = True
        raise _NotRecorded

    def made(self, arguments: tuple[Tensor, ...], results: tuple[Tensor, ...]) -> Function | None:
        """Return the graph as a function, if it finds the same results."""
        self.graph.output(tuple(map(self._node_of, results)))
        self._shorten()
        with torch.no_grad():
            found = _Quickly(self.constants, graph=self.graph).run(*arguments)
        if not all(map(_same, found, results)):
            return None
        return _Steps(self.graph, self.constants)

    def _shorten(self) -> None:
        """Leave out what is known beforehand, what changes nothing, and what nothing needs."""
        for node in list(self.graph.nodes):
            if node not in self.tensors or node.op == "placeholder":
                continue
            tensor, source = self.tensors[node], node.args[0] if node.args else None
            storage = _storage(tensor)
            if storage not in self.depends and storage not in self.written:
                with self.graph.inserting_before(node):
                    node.replace_all_uses_with(self._read(tensor))
            elif node.target in _ALIASES and self._is_alias(tensor, source):
                node.replace_all_uses_with(source)
        self.graph.eliminate_dead_code()

    def _is_alias(self, tensor: Tensor, source: Any) -> bool:
        """Whether a view is the tensor that it is of, seen alike."""
        of = self.tensors.get(source)
        return of is not None and (of.shape, of.stride()) == (tensor.shape, tensor.stride())

    def _takes(self, func: Any, args: Any) -> bool:
        """Whether an operation takes elements by their numbers, or by a mask that stays."""
        if func is not torch.ops.aten.index.Tensor:
            return False
        masks = (i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8))
        return not any(_storage(mask) in self.depends for mask in masks)

    def _name(self, out: Any, node: fx.Node) -> None:
        if isinstance(out, tuple | list):
            for place, part in enumerate(out):
                self._name(part, self.graph.call_function(_part, (node, place)))
        elif isinstance(out, Tensor) and id(out) not in self.nodes:  # else it was changed in place
            self._keep(out, node)

    def _keep(self, tensor: Tensor, node: fx.Node) -> None:
        self.nodes[id(tensor)], self.tensors[node] = node, tensor
        self.bytes += tensor.nbytes
        if self.bytes > _MOST_BYTES:
            self.stop()

    def _node_of(self, value: Any) -> Any:
        """The node of a tensor, which reads a constant if it is none of ours."""
        if not isinstance(value, Tensor):
            return value
        return self.nodes.get(id(value)) or self._read(value)

    def _read(self, tensor: Tensor) -> fx.Node:
        if id(tensor) not in self.reads:
            name = f"constant_{len(self.reads)}"
            self.constants.register_buffer(name, tensor.detach())
            self.kept.append(tensor)
            self.reads[id(tensor)] = self.graph.get_attr(name)
        return self.reads[id(tensor)]


_aten = torch.ops.aten
_OF_VALUES = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_ALIASES = (_aten.detach.default, _aten.alias.default, _aten.view.default, _aten.expand.default)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and type(tensor) in (Tensor, torch.nn.Parameter)


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def _part(values: Any, place: int) -> Any:
    return values[place]


def _same(ours: Tensor, theirs: Tensor) -> bool:
    alike = (ours == theirs) | ((ours != ours) & (theirs != theirs))
    return ours.dtype == theirs.dtype and ours.shape == theirs.shape and bool(alike.all())


def _is_new(func: Any) -> bool:
    """Whether an operation makes a tensor of its own, to be written to."""
    name = func.overloadpacket.__name__
    return name.startswith(("new_", "empty", "zeros", "ones", "full", "clone"))


def _changed(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """Arguments that an operation writes to."""
    if not func._schema.is_mutable:
        return []
    found: list[Tensor] = []
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            found += _tensors(args[place] if place < len(args) else kwargs.get(argument.name))
    return found


class _Quickly(fx.Interpreter):
    """Runs a graph; puts torch's functions and methods for the operations that they find alike.

    Python finds its way to them in two thirds of the time.
    """

    def run_node(self, n: fx.Node) -> Any:
        """Run a node."""
        found = super().run_node(n)
        if isinstance(n.target, torch._ops.OpOverload) and not n.target._schema.is_mutable:
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            name = n.target.overloadpacket.__name__
            with suppress(Exception):
                if _alike(getattr(torch._C._VariableFunctions, name)(*args, **kwargs), found):
                    n.target = getattr(torch._C._VariableFunctions, name)
                    return found
            with suppress(Exception):
                if _alike(getattr(args[0], name)(*args[1:], **kwargs), found):
                    n.op, n.target = "call_method", name
        return found


class _Steps:
    """The operations of a graph one after the other, from places of a list to places of it.

    (A ``GraphModule`` would do the same by a source of its own, which torch keeps for ever.)
    """

    def __init__(self, graph: fx.Graph, constants: torch.nn.Module) -> None:
        self.values: list[Any] = []  # constants at their places, None at the others
        self.inputs: list[int] = []
        self.steps: list[tuple[Callable[..., Any], Callable[..., Any], int, tuple[int, ...]]] = []
        places: dict[fx.Node, int] = {}
        for node in graph.nodes:
            if node.op == "output":
                self.outputs = [places[out] for out in node.args[0]]
                break
            if node.op == "get_attr":
                places[node] = self._place(getattr(constants, node.target))
                continue
            if node.op == "placeholder":
                self.inputs.append(self._place())
            else:
                function = node.target
                if node.op == "call_method":
                    function = getattr(Tensor, function)
                self._add(function, node, places)
            places[node] = len(self.values) - 1
        self._forget()

    def __call__(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        """Return the results of the graph."""
        values = self.values.copy()
        for place, argument in zip(self.inputs, arguments, strict=True):
            values[place] = argument
        for function, take, place, done in self.steps:
            values[place] = function(*take(values))
            for i in done:
                values[i] = None
        return tuple(values[place] for place in self.outputs)

    def _place(self, value: Any = None) -> int:
        self.values.append(value)
        return len(self.values) - 1

    def _add(self, function: Callable[..., Any], node: fx.Node, places: dict[fx.Node, int]) -> None:
        """Add an operation, and before it the lists of tensors that it takes."""
        given = [self._given(value, places) for value in node.args]
        if names := [name for name, value in node.kwargs.items() if _nodes(value)]:
            given = [self._given(node.kwargs[name], places) for name in names] + given
            function = partial(_by_name, function, names)
        if plain := {name: value for name, value in node.kwargs.items() if name not in names}:
            function = partial(function, **plain)
        self._step(function, given)

    def _given(self, value: Any, places: dict[fx.Node, int]) -> int:
        """The place of an argument."""
        if isinstance(value, fx.Node):
            return places[value]
        if _nodes(value):
            return self._step(_list, [self._given(part, places) for part in value])
        return self._place(list(value) if isinstance(value, list) else value)

    def _step(self, function: Callable[..., Any], given: list[int]) -> int:
        place = self._place()
        self.steps.append((function, _taker(given), place, tuple(given)))
        return place

    def _forget(self) -> None:
        """Let go of every value after its last use, but for constants and results."""
        made = {place for _, _, place, _ in self.steps} - set(self.outputs)
        for number in range(len(self.steps) - 1, -1, -1):
            function, take, place, given = self.steps[number]
            done = made.intersection(given)
            made -= done
            self.steps[number] = (function, take, place, tuple(done))


def _taker(places: list[int]) -> Callable[[list[Any]], Any]:
    """What takes values from some places of a list, as a sequence."""
    if len(places) > 1:
        return itemgetter(*places)
    return itemgetter(slice(places[0], places[0] + 1) if places else slice(0))


def _list(*values: Any) -> list[Any]:
    return list(values)


def _by_name(function: Callable[..., Any], names: list[str], *values: Any, **plain: Any) -> Any:
    named = dict(zip(names, values, strict=False))  # the others are given by their order
    return function(*values[len(names) :], **named, **plain)


def _nodes(value: Any) -> bool:
    """Whether an argument has nodes in it."""
    return any(isinstance(leaf, fx.Node) for leaf in tree_leaves(value))


def _alike(ours: Any, theirs: Any) -> bool:
    """Whether two tensors are the same, and laid out alike."""
    return ours.stride() == theirs.stride() and _same(ours, theirs)
