"""What a traced program read without being given it: attributes, closures, globals."""

from __future__ import annotations

import argparse
import dis
import operator
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Constants"]

_OURS_AND_TORCHS = {"torch", "pyro", "pyro_vae", "numpy", "builtins", "functools"}
_MODULES_OWN = frozenset(vars(nn.Module())) - {"training"}
_PLAIN = (int, float, bool, complex, str, bytes, type(None), torch.dtype, torch.device)

_MOST = 100  # items of a list or a dictionary that are looked at


class Constants:
    """Values that programs can reach and that are no parameters, buffers or arguments.

    In a compiled function they are what they were when it was traced, as is which objects the
    parameters and buffers are. Looked at are attributes of the modules and of the objects that
    belong to the same code, attributes of their classes, and what their functions close over or
    name as globals. A number is told by its value, a tensor by its version, anything else by its
    identity.

    Args:
        roots: the modules, functions and objects to start from.
    """

    def __init__(self, *roots: Any) -> None:
        self._slots: list[_Slots] = []
        self._contents: list[tuple[str, Any, Any]] = []  # what can change and stay the same object
        self._seen: set[int] = set()
        self._known: set[int] = set()  # parameters and buffers, which are arguments
        self._homes = {type(root).__module__ for root in roots}
        self._homes |= {str(getattr(root, "__module__", "")) for root in roots}
        self._homes.discard("builtins")
        self._stack: list[Any] = list(roots)
        while self._stack:
            self._visit(self._stack.pop())

    def changed(self) -> list[str]:
        """Return names of what is no longer what it was."""
        names = [name for slots in self._slots if slots.moved() for name in slots.changed()]
        names += [name for name, value, before in self._contents if _content(value) != before]
        return names

    def numbers(self) -> list[str]:
        """Return names of plain values among :meth:`changed`."""
        return [name for slots in self._slots for name in slots.changed(plain=True)]

    def leave_out(self) -> None:
        """Forget what has changed until now."""
        self._slots = [slots.kept() for slots in self._slots]
        self._contents = [c for c in self._contents if _content(c[1]) == c[2]]

    def _visit(self, item: Any) -> None:
        if id(item) in self._seen:
            return
        self._seen.add(id(item))
        if isinstance(item, nn.Module):
            self._known |= {id(t) for t in (*item.parameters(), *item.buffers())}
            self._stack += item.children()
            owner = type(item).__name__
            for tensors in (item._parameters, item._buffers):  # given, but as the same objects
                self._slots.append(_Slots(owner, tensors, dict(tensors), len(tensors)))
            self._watch(owner, vars(item), set(vars(item)) - _MODULES_OWN)
            self._visit_class(type(item))
        elif isinstance(item, types.MethodType):
            self._stack += [item.__self__, item.__func__]
        elif isinstance(item, partial):
            self._stack += [item.func, *item.args, *item.keywords.values()]
        elif isinstance(item, types.FunctionType):
            self._visit_function(item)
        elif isinstance(item, staticmethod | classmethod):
            self._stack.append(item.__func__)
        elif isinstance(item, list | tuple):
            self._stack += item[:_MOST]
        elif isinstance(item, dict):
            self._stack += list(item.values())[:_MOST]
        elif self._belongs(item):
            self._watch(type(item).__name__, vars(item), set(vars(item)))
            self._visit_class(type(item))

    def _visit_function(self, function: types.FunctionType) -> None:
        if _is_foreign(function.__module__):
            return
        self._homes.add(function.__module__)
        names = set(_globals_of(function.__code__)) & set(function.__globals__)
        self._watch("global", function.__globals__, names, new=False)
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        for name, cell in cells:
            self._watch(f"{function.__name__}'s", _Cell(cell, name), {name}, new=False)
        self._stack += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]

    def _visit_class(self, kind: type) -> None:
        for base in kind.__mro__:
            if _is_foreign(base.__module__) or id(base) in self._seen:
                continue
            self._seen.add(id(base))
            names = {n for n, v in vars(base).items() if not n.startswith("__")}
            self._watch(base.__name__, vars(base), names, new=False)
            accessors = [v for v in vars(base).values() if isinstance(v, property)]
            self._stack += [accessor.fget for accessor in accessors]

    def _belongs(self, item: Any) -> bool:
        """Whether an object is the program's own, or one made to hold settings."""
        if isinstance(item, type | types.ModuleType) or not hasattr(item, "__dict__"):
            return False
        if isinstance(item, argparse.Namespace | types.SimpleNamespace) or is_dataclass(item):
            return True
        return type(item).__module__ in self._homes

    def _watch(
        self, owner: str, values: Mapping[str, Any], names: set[str], *, new: bool = True
    ) -> None:
        found = {n: values[n] for n in sorted(names) if n in values}
        found = {n: v for n, v in found.items() if id(v) not in self._known}
        if found or new:
            self._slots.append(_Slots(owner, values, found, len(values) if new else None))
        for name, value in found.items():
            if isinstance(value, Tensor) or (
                isinstance(value, list | dict | set) and len(value) <= _MOST
            ):
                self._contents.append((f"{owner}.{name}", value, _content(value)))
            if not isinstance(value, _PLAIN):
                self._stack.append(value)


@dataclass(frozen=True)
class _Slots:
    """Some values of a mapping, as they were."""

    owner: str
    values: Mapping[str, Any]
    before: dict[str, Any]
    number: int | None

    def moved(self) -> bool:
        """Whether a value is another object now: quick, as it is asked at every step."""
        if self.number not in (None, len(self.values)):
            return True
        get, before = self.values.get, self.before
        return any(map(operator.is_not, map(get, before), before.values()))

    def changed(self, *, plain: bool = False) -> list[str]:
        """Names of what is not what it was; of plain values, on request."""
        names = [n for n, v in self.before.items() if not _same(self.values.get(n), v)]
        if plain:
            names = [n for n in names if isinstance(self.values.get(n), _PLAIN)]
        elif self.number not in (None, len(self.values)):
            names += list(self.values)[-1:]
        return [f"{self.owner}.{name}" for name in names]

    def kept(self) -> _Slots:
        """The same without what has changed."""
        same = {n: v for n, v in self.before.items() if _same(self.values.get(n), v)}
        number = None if self.number is None else len(self.values)
        return _Slots(self.owner, self.values, same, number)


class _Cell(Mapping[str, Any]):
    """A variable of an enclosing function, as a mapping."""

    def __init__(self, cell: types.CellType, name: str) -> None:
        self._cell, self._name = cell, name

    def __getitem__(self, name: str) -> Any:
        try:
            return self._cell.cell_contents
        except ValueError:  # not yet set
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        return iter((self._name,))

    def __len__(self) -> int:
        return 1


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    return type(one) is type(other) and isinstance(one, _PLAIN) and bool(one == other)


def _content(value: Any) -> Any:
    """What tells whether an object was changed in place."""
    if isinstance(value, Tensor):
        return None if value.is_inference() else value._version
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return [(k, v if isinstance(v, _PLAIN) else id(v)) for k, v in items]


def _globals_of(code: types.CodeType) -> Iterator[str]:
    """Names that a function and those defined inside look up as globals."""
    for instruction in dis.get_instructions(code):
        if instruction.opname == "LOAD_GLOBAL":
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _globals_of(constant)


def _is_foreign(module: str | None) -> bool:
    return str(module).partition(".")[0] in _OURS_AND_TORCHS
