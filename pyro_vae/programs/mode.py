"""The state in which programs are evaluated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch

from ..common.checks import modules_of
from ..common.seeding import seeded

__all__ = ["evaluation_mode"]


@contextmanager
def evaluation_mode(*programs: Callable[..., Any]) -> Iterator[None]:
    """Put the modules that programs use in ``eval()`` mode, without gradients, for a while.

    Pyro's argument validation is off meanwhile (data are checked for themselves), and whatever the
    programs draw leaves the caller's random state as it was.
    """
    flags = {m: m.training for owner in modules_of(*programs) for m in owner.modules()}
    with torch.no_grad(), pyro.validation_enabled(False), seeded("evaluation", 0):
        for module in flags:
            module.training = False
        try:
            yield
        finally:
            for module, flag in flags.items():
                module.training = flag
