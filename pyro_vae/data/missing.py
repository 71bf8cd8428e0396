"""Missing cells of data: NaN where nothing was observed."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["completed"]


def completed(x: Tensor) -> Tensor:
    """Return data without missing cells: each repeats values observed at its place in a datum.

    Means and variances stay about those of the observed values, so that what starts at data starts
    right. A place without any observed value gets zeros.

    Args:
        x: data of shape ``(N, *event_shape)``, NaN where missing.
    """
    missing = x.isnan()
    if not missing.any():
        return x
    flat, hidden = x.flatten(1).clone(), missing.flatten(1)
    for place in hidden.any(0).nonzero().flatten().tolist():
        column, gaps = flat[:, place], hidden[:, place]
        seen = column[~gaps]
        rows = torch.arange(int(gaps.sum()), device=x.device)
        flat[gaps, place] = seen[rows % len(seen)] if len(seen) else torch.zeros_like(column[gaps])
    return flat.reshape(x.shape)
