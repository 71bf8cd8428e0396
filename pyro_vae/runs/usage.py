"""What a model does with its latents, and what its training cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyro import poutine
from torch import Tensor

from ..analysis import active_units, rate
from ..common.options import takes
from ..data.sets import Data
from ..programs.traces import Fn
from .folder import Run
from .inputs import arguments

__all__ = ["Usage", "usage_of"]

_ANALYSED = 1000  # data; the rate takes all pairs of them


@dataclass(frozen=True)
class Usage:
    """What one model does with its latents on test data, and the time that its training took.

    Attributes:
        rate: KL term of the ELBO, nats per datum.
        rate_error: its standard error over the data.
        active: latent dimensions whose posterior mean varies over the data.
        latents: latent dimensions in all.
        seconds: training time.
    """

    rate: float
    rate_error: float
    active: int
    latents: int
    seconds: float


def usage_of(run: Run, test: Data) -> Usage:
    """Measure what a run's model does with its latents on test data."""
    data = arguments(run.config, test.head(_ANALYSED))
    model, guide = run.vae.model, run.vae.guide
    spent = rate(model, guide, data)
    if takes(run.config, "labels"):  # of the style, given the likeliest label
        vae: Any = run.vae
        x = test.head(_ANALYSED).in_memory().x
        data = (x, vae.classify(x).argmax(-1).to(x.device))
        model, guide = map(_given_labels, (model, guide))
    active = active_units(model, guide, data)
    return Usage(
        rate=spent.rate,
        rate_error=spent.error,
        active=active.number,
        latents=active.total,
        seconds=run.history.epochs[-1].seconds,
    )


def _given_labels(program: Fn) -> Fn:
    """Return a program of x and labels with the labels observed."""

    def given(x: Tensor, y: Tensor) -> Any:
        return poutine.condition(program, data={"y": y})(x, y)

    return given
