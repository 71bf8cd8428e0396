"""Checks of a run: its model against the test data, its encoder against its model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .. import plots
from ..check import Calibration, Predictive, calibration, predictive
from ..common.files import write_json
from ..common.settings import CheckSettings
from ..common.verbs import verb
from .figures import FIGURES
from .folder import load_run
from .inputs import arguments, data_of
from .results import CHECK

__all__ = ["check_figures", "check_run"]


@verb
def check_run(
    folder: str | Path,
    settings: CheckSettings | None = None,
    *,
    root: str | Path | None = None,
    device: str = "auto",
    progress: bool | None = None,
) -> tuple[Predictive, Calibration]:
    """Check a run on its first test data; write ``check.json`` and two figures into its folder.

    Arguments are those of :func:`~pyro_vae.runs.run.evaluate_run`.

    Raises:
        ValueError: a method that the program cannot use; data that cannot be simulated.
    """
    settings = settings or CheckSettings()
    run = load_run(folder, device=device)
    x = arguments(run.config, data_of(run, root=root).test.head(settings.number))
    given = (run.vae.model, run.vae.guide, x)
    fitted = predictive(
        *given,
        latents=settings.latents,
        replicates=settings.replicates,
        method=settings.method,
        samples=settings.samples,
        seed=settings.seed,
        progress=progress,
    )
    ranked = calibration(
        *given,
        simulations=settings.simulations,
        method=settings.method,
        samples=settings.samples,
        seed=settings.seed,
        progress=progress,
    )
    content = {"predictive": fitted.summary(), "calibration": ranked.summary()}
    run.check_folder()
    write_json(run.folder / CHECK, content)
    for path, figure in zip(check_figures(run.folder), (fitted.plot(), ranked.plot()), strict=True):
        plots.save(figure, path)
    return fitted, ranked


def check_figures(folder: Path) -> Iterator[Path]:
    """Paths of the figures, of the predictive checks first."""
    return (folder / FIGURES / f"{name}.png" for name in ("predictive", "calibration"))
