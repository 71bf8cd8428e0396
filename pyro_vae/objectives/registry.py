"""Objectives by name."""

from __future__ import annotations

from typing import Any

from ..common.options import KL, Gradient
from ..common.registry import lookup
from ..config import Config
from .base import Objective
from .elbo import ELBO
from .importance import IWAE, Renyi

__all__ = ["OBJECTIVES", "build_objective", "objective_of"]

OBJECTIVES: dict[str, type[Objective]] = {"elbo": ELBO, "iwae": IWAE, "renyi": Renyi}


def build_objective(
    name: str,
    *,
    particles: int = 1,
    kl: KL = "sampled",
    gradient: Gradient = "reparameterized",
    alpha: float | None = None,
    free_bits: float = 0.0,
) -> Objective:
    """Build an objective by name.

    Args:
        name: a key of ``OBJECTIVES``.
        particles: draws of z per datum.
        kl: KL term of the ELBO.
        gradient: estimator of the guide's gradient.
        alpha: order of the Rényi bound; by default its class's own.
        free_bits: nats of KL that each latent dimension has for free, in the ELBO.

    Raises:
        ValueError: an unknown objective; an option that it does not take, or takes otherwise; one
            particle for a bound that is the ELBO then.
    """
    kind = lookup("objective", name, OBJECTIVES)
    options: dict[str, Any] = {"particles": particles, "gradient": gradient}
    extra: dict[str, tuple[Any, Any, str]] = {
        "kl": (kl, "sampled", "elbo"),
        "free_bits": (free_bits, 0.0, "elbo"),
        "alpha": (alpha, None, "renyi"),
    }
    for option, (value, default, owner) in extra.items():
        if value == default:
            continue
        if name != owner:
            raise ValueError(
                f"objective {name!r} does not take {option}={value!r}; only {owner!r} does."
            )
        options[option] = value
    if name != "elbo" and particles == 1:
        raise ValueError(
            f"objective {name!r} with one particle is the ELBO; set particles to more than one, or "
            "use 'elbo'."
        )
    return kind(**options)


def objective_of(config: Config) -> Objective:
    """Build the objective that a config names, with its options; raises as build_objective does."""
    return build_objective(
        config.objective,
        particles=config.particles,
        kl=config.kl,
        gradient=config.gradient,
        alpha=config.alpha,
        free_bits=config.free_bits,
    )
