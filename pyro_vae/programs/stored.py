"""Pyro functions with parameters in Pyro's global store, as a module like any other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import constraints, transform_to

from ..common.seeding import seeded
from ..common.verbs import verb
from ..data.signatures import signature_of
from .module import ProgramModule
from .modules import modules_of
from .traces import Fn

__all__ = ["as_program"]


@verb
def as_program(model: Fn, guide: Fn, *args: Any) -> nn.Module:
    """Make one module of two Pyro functions, as :func:`fit` and ``CompiledStep`` take it.

    Its parameters are those that the functions ask of Pyro's store by ``pyro.param``, unconstrained
    and in the same memory (which moves with the module to another device), and those of the modules
    that the functions are methods of, close over or name as globals. So the store, and whatever
    reads it, knows what is trained here::

        program = pv.as_program(model, guide, x[:1])
        pv.fit(program, x, compiled=True)
        pv.log_evidence(model, guide, test_x)

    Args:
        model: Pyro program.
        guide: Pyro program.
        args: arguments of both for one run, in which parameters are created.

    Returns:
        Module with the methods ``model`` and ``guide``. A deep copy has parameters of its own, with
        which the same functions run.

    Raises:
        ValueError: there is nothing to learn.
    """
    return _Functions(model, guide, args)


class _Functions(ProgramModule):
    def __init__(self, model: Fn, guide: Fn, args: tuple[Any, ...]) -> None:
        super().__init__()
        self._model, self._guide = (model,), (guide,)  # in tuples: modules come in once, below
        self.parts = nn.ModuleList(modules_of(model, guide))
        self._originals = _Originals(self.parts)
        self.stored = nn.ParameterList()
        self.places: dict[str, int] = {}
        self.constraints: dict[str, Any] = {}
        with seeded("pilot", 0), torch.no_grad(), pyro.validation_enabled(False):
            traces = [poutine.trace(fn, param_only=True).get_trace(*args) for fn in (guide, model)]
        own = {id(parameter) for parameter in self.parts.parameters()}
        stored = pyro.get_param_store()._constraints  # get_state() strips the parameters
        for trace in traces:
            for name, site in trace.nodes.items():
                if site["type"] != "param" or name in self.places:
                    continue
                asked: Any = site["value"]
                value = asked.unconstrained()
                if id(value) not in own:
                    self.places[name] = len(self.stored)
                    asked_first = site["kwargs"].get("constraint", constraints.real)
                    self.constraints[name] = stored.get(name, asked_first)
                    self.stored.append(nn.Parameter(value.detach()))
        if not any(True for _ in self.parameters()):
            raise ValueError("the programs have no parameters: neither modules nor pyro.param.")

    def _apply(self, fn: Any, recurse: bool = True) -> _Functions:
        """Move the parameters, and Pyro's store with those that it still shares."""
        store = pyro.get_param_store()._params
        shared = [
            (store[name], self.stored[place])
            for name, place in self.places.items()
            if name in store and store[name].data_ptr() == self.stored[place].data_ptr()
        ]
        super()._apply(fn, recurse)
        for theirs, mine in shared:
            theirs.data = mine.data
        return self

    @property
    def model(self) -> Fn:  # type: ignore[override]
        return self._with_parameters("_model")

    @property
    def guide(self) -> Fn:  # type: ignore[override]
        return self._with_parameters("_guide")

    def _with_parameters(self, role: str) -> Fn:
        """Return a function as it was given, of this module's parameters."""

        def program(*args: Any, **kwargs: Any) -> Any:
            with _Given(self), self._originals.as_in(self.parts):
                self._show_parameters("parts")
                return getattr(self, role)[0](*args, **kwargs)

        program.__signature__ = signature_of(getattr(self, role)[0])  # type: ignore[attr-defined]
        return program


class _Originals:
    """The modules that functions close over, which a deep copy of their program shares."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.modules = tuple(modules)

    def __deepcopy__(self, memo: Any) -> _Originals:
        return self

    @contextmanager
    def as_in(self, parts: Iterable[nn.Module]) -> Iterator[None]:
        """Let the modules have the parameters, buffers and mode of their copies for a while."""
        pairs = [
            (vars(mine), vars(theirs))
            for original, part in zip(self.modules, parts, strict=True)
            if original is not part
            for mine, theirs in zip(original.modules(), part.modules(), strict=True)
        ]
        kept = [{name: mine[name] for name in _STATE} for mine, _ in pairs]
        try:
            for mine, theirs in pairs:
                mine.update({name: theirs[name] for name in _STATE})
            yield
        finally:
            for (mine, _), before in zip(pairs, kept, strict=True):
                mine.update(before)


_OF_MODULE = "$$$"  # between the name of a module and that of its parameter
_STATE = ("_parameters", "_buffers", "training")


class _Given(Messenger):
    """Answers ``pyro.param`` with the parameters of a module."""

    def __init__(self, functions: _Functions) -> None:
        super().__init__()
        self.functions = functions

    def _pyro_param(self, message: Any) -> None:
        place = self.functions.places.get(message["name"])
        if place is None:
            if _OF_MODULE in message["name"]:  # of pyro.module: one of the parts', shown as such
                message["value"], message["done"], message["stop"] = message["args"][1], True, True
            return
        unconstrained: Tensor = self.functions.stored[place]
        # Asked for again, a parameter keeps the constraint that it was made with.
        value: Any = transform_to(self.functions.constraints[message["name"]])(unconstrained)
        value = value.view_as(value)  # an attribute of its own goes on it
        value.unconstrained = lambda: unconstrained
        message["value"], message["done"] = value, True
