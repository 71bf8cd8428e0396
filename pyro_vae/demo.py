"""The demonstration: train under each prior on the embedded digits, compare log p(x), draw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

from .checkpoint import load_run
from .config import Config, PriorName
from .evidence import Comparison, compare
from .files import write_json
from .runs import draw_comparison, draw_run, evaluate_run, train_run

__all__ = ["demo"]

_CONFIG = Config(data="digits", latent_dim=12, hidden=(200, 200), epochs=300, schedule="one-cycle")


def demo(
    out: str | Path,
    *,
    samples: int = 1000,
    epochs: int | None = None,
    say: Callable[[str], None] = print,
    progress: bool | None = None,
) -> tuple[Comparison, list[Path]]:
    """Train real models on real digits and show their log p(x) with error bars.

    Args:
        out: folder for the runs and the figures.
        samples: importance samples for each held-out digit.
        epochs: training epochs of each model; by default what the digits need.
        say: shows a line of progress.
        progress: show progress bars; by default if the output is a terminal.

    Returns:
        The comparison of the priors, and the paths of the figures.
    """
    out = Path(out)
    config = _CONFIG if epochs is None else replace(_CONFIG, epochs=epochs)
    evidences, runs = {}, {}
    for prior in get_args(PriorName):
        say(f"prior {prior!r}: training on the digits")
        train_run(replace(config, prior=prior), out / prior, device="cpu", progress=progress)
        say(f"prior {prior!r}: log p(x) of the held-out digits, {samples} samples each")
        evidences[prior] = evaluate_run(
            out / prior, samples=samples, method="auto", device="cpu", progress=progress
        )
        runs[prior] = load_run(out / prior)
    say("two latent dimensions, for a picture of the whole latent space")
    flat = out / "two-dimensional"
    train_run(replace(config, latent_dim=2), flat, device="cpu", progress=progress)
    comparison = compare(evidences)
    write_json(out / "comparison.json", comparison.to_dict())
    figures = list(draw_comparison(comparison, runs, evidences, out / "figures"))
    for folder in (*(run.folder for run in runs.values()), flat):
        figures += draw_run(folder)
    return comparison, figures
