"""Checks of what a user gives: data and the device."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["check_data", "resolve_device"]

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
    if x.dim() == 0 or len(x) == 0 or x.numel() == 0:
        raise ValueError(f"{what} is empty: expected shape (N, ...), N > 0; got {tuple(x.shape)}.")
    if not (finite and x.dtype.is_floating_point):
        return
    for start in range(0, len(x), _ROWS):
        rows = x[start : start + _ROWS]
        bad = ~rows.flatten(1).isfinite().all(1) if x.dim() > 1 else ~rows.isfinite()
        if bad.any():
            raise ValueError(
                f"{what} holds NaN or infinite values (first in datum "
                f"{first + start + int(bad.nonzero()[0])}); remove or impute them."
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
