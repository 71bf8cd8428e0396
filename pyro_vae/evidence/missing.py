"""Missing data: programs whose observations count only where a mask says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from .program import Batch

__all__ = ["masked"]

Fn = Callable[..., Any]


def masked(model: Fn, guide: Fn, batch: Batch, mask: Tensor) -> tuple[Fn, Fn, Batch]:
    r"""Programs of :math:`p(x_{obs}, z)`: likelihood terms of missing values are left out.

    Args:
        model: Pyro program.
        guide: Pyro program; it is given the data with zeros for NaN.
        batch: its arguments, the data first.
        mask: shape of the data (or one that broadcasts to it), True where observed.

    Returns:
        Model and guide that take the mask as a last argument, and the batch with it.

    Raises:
        ValueError: a mask that is not boolean or has another shape; a datum without observation.
    """
    x = batch[0]
    if mask.dtype != torch.bool:
        raise ValueError(f"mask must be boolean, True where observed; got {mask.dtype}.")
    try:
        mask = mask.expand(x.shape)
    except RuntimeError:
        raise ValueError(
            f"mask must have the data's shape {tuple(x.shape)}; got {tuple(mask.shape)}."
        ) from None
    nothing = ~mask.flatten(1).any(1)
    if nothing.any():
        raise ValueError(f"datum {int(nothing.nonzero()[0])} has no observed value.")
    filled = torch.where(mask, x, torch.zeros_like(x)) if x.is_floating_point() else x
    if not filled.isfinite().all():
        raise ValueError("observed data hold NaN or infinite values; mask them or mend them.")
    data = x.nan_to_num(0.0) if x.is_floating_point() else x

    def masked_model(*arguments: Tensor) -> Any:
        *rest, observed = arguments
        with _Observed(rest[0], observed):
            return model(*rest)

    def masked_guide(*arguments: Tensor) -> Any:
        return guide(*arguments[:-1])

    return masked_model, masked_guide, (data, *batch[1:], mask)


class _Observed(Messenger):  # type: ignore[misc, unused-ignore]
    """Mask the site that observes the data, value by value."""

    def __init__(self, data: Tensor, observed: Tensor) -> None:
        super().__init__()
        self.data, self.observed = data, observed

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] or msg["value"] is not self.data:
            return
        fn, event_dim = msg["fn"], msg["fn"].event_dim
        if event_dim and not hasattr(fn, "base_dist"):
            raise ValueError(
                f"site {msg['name']!r} is {type(fn).__name__}, whose values are dependent: their "
                "log density cannot be masked one by one. Use independent values with .to_event()."
            )
        values = fn.base_dist if event_dim else fn
        msg["fn"] = values.mask(self.observed).to_event(event_dim)
