"""Observations that count only where a mask says so."""

from __future__ import annotations

from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Independent, constraints, transform_to

__all__ = ["Observed", "check_mask"]


def check_mask(mask: Tensor, x: Tensor) -> Tensor:
    """Check a mask of observed values and return it in the data's shape.

    Args:
        mask: True where a value is observed; shape of the data or one that broadcasts to it.
        x: data of shape ``(N, *event_shape)``.

    Raises:
        ValueError: a mask that is not boolean or has another shape.
    """
    if mask.dtype != torch.bool:
        raise ValueError(f"mask must be boolean, True where observed; got {mask.dtype}.")
    try:
        return mask.expand(x.shape)
    except RuntimeError:
        raise ValueError(
            f"mask must have the data's shape {tuple(x.shape)}; got {tuple(mask.shape)}."
        ) from None


class Observed(Messenger):  # type: ignore[misc, unused-ignore]
    """Mask the site that observes the data, value by value.

    Args:
        data: the tensor that the program gives to the site as ``obs``.
        observed: True where a value counts, shape of the data.
    """

    def __init__(self, data: Tensor, observed: Tensor) -> None:
        super().__init__()
        self.data, self.observed = data, observed

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] or msg["value"] is not self.data:
            return
        fn, event_dim = msg["fn"], msg["fn"].event_dim
        independent = isinstance(fn, Independent) and fn.reinterpreted_batch_ndims == event_dim
        if event_dim and not independent:
            raise ValueError(
                f"site {msg['name']!r} is {type(fn).__name__}, whose values are dependent: their "
                "log density cannot be masked one by one. Use independent values with .to_event()."
            )
        values = fn.base_dist if event_dim else fn
        msg["fn"] = values.mask(self.observed).to_event(event_dim)
        filler = _filler(values.support)
        if filler is not None:
            msg["value"] = torch.where(self.observed, msg["value"], filler)


def _filler(support: Any) -> float | None:
    """A value inside the support, for hidden values where the zero they hold is not.

    A density of zero or infinity would not count, but its gradient would be NaN.
    """
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    if support is constraints.real or support.is_discrete:
        return None
    try:
        return float(transform_to(support)(torch.zeros(())))
    except NotImplementedError:
        return None
