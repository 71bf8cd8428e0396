"""Programs made ready for data simulated from the model, wherever they have their own from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ..common.seeding import seeded
from .arguments import of_fewer
from .checks import is_delta
from .densities import Densities
from .places import data_places
from .traces import Batch, Fn

__all__ = ["is_fixed", "revealed"]

P = TypeVar("P", bound=Densities)


def revealed(pair: P, batch: Batch) -> tuple[P, Batch, bool]:
    """Make arguments of all that a model observes.

    Sites may observe what is no argument, or made of one: data in a closure or a module, under
    ``poutine.condition``, sums of several arguments. Their values become further arguments, of the
    model alone.

    Args:
        pair: the programs.
        batch: their arguments.

    Returns:
        The pair, its arguments, and whether the guide sees all that is observed.

    Raises:
        ValueError: a term of the model that is no observation (``pyro.factor``).
    """
    given = next(pair.arguments(batch))
    with seeded("reveal", 0), torch.no_grad():
        seen, sites = data_places(pair.model, given)
    axes, values = {}, []
    for name, site in sites.items():
        if name in seen or is_delta(site["fn"]):  # of what is computed, there is no more to know
            continue
        value, fn = torch.as_tensor(site["value"]), site["fn"]
        if not value.numel():
            raise ValueError(
                f"site {name!r} is a pyro.factor, a term that no data can be simulated from; "
                "write it as an observation, pyro.sample(..., obs=...)."
            )
        value = value.expand(fn.batch_shape + value.shape[value.dim() - fn.event_dim :])
        axes[name] = pair.data_dim - fn.event_dim  # of the data, if they have one
        values.append(_first(value, axes[name], pair.data_dim))
    if not axes:
        return pair, batch, True
    sets = not pair.data_dim
    values = [v.expand(len(batch[0]), *v.shape) for v in values] if sets else values
    model = _Revealed(pair.model, {n: axis if pair.data_dim else 0 for n, axis in axes.items()})
    guide = of_fewer(pair.guide, len(axes))
    return replace(pair, model=model, guide=guide), (*batch, *values), False


def _first(value: Tensor, axis: int, data_dim: int) -> Tensor:
    """Put the data first, where they have a dimension."""
    return value.movedim(axis, 0) if data_dim else value


class _Revealed:
    """A model of its arguments and of what some of its sites observe."""

    def __init__(self, model: Fn, axes: Mapping[str, int]) -> None:
        self.__wrapped__ = model
        self.axes = axes

    def __call__(self, *arguments: Tensor) -> Any:
        number = len(arguments) - len(self.axes)
        values = {
            name: value.movedim(0, axis) if axis else value
            for (name, axis), value in zip(self.axes.items(), arguments[number:], strict=True)
        }
        with _Observe(values):
            return self.__wrapped__(*arguments[:number])


class _Observe(Messenger):  # type: ignore[misc, unused-ignore]
    """Let observed sites observe other values."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] and msg["name"] in self.values:
            msg["value"] = self.values[msg["name"]]


def is_fixed(pair: Densities, batch: Batch, other: Batch) -> bool:
    """Whether a guide draws the same on other data: it does not look at them."""
    draws = []
    for data in (batch, other):
        with seeded("is fixed", 0):
            draws.append(pair.propose(data, 1)[0])
    return all(torch.equal(value, draws[1][name]) for name, value in draws[0].items())
