"""The choices and rules of the options, shared by command line, config and parts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import cache
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from .plain import as_number, fits
from .registry import check_choice

__all__ = [
    "KL",
    "NOT_NEGATIVE",
    "POSITIVE",
    "Activation",
    "Binarize",
    "ColumnLikelihood",
    "Exposure",
    "Gradient",
    "Latents",
    "Layout",
    "LikelihoodName",
    "Method",
    "Must",
    "NetworkName",
    "ObjectiveName",
    "Of",
    "PosteriorName",
    "Precision",
    "PriorName",
    "ProgramName",
    "ScaleOf",
    "Schedule",
    "Start",
    "WarmupUnit",
    "at_least",
    "check_taken",
    "check_values",
    "not_taken",
    "takes",
]

# This module does not import torch, so that the command line answers at once. Tests check that its
# names are those in the registries of the modules that own the parts.
PriorName = Literal[
    "normal",
    "diagonal",
    "student-t",
    "laplace",
    "mixture",
    "vamp",
    "exemplar",
    "flow",
    "hierarchical",
]
LikelihoodName = Literal[
    "bernoulli",
    "continuous-bernoulli",
    "normal",
    "laplace",
    "student-t",
    "discretized-logistic",
    "logistic-mixture",
    "pixel-mixture",
    "categorical",
    "binomial",
    "poisson",
    "negative-binomial",
    "zero-inflated-poisson",
    "zero-inflated-negative-binomial",
    "columns",
]
ColumnLikelihood = Literal[
    "normal",
    "student-t",
    "laplace",
    "poisson",
    "negative-binomial",
    "categorical",
    "bernoulli",
    "beta",
    "truncated-normal",
]
PosteriorName = Literal["normal", "full", "low-rank", "flow", "hierarchical"]
ProgramName = Literal["vae", "bottom-up", "top-down", "conditional", "semi-supervised", "counts"]
NetworkName = Literal["mlp", "gated", "conv", "residual"]
ObjectiveName = Literal["elbo", "iwae", "renyi"]
Gradient = Literal["reparameterized", "stl", "dreg"]
Start = Literal["data", "random"]
ScaleOf = Literal["shared", "value", "network"]
Activation = Literal["tanh", "relu", "softplus", "gelu", "silu"]
Binarize = Literal["dynamic", "static", "threshold", "gray", "dequantized", "none"]
Exposure = Literal["file", "library", "none"]
Layout = Literal["channels-first", "channels-last"]
Schedule = Literal["constant", "one-cycle", "cosine"]
WarmupUnit = Literal["epochs", "steps"]
KL = Literal["sampled", "analytic"]
Precision = Literal["float32", "bfloat16"]
Latents = Literal["posterior", "prior"]
Method = Literal["guide", "refined", "laplace", "annealed", "modes", "auto"]
"""Proposal of importance sampling: a rung of the ladder, or ``"auto"`` to climb it per datum."""


@dataclasses.dataclass(frozen=True)
class Must:
    """A rule for the values of a field, put in its ``Annotated`` type; ``None`` always passes."""

    words: str
    holds: Callable[[Any], bool]


def at_least(least: int) -> Must:
    """Return the rule that a value is at least ``least``."""
    return Must(f"be at least {least}", lambda value: value >= least)


POSITIVE = Must("be positive", lambda value: 0 < value < math.inf)
NOT_NEGATIVE = Must("not be negative", lambda value: value >= 0)


class Of:
    """Marks a field that only some values of another setting use; with others it keeps its default.

    Args:
        setting: name of the other field.
        values: the values of it that use this field.
    """

    def __init__(self, setting: str, *values: str) -> None:
        self.setting = setting
        self.values = values


def check_values(settings: object) -> None:
    """Check the fields of a dataclass against their annotations; numbers of NumPy become Python's.

    Raises:
        TypeError: another kind of value where a number is expected.
        ValueError: a value that breaks a rule, or a word that is not one of the choices.
    """
    for name, (kind, rules) in _declared(settings).items():
        value = as_number(getattr(settings, name))
        object.__setattr__(settings, name, value)
        if value is None and NoneType in get_args(kind):
            continue
        choices = [get_args(one) for one in (kind, *get_args(kind)) if get_origin(one) is Literal]
        if choices and (isinstance(value, str) or get_origin(kind) is Literal):
            check_choice(name, str(value), choices[0])
        numbers = [one for one in (kind, *get_args(kind)) if one in (int, float)]
        if numbers and not fits(value, kind):
            expected = "a number" if float in numbers else "a whole number"
            raise TypeError(f"{name} must be {expected}; got {value!r}.")
        for rule in rules:
            if isinstance(rule, Must) and not rule.holds(value):
                raise ValueError(f"{name} must {rule.words}; got {value}.")


def takes(settings: object, option: str) -> bool:
    """Return whether the values of the other settings allow an option."""
    _, rules = _declared(settings)[option]
    return all(getattr(settings, r.setting) in r.values for r in rules if isinstance(r, Of))


def not_taken(settings: object, setting: str) -> dict[str, tuple[str, ...]]:
    """Find options that were set although this value of a setting does not use them.

    Returns:
        By option, the values of the setting that do use it.
    """
    kind, value = type(settings), getattr(settings, setting)
    return {
        name: rule.values
        for name, (_, rules) in _declared(settings).items()
        for rule in rules
        if isinstance(rule, Of) and rule.setting == setting and value not in rule.values
        if getattr(settings, name) != getattr(kind, name)
    }


def check_taken(settings: object, setting: str) -> None:
    """Raise a ``ValueError`` for an option that was set but that this setting does not use."""
    for option, owners in not_taken(settings, setting).items():
        raise ValueError(
            f"{setting} {getattr(settings, setting)!r} does not take "
            f"{option}={getattr(settings, option)!r}; only {' and '.join(map(repr, owners))} "
            f"{'does' if len(owners) == 1 else 'do'}."
        )


def _declared(settings: object) -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """Type of each field of a dataclass, and the rest of its annotation."""
    kind: Any = type(settings)
    return _read(kind)


@cache
def _read(kind: Any) -> dict[str, tuple[Any, tuple[Any, ...]]]:
    hints = get_type_hints(kind, include_extras=True)
    pairs = ((field.name, hints[field.name]) for field in dataclasses.fields(kind))
    return {
        name: (get_args(hint)[0], hint.__metadata__)
        if hasattr(hint, "__metadata__")
        else (hint, ())
        for name, hint in pairs
    }
