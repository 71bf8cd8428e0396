"""Checks of the data that a user gives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

__all__ = ["check_data", "may_read", "reading"]

_ROWS = 4096


def check_data(x: Tensor, *, what: str = "x", first: int = 0, finite: bool = True) -> None:
    """Check that data are a non-empty tensor of finite numbers, shape ``(N, *event_shape)``.

    Messages call the data ``what`` and count them from ``first``; with ``finite=False`` NaN and
    infinite values pass.

    Raises:
        TypeError: not a tensor.
        ValueError: no data, or NaN or infinite values; the message names the first such datum.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{what} must be a torch tensor of shape (N, ...); got {type(x).__name__}.")
    if x.dim() == 0:
        raise ValueError(
            f"{what} is a single number; expected shape (N, *event_shape), such as x[None]."
        )
    if len(x) == 0 or x.numel() == 0:
        raise ValueError(f"{what} is empty: expected shape (N, ...), N > 0; got {tuple(x.shape)}.")
    if not (finite and x.dtype.is_floating_point):
        return
    for start in range(0, len(x), _ROWS):
        rows = x[start : start + _ROWS]
        bad = ~rows.flatten(1).isfinite().all(1) if x.dim() > 1 else ~rows.isfinite()
        if bad.any():
            raise ValueError(
                f"{what} holds NaN or infinite values (first in datum "
                f"{first + start + int(bad.nonzero()[0])}); remove, impute or mask them. A "
                "program that masks them itself takes values and mask as arguments: "
                "(x.nan_to_num(), x.isfinite())."
            )


_READING = ContextVar("reading", default=False)


@contextmanager
def reading() -> Iterator[None]:
    """Let programs look at values on a GPU for a while, for which the host has to wait."""
    token = _READING.set(True)
    try:
        yield
    finally:
        _READING.reset(token)


def may_read(values: Tensor) -> bool:
    """Whether a program may look at values: on a GPU only where data are checked, not at a step."""
    if torch.compiler.is_compiling() or type(values) is not Tensor:
        return False
    return values.device.type == "cpu" or _READING.get()
