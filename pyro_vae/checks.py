"""Checks of what a user gives: data, their support, the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import constraints

from .seeding import seeded

__all__ = ["check_data", "check_support", "module_device", "resolve_device"]

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
    model: Callable[..., Any], x: Tensor, batch: tuple[Tensor, ...], *, what: str = "data"
) -> None:
    """Check that data lie in the support of the site that observes them.

    The model is run once on a small batch to find the site whose observed value is ``batch[0]``;
    then all of ``x`` are held against its support. Sites that observe something else (a part or a
    function of x) are checked on the small batch only.

    Args:
        model: Pyro program.
        x: all data, shape ``(N, *event_shape)``.
        batch: first few data, as arguments of the model.
        what: name of the data in the message.

    Raises:
        ValueError: data outside the support; the message says what to do.
    """
    import pyro

    with seeded(0), pyro.validation_enabled(False):
        trace = poutine.trace(model).get_trace(*batch)
    sites: dict[str, Any] = trace.nodes
    for name, site in sites.items():
        support = getattr(site.get("fn"), "support", None)
        if site["type"] != "sample" or not site["is_observed"] or support is None:
            continue
        whole = site["value"] is batch[0]
        for start, rows in _blocks(x if whole else site["value"]):
            try:
                bad = ~support.check(rows.to(batch[0].device))
            except (RuntimeError, NotImplementedError):  # parameters of another batch
                break
            if bad.any():
                first = (
                    int(bad.flatten(1).any(1).nonzero()[0])
                    if bad.dim() > 1
                    else int(bad.nonzero()[0])
                )
                hint = (
                    "It wants 0/1 values: choose a binarization (dynamic, static or threshold), or "
                    "a likelihood for real values."
                    if _is_boolean(support)
                    else "Choose a likelihood with the data's support, or transform the data."
                )
                kind = type(getattr(site["fn"], "base_dist", site["fn"])).__name__
                raise ValueError(
                    f"{what} outside the support of the likelihood: site {name!r} is {kind}, and "
                    f"datum {start + first} holds values such as {_odd_value(rows[first], support)}"
                    f". {hint}"
                )


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


def module_device(*programs: Callable[..., Any]) -> torch.device | None:
    """Device of the parameters of the modules that own some programs, if any."""
    for program in programs:
        owner = getattr(program, "__self__", program)
        if isinstance(owner, nn.Module):
            for tensor in (*owner.parameters(), *owner.buffers()):
                return tensor.device
    return None


def _blocks(x: Tensor) -> Iterator[tuple[int, Tensor]]:
    return ((start, x[start : start + _ROWS]) for start in range(0, len(x), _ROWS))


def _is_boolean(support: Any) -> bool:
    return getattr(support, "base_constraint", support) is constraints.boolean


def _odd_value(datum: Tensor, support: Any) -> str:
    """Show a value of a datum that lies outside the support."""
    element = getattr(support, "base_constraint", support)
    values = datum.flatten()
    with suppress(RuntimeError, NotImplementedError, IndexError):
        values = values[~element.check(values)]
    return f"{values[0].item():.4g}" if len(values) else "none in the support"
