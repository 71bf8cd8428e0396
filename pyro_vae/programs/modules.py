"""The modules that programs use: finding them, their device and type, evaluating in eval mode."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from ..common.devices import exact_convolutions
from ..common.host import keep_memory
from ..common.seeding import seeded
from .traces import Batch, Fn, run_both

__all__ = [
    "check_callable",
    "check_programs",
    "check_type",
    "device_of",
    "evaluation_mode",
    "modes_kept",
    "modules_of",
    "modules_used",
    "takes_missing",
]


def modules_of(*programs: Fn) -> list[nn.Module]:
    """Modules that programs are, are methods of, wrap, close over or name as globals."""
    found: dict[int, nn.Module] = {}
    seen: set[int] = set()
    stack: list[Any] = list(programs)
    while stack:
        item = stack.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, nn.Module):
            found[id(item)] = item
            continue
        if isinstance(item, list | tuple | dict):
            parts = item.values() if isinstance(item, dict) else item
            stack += [part for part in parts if isinstance(part, nn.Module)]
            continue
        if not callable(item):  # an object with modules, of which a program is a method
            held = getattr(item, "__dict__", {}).values()
            stack += [part for part in held if isinstance(part, nn.Module | list | tuple | dict)]
            continue
        stack += [getattr(item, name, None) for name in ("__self__", "__wrapped__", "func", "fn")]
        function = getattr(item, "__func__", item)
        code = getattr(function, "__code__", None)
        if code is not None:
            names = getattr(function, "__globals__", {})
            stack += [names[n] for n in code.co_names if isinstance(names.get(n), nn.Module)]
            stack += getattr(function, "__defaults__", None) or ()
            stack += (getattr(function, "__kwdefaults__", None) or {}).values()
            for cell in getattr(function, "__closure__", None) or ():
                with suppress(ValueError):  # an empty cell
                    stack.append(cell.cell_contents)
    return list(found.values())


def modules_used(model: Fn, guide: Fn, batch: Batch) -> list[nn.Module]:
    """Modules that programs use: called in a run of both, found by :func:`modules_of`, or stored.

    However a program holds a module (in a list, behind a helper), its call is seen, and seen before
    it fails; so a batch on another device than the parameters will do. Parameters that the programs
    ask of Pyro's store come last, as a list that is a module.

    Raises:
        ValueError: the programs fail because data and parameters differ in type; says which.
    """
    called: dict[nn.Module, None] = {}
    with (
        poutine.trace(param_only=True) as asked,
        _each_call(called.setdefault),
        seeded("modules", 0),
        torch.no_grad(),
        pyro.validation_enabled(False),
    ):
        try:
            run_both(model, guide, batch)
        except Exception as error:  # what else is wrong is said where the programs are inspected
            if any(word in str(error) for word in _TYPES_DIFFER):
                for module in called:
                    check_type(batch[0], module)
    values: list[Any] = [s["value"] for s in asked.trace.nodes.values() if s["type"] == "param"]
    stored = nn.ParameterList(getattr(v, "unconstrained", lambda v=v: v)().detach() for v in values)
    return [*dict.fromkeys([*called, *modules_of(model, guide)]), stored]


_TYPES_DIFFER = ("dtype", "scalar type", "Input type")
"""Words of torch's messages about operands of different types."""


@contextmanager
def _each_call(seen: Callable[[nn.Module], object]) -> Iterator[None]:
    """Hand over each module, of whatever owner, before its forward runs.

    What is compiled runs meanwhile as it was written; a global hook would have it compiled again.
    """

    def hook(module: nn.Module, _: Any) -> None:
        seen(module)

    eager: Any = nullcontext()
    if "torch._dynamo" in sys.modules:
        eager = torch.compiler.set_stance("force_eager")
    handle = register_module_forward_pre_hook(hook)
    try:
        with eager, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Using `torch.compile", UserWarning)
            yield
    finally:
        handle.remove()


def check_callable(**programs: Any) -> None:
    """Check that programs, given by their role, can be called.

    Raises:
        TypeError: one cannot, such as a module given in place of its method.
    """
    for role, program in programs.items():
        plain = isinstance(program, nn.Module) and type(program).__call__ is nn.Module.__call__
        silent = plain and type(program).forward is nn.Module.forward
        if silent or not callable(program):
            name = type(program).__name__
            hint = f"; give its method .{role}" if hasattr(program, role) else ""
            raise TypeError(f"the {role} must be a Pyro program, a callable; got {name}{hint}.")


def check_programs(module: Any) -> Any:
    """Check that an object is a module with two programs, and return it.

    Raises:
        TypeError: it is not.
    """
    programs = (getattr(module, name, None) for name in ("model", "guide"))
    if not isinstance(module, nn.Module) or not all(map(callable, programs)):
        raise TypeError(
            "program must be an nn.Module with methods model and guide, such as VAE; got "
            f"{type(module).__name__}."
        )
    return module


def device_of(*programs: Fn) -> torch.device | None:
    """Device of the parameters of the modules that programs use, if any."""
    for owner in modules_of(*programs):
        for tensor in (*owner.parameters(), *owner.buffers()):
            return tensor.device
    return None


def takes_missing(*programs: Fn) -> bool:
    """Whether programs take NaN for missing values: a module that they use says so.

    Such a module, a likelihood, has an attribute ``takes_missing`` that is true.
    """
    modules = (part for owner in modules_of(*programs) for part in owner.modules())
    return any(getattr(module, "takes_missing", False) is True for module in modules)


def check_type(x: Tensor, *programs: Fn) -> None:
    """Check that floating-point data have the type of the parameters.

    Raises:
        ValueError: they differ; says which conversion to write.
    """
    if not x.is_floating_point():
        return
    for module in modules_of(*programs):
        for parameter in module.parameters():
            if parameter.is_floating_point() and parameter.dtype != x.dtype:
                name = str(parameter.dtype).removeprefix("torch.")
                raise ValueError(
                    f"data are {str(x.dtype).removeprefix('torch.')}, the model's parameters "
                    f"{name}; convert the data with x.to(torch.{name}), or the model."
                )
            return


@contextmanager
def modes_kept(module: nn.Module) -> Iterator[None]:
    """Give a module and those in it their present modes, train or eval, back at the end."""
    flags = {part: part.training for part in module.modules()}
    try:
        yield
    finally:
        for part, flag in flags.items():
            part.training = flag


@contextmanager
def evaluation_mode(*programs: Fn) -> Iterator[Callable[[Fn], Fn]]:
    """Put the modules that programs use in ``eval()`` mode, without gradients, for a while.

    Modules that a search does not find follow when they are called in a program as it is returned
    by the function given here: run each program so once, and at best on every kind of data. Pyro's
    argument validation is off meanwhile (data are checked for themselves), and whatever the
    programs draw leaves the caller's random state as it was.
    """
    keep_memory()
    flags: dict[nn.Module, bool] = {}

    def evaluate(owner: nn.Module) -> None:
        for module in owner.modules():
            flags.setdefault(module, module.training)
        for module in owner.modules():
            module.training = False

    def on_call(module: nn.Module) -> None:
        if module.training:
            evaluate(module)

    def watched(program: Fn) -> Fn:
        def run(*batch: Tensor) -> Any:
            with _each_call(on_call):
                return program(*batch)

        return run

    for owner in modules_of(*programs):
        evaluate(owner)
    quiet = pyro.validation_enabled(False)
    with torch.no_grad(), quiet, seeded("evaluation", 0), exact_convolutions():
        try:
            yield watched
        finally:
            for module, flag in flags.items():
                module.training = flag
