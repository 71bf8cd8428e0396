"""Missing data: programs whose observations count only where a mask says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .masking import Observed, check_mask
from .pair import Batch

__all__ = ["masked"]

Fn = Callable[..., Any]


def masked(model: Fn, guide: Fn, batch: Batch, mask: Tensor) -> tuple[Fn, Fn, Batch]:
    r"""Programs of :math:`p(x_{obs}, z)`: likelihood terms of missing values are left out.

    Args:
        model: Pyro program.
        guide: Pyro program; it is given the data with zeros for missing values.
        batch: its arguments, the data first.
        mask: shape of the data (or one that broadcasts to it), True where observed.

    Returns:
        Model and guide that take the mask as a last argument, and the batch with it.

    Raises:
        ValueError: a mask that is not boolean or has another shape; a datum without observation.
    """
    x = batch[0]
    mask = check_mask(mask, x)
    nothing = ~mask.flatten(1).any(1)
    if nothing.any():
        raise ValueError(f"datum {int(nothing.nonzero()[0])} has no observed value.")
    filled = torch.where(mask, x, torch.zeros_like(x))
    if not filled.isfinite().all():
        raise ValueError("observed data hold NaN or infinite values; mask them or mend them.")

    def masked_model(*arguments: Tensor) -> Any:
        *rest, observed = arguments
        with Observed(rest[0], observed):
            return model(*rest)

    def masked_guide(*arguments: Tensor) -> Any:
        return guide(*arguments[:-1])

    return masked_model, masked_guide, (filled, *batch[1:], mask)
