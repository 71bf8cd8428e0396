"""The models of a study: every combination of some settings' values, each from several seeds."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from ..common.options import not_taken
from ..common.registry import options_of, suggestion
from ..config import Config
from ..likelihoods import LIKELIHOODS
from ..posteriors import POSTERIORS
from ..priors import PRIORS

__all__ = ["Planned", "plan"]

_PARTS: dict[str, Any] = {"prior": PRIORS, "likelihood": LIKELIHOODS, "posterior": POSTERIORS}
_OF_THE_DATA = ("data", "columns", "class_names", "layout", "exposure", "binarize", "data_seed")


@dataclass(frozen=True)
class Planned:
    """A run of a study.

    Attributes:
        name: of the run and its folder: that of the model, and for all seeds but the first the
            seed, so that a study can be given more seeds later.
        model: name of the model: its value of the setting, or of several ``setting=value``.
        config: what to run.
        seed: number of the training among those of the model, from 0.
    """

    name: str
    model: str
    config: Config
    seed: int


def plan(grid: Mapping[str, Sequence[Any]], config: Config, seeds: int) -> list[Planned]:
    """Plan the runs of a study, without options that a combination does not take.

    Combinations that differ only in such options are one.

    Raises:
        ValueError: an unknown setting, or one that decides what the test data are; fewer than two
            different values; an option that no value takes; fewer than one seed.
    """
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1; got {seeds}.")
    for setting, values in grid.items():
        _check_setting(setting, values)
    if not grid or sum(len(values) > 1 for values in grid.values()) == 0:
        raise ValueError(f"a study needs two or more different values of a setting; got {grid}.")
    if "seed" in grid and seeds > 1:
        raise ValueError("seed is varied already; leave seeds out.")
    models: dict[str, Config] = {}
    foreign: dict[str, list[set[str]]] = {setting: [] for setting in grid}
    for values in itertools.product(*grid.values()):
        given = dict(zip(grid, values, strict=True))
        one = Config.from_dict({**config.to_dict(), **given})
        for setting in grid:
            foreign[setting].append(_not_taken(one, setting))
        unused = set().union(*(found[-1] for found in foreign.values()))
        one = replace(one, **{name: getattr(Config, name) for name in unused})
        taken = {setting: value for setting, value in given.items() if setting not in unused}
        models.setdefault(_name(taken, alone=len(grid) == 1), one)
    for setting, found in foreign.items():
        if useless := set.intersection(*found):
            raise ValueError(f"no {setting} of {grid[setting]} takes {', '.join(sorted(useless))}.")
    return [
        Planned(
            name=f"{model}-seed{one.seed + seed}" if seed else model,
            model=model,
            config=replace(one, seed=one.seed + seed),
            seed=seed,
        )
        for model, one in models.items()
        for seed in range(seeds)
    ]


def _check_setting(setting: str, values: Sequence[Any]) -> None:
    names = {field.name for field in fields(Config)}
    if setting not in names:
        raise ValueError(f"no setting {setting!r}.{suggestion(setting, names)}")
    if setting in _OF_THE_DATA:
        raise ValueError(
            f"{setting} decides what the test data are, and log p(x) of different data cannot be "
            "compared; run two studies."
        )
    if not values or len({str(value) for value in values}) < len(values):
        raise ValueError(f"a study needs two or more different values of {setting}; got {values}.")


def _name(given: Mapping[str, Any], *, alone: bool) -> str:
    if alone:
        return ",".join(str(value) for value in given.values())
    return ",".join(f"{setting}={value}" for setting, value in given.items())


def _not_taken(config: Config, setting: str) -> set[str]:
    """Options that were set but that this config's part does not take."""
    if setting in _PARTS:
        own = options_of(_PARTS[setting][getattr(config, setting)])
        return {f"{setting}_{name}" for name in config.options(setting) if name not in own}
    return set(not_taken(config, setting))
