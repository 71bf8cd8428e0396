"""Checks of what a user gives: data, their support, the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import constraints

from .seeding import seeded

__all__ = [
    "check_data",
    "check_support",
    "check_type",
    "module_device",
    "modules_of",
    "resolve_device",
    "why_not_finite",
]

Program = Callable[..., Any]

_ROWS = 4096


def check_data(x: Tensor, *, what: str = "x") -> None:
    """Check that data are a non-empty tensor of finite numbers, shape ``(N, *event_shape)``.

    Raises:
        TypeError: not a tensor.
        ValueError: no data, or NaN or infinite values; the message names the first datum.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{what} must be a torch tensor of shape (N, ...); got {type(x).__name__}.")
    if x.dim() == 0 or len(x) == 0 or x.numel() == 0:
        raise ValueError(f"{what} is empty: expected shape (N, ...), N > 0; got {tuple(x.shape)}.")
    if not x.dtype.is_floating_point:
        return
    for start, rows in _blocks(x):
        bad = ~rows.flatten(1).isfinite().all(1) if x.dim() > 1 else ~rows.isfinite()
        if bad.any():
            raise ValueError(
                f"{what} holds NaN or infinite values (first in datum "
                f"{start + int(bad.nonzero()[0])}); remove or impute them."
            )


@torch.no_grad()
def check_support(
    model: Program,
    guide: Program,
    batch: tuple[Tensor, ...],
    *,
    first: int = 0,
    what: str = "data",
) -> None:
    """Check that the observed values of a batch lie in the support of their sites.

    Args:
        model: Pyro program.
        guide: Pyro program; the model is run once at a draw of it.
        batch: data, as arguments of the programs.
        first: number of the batch's first datum, for the message.
        what: name of the data in the message.

    Raises:
        ValueError: data outside the support; the message says what to do.
    """
    with seeded("check", 0), pyro.validation_enabled(False):
        drawn = poutine.trace(guide).get_trace(*batch)
        trace = poutine.trace(poutine.replay(model, drawn)).get_trace(*batch)
    sites: dict[str, Any] = trace.nodes
    for name, site in sites.items():
        support = getattr(site.get("fn"), "support", None)
        if site["type"] != "sample" or not site["is_observed"] or support is None:
            continue
        try:
            bad = ~support.check(site["value"])
        except (RuntimeError, NotImplementedError):  # a support without a check
            continue
        if site["mask"] is not None:
            bad = bad & site["mask"]
        if not bad.any():
            continue
        which = "a datum"
        value = site["value"]
        if value is batch[0]:
            row = int(bad.reshape(len(value), -1).any(1).nonzero()[0])
            which, value = f"datum {first + row}", value[row]
        wants = getattr(getattr(support, "base_constraint", support), "wants", None)
        hint = "Choose a likelihood with the data's support, or transform the data."
        if _is_boolean(support):
            hint = (
                "It wants 0/1 values: choose a binarization (dynamic, static or threshold), or "
                "a likelihood for real values."
            )
        elif wants is not None:
            hint = f"It wants {wants}."
        kind = type(getattr(site["fn"], "base_dist", site["fn"])).__name__
        raise ValueError(
            f"{what} outside the support of the likelihood: site {name!r} is {kind}, and "
            f"{which} holds values such as {_odd_value(value, support)}. {hint}"
        )


def check_type(x: Tensor, *programs: Program) -> None:
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


def resolve_device(device: str | torch.device) -> torch.device:
    """Return the device to use; ``"auto"`` is the GPU where there is one, else the CPU.

    Raises:
        ValueError: an unknown device, or CUDA where torch sees no GPU.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"unknown device {device!r}; use auto, cpu, cuda or cuda:N.") from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device {device!r} was asked for, but torch sees no GPU; use cpu or auto."
        )
    return resolved


def module_device(*programs: Program) -> torch.device | None:
    """Device of the parameters of the modules that programs use, if any."""
    for owner in modules_of(*programs):
        for tensor in (*owner.parameters(), *owner.buffers()):
            return tensor.device
    return None


def modules_of(*programs: Program) -> list[nn.Module]:
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
            stack += [
                names[name] for name in code.co_names if isinstance(names.get(name), nn.Module)
            ]
            for cell in getattr(function, "__closure__", None) or ():
                with suppress(ValueError):  # an empty cell
                    stack.append(cell.cell_contents)
    return list(found.values())


@torch.no_grad()
def why_not_finite(program: Any, batch: tuple[Tensor, ...]) -> str:
    """Say what made the loss NaN or infinite."""
    for number, argument in enumerate(batch):
        if argument.is_floating_point() and not argument.isfinite().all():
            return f"argument {number} of the batch holds NaN or infinite values"
    wrong = [name for name, p in program.named_parameters() if not p.isfinite().all()]
    if wrong:
        return f"parameters {', '.join(wrong[:3])} are not finite since the step before"
    guide = poutine.trace(program.guide).get_trace(*batch)
    model = poutine.trace(poutine.replay(program.model, guide)).get_trace(*batch)
    for role, trace in (("guide", guide), ("model", model)):
        trace.compute_log_prob()
        for name, site in trace.nodes.items():
            if site["type"] == "sample" and not site["log_prob_sum"].isfinite():
                kind = type(getattr(site["fn"], "base_dist", site["fn"])).__name__
                return f"log density of site {name!r} ({kind}) of the {role} is not finite"
    return "the draw of that step; every density of another draw is finite"


def _blocks(x: Tensor) -> Iterator[tuple[int, Tensor]]:
    return ((start, x[start : start + _ROWS]) for start in range(0, len(x), _ROWS))


def _is_boolean(support: Any) -> bool:
    return getattr(support, "base_constraint", support) is constraints.boolean


def _odd_value(datum: Tensor, support: Any) -> str:
    """Show a value of a datum that lies outside the support."""
    element = getattr(support, "base_constraint", support)
    values = datum.flatten()
    with suppress(RuntimeError, NotImplementedError, IndexError):
        values = values[~element.check(datum).expand(datum.shape).flatten()]
    return f"{values[0].item():.4g}" if len(values) else "none in the support"
