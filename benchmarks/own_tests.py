"""Pytest plugin: Pyro's tests with the package's objectives under the names of Pyro's.

``python benchmarks/corpus.py --own-tests`` runs them with it and without, and names what fails
only with it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import pyro.infer
import pyro.infer.autoguide  # before a checkout's own comes on the path

import pyro_vae as pv

__all__ = ["OBJECTIVES_OF", "EnumeratedELBO", "Renyi", "TraceELBO", "pytest_configure"]

OBJECTIVES_OF = "PYRO_CORPUS_OBJECTIVES"
"""Environment variable: ``"ours"`` puts the package's objectives in place of Pyro's."""


def _set(elbo: Any, max_plate_nesting: float, others: Mapping[str, Any]) -> None:
    """Set what the package finds out by itself, and Pyro's tests state."""
    elbo.vectorize_particles = others.get("vectorize_particles", elbo.vectorize_particles)
    elbo.strict_enumeration_warning = others.get("strict_enumeration_warning", True)
    own = elbo.vectorize_particles and elbo.num_particles > 1
    elbo.max_plate_nesting = max_plate_nesting + own  # the plate over particles


class TraceELBO(pv.ELBO):
    """``pv.ELBO`` with the parameters of ``pyro.infer.Trace_ELBO``."""

    def __init__(
        self, num_particles: int = 1, max_plate_nesting: float = math.inf, **others: Any
    ) -> None:
        super().__init__(particles=num_particles)
        _set(self, max_plate_nesting, others)


class Renyi(pv.Renyi):
    """``pv.Renyi`` with the parameters of ``pyro.infer.RenyiELBO``."""

    def __init__(
        self,
        alpha: float = 0,
        num_particles: int = 2,
        max_plate_nesting: float = math.inf,
        **others: Any,
    ) -> None:
        super().__init__(alpha=alpha, particles=num_particles)  # always in one vectorized pass
        _set(self, max_plate_nesting, {**others, "vectorize_particles": self.vectorize_particles})


class EnumeratedELBO(pv.EnumeratedELBO):
    """``pv.EnumeratedELBO`` with the parameters of ``pyro.infer.TraceEnum_ELBO``."""

    def __init__(
        self, num_particles: int = 1, max_plate_nesting: float = math.inf, **others: Any
    ) -> None:
        plates = {} if math.isinf(max_plate_nesting) else {"plates": int(max_plate_nesting)}
        super().__init__(particles=num_particles, **plates)
        self.strict_enumeration_warning = others.get("strict_enumeration_warning", True)


def pytest_configure() -> None:
    """Put them in place before the tests are imported."""
    if os.environ.get(OBJECTIVES_OF) == "ours":
        pyro.infer.Trace_ELBO = TraceELBO
        pyro.infer.RenyiELBO = Renyi
        pyro.infer.TraceEnum_ELBO = EnumeratedELBO
