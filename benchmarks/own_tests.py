"""Pytest plugin: Pyro's tests with the package's objectives under the names of Pyro's.

``python benchmarks/corpus.py --own-tests`` runs them with it and without, and names what fails
only with it.
"""

from __future__ import annotations

import math
import os
from typing import Any

import pyro.infer
import pyro.infer.autoguide  # before a checkout's own comes on the path

import pyro_vae as pv

__all__ = ["OBJECTIVES_OF", "EnumeratedELBO", "Renyi", "TraceELBO", "pytest_configure"]

OBJECTIVES_OF = "PYRO_CORPUS_OBJECTIVES"
"""Environment variable: ``"ours"`` puts the package's objectives in place of Pyro's."""


class TraceELBO(pv.ELBO):
    """``pv.ELBO`` with the parameters of ``pyro.infer.Trace_ELBO``."""

    def __init__(
        self, num_particles: int = 1, max_plate_nesting: float = math.inf, **others: Any
    ) -> None:
        super().__init__(particles=num_particles)
        self.max_plate_nesting = max_plate_nesting


class Renyi(pv.Renyi):
    """``pv.Renyi`` with the parameters of ``pyro.infer.RenyiELBO``."""

    def __init__(
        self,
        alpha: float = 0,
        num_particles: int = 2,
        max_plate_nesting: float = math.inf,
        **others: Any,
    ) -> None:
        super().__init__(alpha=alpha, particles=num_particles)
        self.max_plate_nesting = max_plate_nesting


class EnumeratedELBO(pv.EnumeratedELBO):
    """``pv.EnumeratedELBO`` with the parameters of ``pyro.infer.TraceEnum_ELBO``."""

    def __init__(
        self, num_particles: int = 1, max_plate_nesting: float = math.inf, **others: Any
    ) -> None:
        if math.isinf(max_plate_nesting):
            super().__init__(particles=num_particles)
        else:
            super().__init__(particles=num_particles, plates=int(max_plate_nesting))


def pytest_configure() -> None:
    """Put them in place before the tests are imported."""
    if os.environ.get(OBJECTIVES_OF) == "ours":
        pyro.infer.Trace_ELBO = TraceELBO
        pyro.infer.RenyiELBO = Renyi
        pyro.infer.TraceEnum_ELBO = EnumeratedELBO
