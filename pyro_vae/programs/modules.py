"""The modules that programs use: finding them, their device and type, evaluating in eval mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from ..common.seeding import seeded
from .traces import Fn

__all__ = ["check_programs", "check_type", "device_of", "evaluation_mode", "modules_of"]


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
        if not callable(item):
            continue
        stack += [getattr(item, name, None) for name in ("__self__", "__wrapped__", "func", "fn")]
        function = getattr(item, "__func__", item)
        code = getattr(function, "__code__", None)
        if code is not None:
            names = getattr(function, "__globals__", {})
            stack += [names[n] for n in code.co_names if isinstance(names.get(n), nn.Module)]
            for cell in getattr(function, "__closure__", None) or ():
                with suppress(ValueError):  # an empty cell
                    stack.append(cell.cell_contents)
    return list(found.values())


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
def evaluation_mode(*programs: Fn) -> Iterator[None]:
    """Put the modules that programs use in ``eval()`` mode, without gradients, for a while.

    Pyro's argument validation is off meanwhile (data are checked for themselves), and whatever the
    programs draw leaves the caller's random state as it was.
    """
    flags = {m: m.training for owner in modules_of(*programs) for m in owner.modules()}
    with torch.no_grad(), pyro.validation_enabled(False), seeded("evaluation", 0):
        for module in flags:
            module.training = False
        try:
            yield
        finally:
            for module, flag in flags.items():
                module.training = flag
