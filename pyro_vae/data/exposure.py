"""Exposures of counts: how long, how large, how deep each datum was counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ..common.options import Exposure
from .sets import Data

__all__ = ["check_exposure", "check_splits", "with_exposure"]


def check_exposure(exposure: Tensor, number: int, *, what: str = "exposure") -> None:
    """Check that there is one positive number for each datum.

    Raises:
        ValueError: another shape; a number that is not positive and finite; the message names the
            first such datum.
    """
    if exposure.shape != (number,):
        raise ValueError(
            f"{what} has shape {tuple(exposure.shape)}; expected ({number},), one number for each "
            "datum."
        )
    wrong = ~((exposure > 0) & (exposure < torch.inf))
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"{what} must be positive and finite; that of datum {row} is {exposure[row].item():g}. "
            "Give its true exposure, or leave the datum out."
        )


def check_splits(splits: Mapping[str, Data], what: str) -> None:
    """Check the exposures that splits of a data set came with, if there are any.

    Raises:
        ValueError: exposures of some splits alone, or wrong ones.
    """
    without = [split for split, data in splits.items() if data.exposure is None]
    if without and len(without) < len(splits):
        raise ValueError(
            f"{what} has exposures for some of its splits, and none for {', '.join(without)}; give "
            "them for all, or for none."
        )
    for split, data in splits.items():
        if data.exposure is not None:
            check_exposure(data.exposure, len(data), what=f"exposure of the {split} of {what}")


def with_exposure(data: Data, how: Exposure) -> Data:
    """Return data with an exposure for each datum.

    Args:
        data: counts ``(N, *event_shape)``.
        how: ``"file"`` keeps the exposures that the data came with, and is 1 where there are none;
            ``"library"`` takes the sum of each datum; ``"none"`` takes 1.

    Raises:
        ValueError: a datum whose sum is not positive.
    """
    ones = data.x.new_ones(len(data))
    if how == "none" or (how == "file" and data.exposure is None):
        return replace(data, exposure=ones)
    if how == "file":
        return data
    total = data.x.flatten(1).sum(1, dtype=torch.float64)
    wrong = ~(total > 0)
    if wrong.any():
        raise ValueError(
            f"{int(wrong.sum())} of the {len(data)} data of the {data.split} split of "
            f"{data.name!r} have no counts (the first is datum {int(wrong.nonzero()[0])} of the "
            "split), so that their library size is not positive; leave them out of the file, give "
            "exposures of their own (an array named exposure), or use --exposure none."
        )
    return replace(data, exposure=total.to(data.x.dtype))
