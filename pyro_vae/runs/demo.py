"""The demonstration: train under three priors on the embedded digits, compare log p(x), draw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..config import Config
from .run import draw_run, train_run
from .study import Study, study

__all__ = ["demo"]

_PRIORS = ("normal", "mixture", "vamp")
_CONFIG = Config(
    data="digits",
    latent_dim=12,
    hidden=(200, 200),
    epochs=300,
    schedule="one-cycle",
    prior_components=50,
)


def demo(
    out: str | Path,
    *,
    samples: int = 1000,
    epochs: int | None = None,
    say: Callable[[str], None] = print,
    progress: bool | None = None,
) -> tuple[Study, list[Path]]:
    """Train real models on real digits and show their log p(x) with error bars.

    Args:
        out: folder for the runs and the figures.
        samples: importance samples for each held-out digit.
        epochs: training epochs of each model; by default what the digits need.
        say: shows a line of progress.
        progress: show progress bars; by default if the output is a terminal.

    Returns:
        The study of the priors, and the paths of the figures.
    """
    out = Path(out)
    config = _CONFIG if epochs is None else replace(_CONFIG, epochs=epochs)
    result = study(
        "prior",
        _PRIORS,
        config,
        out,
        samples=samples,
        device="cpu",
        say=say,
        progress=progress,
    )
    say("two latent dimensions, for a picture of the whole latent space")
    flat = out / "two-dimensional"
    train_run(
        replace(config, latent_dim=2, prior_components=None), flat, device="cpu", progress=progress
    )
    figures = list(result.figures)
    for folder in (*(out / prior for prior in _PRIORS), flat):
        figures += draw_run(folder)
    return result, figures
