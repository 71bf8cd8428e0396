"""Classes by name: labels of new data numbered as those that a model was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from .sets import Data

__all__ = ["as_in", "label_column"]

_SHOWN = 8


def as_in(names: tuple[str, ...] | None, data: Data, what: str) -> Data:
    """Return data whose labels are numbered by the classes of a model, found by their names.

    Labels below 0 (unknown) stay, and so do those of data or models without names.

    Args:
        names: classes of the model, by number.
        data: data with the names of their own classes, if any.
        what: name of the data in messages.

    Raises:
        ValueError: a datum of a class that the model does not know; names it, and those there are.
    """
    own = data.class_names
    if names is None or own is None or data.y is None:
        return data
    there = [own[number] for number in data.y[data.y >= 0].unique().tolist()]
    if unknown := [name for name in there if name not in names]:
        raise ValueError(
            f"{what} holds data of class {_listed(unknown)}, which the model was not trained on; "
            f"it knows {_listed(names)}. Leave these data out, or name their class as it is there."
        )
    if own != names:
        places = torch.tensor([names.index(name) if name in names else -1 for name in own])
        y = data.y.long()
        data = replace(data, y=torch.where(y < 0, y, places[y]), class_names=names)
    return data


def label_column(data: Data) -> Any:
    """Return the labels of data as a column: the names of classes that have some, else numbers."""
    names = data.class_names
    if names is None or data.y is None:
        return data.y
    return ["" if number < 0 else names[number] for number in data.y.tolist()]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:_SHOWN])) + ", ..." * (len(names) > _SHOWN)
