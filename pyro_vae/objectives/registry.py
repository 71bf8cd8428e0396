"""Objectives by name."""

from __future__ import annotations

from typing import Any

from ..common.options import check_taken
from ..common.registry import lookup, options_of
from ..config import Config
from .base import Objective
from .elbo import ELBO
from .enumeration import EnumeratedELBO
from .importance import IWAE, Renyi

__all__ = ["OBJECTIVES", "build_objective", "objective_of"]

OBJECTIVES: dict[str, type[Objective]] = {"elbo": ELBO, "iwae": IWAE, "renyi": Renyi}


def build_objective(name: str, **options: Any) -> Objective:
    """Build an objective of ``OBJECTIVES`` by name, with options as in a config.

    Raises:
        ValueError: an unknown objective; an option or a value that it does not take; one particle
            for a bound that then is the ELBO.
    """
    lookup("objective", name, OBJECTIVES)
    objective: Any = objective_of(Config(objective=name, **options))  # type: ignore[arg-type]
    return objective


def objective_of(config: Config) -> Objective | EnumeratedELBO:
    """Build the objective that a config names; errors are those of :func:`build_objective`.

    For a semi-supervised program it is the ELBO with unknown labels summed out.
    """
    name = config.objective
    options = {option for kind in OBJECTIVES.values() for option in options_of(kind)}
    if config.program == "semi-supervised":
        for option in sorted({"objective", *options} - set(options_of(EnumeratedELBO))):
            value = getattr(config, option)
            if value != getattr(Config, option):
                raise ValueError(
                    f"program 'semi-supervised' is trained by the ELBO with unknown labels summed "
                    f"out, which does not take {option}={value!r}."
                )
        return EnumeratedELBO(particles=config.particles)
    check_taken(config, "objective")
    if name != "elbo" and config.particles == 1:
        raise ValueError(
            f"objective {name!r} with one particle is the ELBO; set particles to more than one, or "
            "use 'elbo'."
        )
    kind = OBJECTIVES[name]
    given = {option: getattr(config, option) for option in options_of(kind)}
    return kind(**{option: value for option, value in given.items() if value is not None})
