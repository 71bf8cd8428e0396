"""Samples and figures of a run, and figures of several runs side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import plots
from ..common.files import write_atomically
from ..common.options import takes
from ..common.seeding import seeded
from ..common.verbs import verb
from ..config import Config
from ..data import Data, decoded
from ..data.frames import write_frame
from ..evidence import Evidence
from ..evidence.diagnostics import pareto_k_threshold
from .folder import Run, load_run
from .inputs import arguments, data_of
from .outcome import Study
from .results import stored_evidence

__all__ = ["draw_run", "draw_samples", "draw_study", "encode", "sample_run"]

FIGURES = "figures"
_SHOWN = 2000  # data in a scatter plot
_MOST_COLUMNS = 20


@verb
def sample_run(
    folder: str | Path, *, number: int = 100, seed: int = 0, device: str = "auto"
) -> tuple[Path, Path]:
    """Draw data from p(x) of a run; write them as ``samples.npy`` and as a figure.

    With labels, the data go through the classes in turn. Rows of a table are ``samples.csv``.

    Returns:
        Paths of the array or table and of the figure.
    """
    run = load_run(folder, device=device)
    x = run.sample(number, seed=seed)
    run.check_folder()
    schema = run.config.likelihood_schema
    if schema is not None:
        table = write_frame(decoded(x, schema), run.folder / "samples.csv")
        return table, _draw_rows(run, x)
    array = write_atomically(run.folder / "samples.npy", lambda file: np.save(file, x.numpy()))
    return array, draw_samples(run, number, seed)


def draw_run(folder: str | Path, *, root: str | Path | None = None) -> Iterator[Path]:
    """Draw every figure of a run: samples, reconstructions, curves, latent space, evidence."""
    run = load_run(folder)
    test = data_of(run, root=root).test
    out = run.folder / FIGURES
    evidence = stored_evidence(run.folder)
    if test.schema is None:
        yield draw_samples(run, 100, 0)
    else:
        yield _draw_rows(run, run.sample(_SHOWN, seed=0), test.x)
    yield from _draw_reconstructions(run, test, out)
    yield plots.save(
        plots.learning_curves(
            {_title(run): run.history.columns()}, evidence=_levels({_title(run): evidence})
        ),
        out / "curves.png",
    )
    yield plots.save(_latent_figure(run, test), out / "latent.png")
    # A program that can interpolate can decode any point of its one latent space.
    line = hasattr(run.vae, "interpolate")
    if line and run.config.latent_dim == 2 and _are_pictures(test):
        yield plots.save(_manifold_figure(run.vae), out / "manifold.png")
    if evidence is not None and evidence.corrected().isfinite().all():
        given = " given labels" if run.config.program == "conditional" else ""
        yield plots.save(
            plots.evidence_diagnostics(
                evidence.corrected(),
                evidence.pareto_k,
                doubts=evidence.doubts(),
                limit=pareto_k_threshold(int(evidence.draws.max())),
                title=f"log p(x) of {len(evidence)} data{given}, K = {evidence.samples}",
            ),
            out / "evidence.png",
        )


def draw_samples(run: Run, number: int, seed: int) -> Path:
    """Draw pictures from p(x) of a run; with labels, each class has a column."""
    title, columns = f"Samples: {_title(run)}", _MOST_COLUMNS
    classes = run.config.classes
    if classes is not None and classes <= _MOST_COLUMNS:
        title, columns = f"{title}; a column is a class", classes
    x = run.sample(number, seed=seed, mean=True)
    return plots.save(
        plots.images(x, columns=columns, title=title), run.folder / FIGURES / "samples.png"
    )


def _draw_rows(run: Run, draws: Tensor, data: Tensor | None = None) -> Path:
    """Draw the columns of rows that a run made, beside those of data."""
    schema: Any = run.config.likelihood_schema
    figure = plots.marginals(schema, draws, data, title=f"Columns: {_title(run)}")
    return plots.save(figure, run.folder / FIGURES / "columns.png")


def draw_study(
    study: Study,
    configs: Mapping[str, Config],
    runs: Mapping[str, Run],
    evidences: Mapping[str, Evidence],
    out: Path,
) -> Iterator[Path]:
    """Draw the models of a study side by side; against the values of a setting of numbers.

    ``configs`` are by model, ``runs`` and ``evidences`` by run. Learning curves are those of each
    model's first run.
    """
    rows, firsts = study.by_seed.rows, {m: names[0] for m, names in study.models.items()}
    seeded = any(row.seeds > 1 for row in rows)
    yield plots.save(
        plots.comparison(
            [row.name for row in rows],
            [row.log_px for row in rows],
            [row.error if seeded else row.sampling_error for row in rows],
            differences=[row.difference for row in rows],
            difference_errors=[row.difference_error for row in rows],
            doubtful=[row.share_unreliable for row in rows],
            title="log p(x) of the held-out data"
            + ": errors of seeds, data and Monte Carlo" * seeded,
        ),
        out / "comparison.png",
    )
    yield plots.save(
        plots.learning_curves(
            {model: runs[name].history.columns() for model, name in firsts.items()},
            evidence=_levels({model: evidences[name] for model, name in firsts.items()}),
        ),
        out / "curves.png",
    )
    values: dict[str, Any] = {
        model: getattr(config, study.setting, None) for model, config in configs.items()
    }
    if len(values) > 1 and all(type(value) in (int, float) for value in values.values()):
        yield plots.save(
            plots.evidence_by_value(
                [values[row.name] for row in rows],
                [row.log_px for row in rows],
                [row.seed_error for row in rows],
                [row.sampling_error for row in rows],
                alike=[not row.distinguishable for row in rows],
                each=[
                    [evidences[name].mean().value for name in study.models[row.name]]
                    for row in rows
                ],
                active=[
                    [study.usage[name].active for name in study.models[row.name]] for row in rows
                ],
                name=study.setting.replace("_", " "),
            ),
            out / f"{study.setting}.png",
        )


def _levels(evidences: Mapping[str, Evidence | None]) -> dict[str, tuple[float, float, float]]:
    """Mean log p(x) by name, its sampling error, and the ELBO of the same data."""
    return {
        name: (evidence.mean().value, evidence.mean().sampling_error, evidence.elbo.mean().item())
        for name, evidence in evidences.items()
        if evidence is not None
    }


def _title(run: Run) -> str:
    config = run.config
    layers = ", two layers" if takes(config, "top_dim") else ","
    program = "" if config.program == "vae" else f"{layers} {config.program}"
    prior = "learned" if config.learned_prior else config.prior
    data = config.data.rpartition("/")[2].replace("$", r"\$")  # else figures take it for formulas
    return f"{data}, {prior} prior{program}"


@verb
def encode(run: Run, data: Data) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Codes of data, the lower layer first, and what encoder and decoder take beside them."""
    vae: Any = run.vae
    given = arguments(run.config, data)[1:]
    if hasattr(vae, "classify"):  # infers the label as well as the style
        given = (vae.classify(data.x).argmax(-1),)
    codes = vae.encode(data.x, *given)
    return codes if isinstance(codes, tuple) else (codes,), given


def _are_pictures(data: Data) -> bool:
    """Whether data are pictures; a table, which may have holes, is none."""
    return data.schema is None and plots.are_pictures(data.head(_SHOWN).in_memory().x)


def _draw_reconstructions(run: Run, test: Data, out: Path) -> Iterator[Path]:
    if len(test.event_shape) not in (2, 3):
        return
    vae: Any = run.vae
    shown = test.head(10).in_memory()
    codes, given = encode(run, shown)
    figure = plots.reconstructions(shown.x, vae.decode(*codes, *given))
    yield plots.save(figure, out / "reconstructions.png")
    pairs = min(6, len(test) // 2) if _are_pictures(test) else 0
    if pairs and hasattr(vae, "interpolate"):
        a, b = test.x[:pairs], test.x[pairs : 2 * pairs]
        figure = plots.interpolation(vae.interpolate(a, b, steps=10))
        yield plots.save(figure, out / "interpolation.png")


def _latent_figure(run: Run, test: Data) -> plots.Figure:
    shown = test.head(_SHOWN).in_memory()
    codes, title = encode(run, shown)[0][0], f"Posterior means: {_title(run)}"
    if codes.shape[1] == 1:
        return plots.images(codes, title=title)  # a histogram
    return plots.latent_space(codes, shown.y, title=title)


def _manifold_figure(vae: Any, *, points: int = 20) -> plots.Figure:
    """Decode a grid of quantiles of the prior, estimated from its draws."""
    with seeded("manifold", 0):
        draws = vae.prior().sample((20000,))
    levels = torch.linspace(0.02, 0.98, points)
    first, second = draws.quantile(levels, dim=0).unbind(1)
    z = torch.stack(torch.meshgrid(second.flip(0), first, indexing="ij"), -1).flip(-1)
    pictures = vae.decode(z)
    if pictures.shape[-2] < 16:  # pictures so small reach their edges
        pictures = torch.nn.functional.pad(pictures, (0, 0, 1, 1))
    return plots.manifold(
        pictures,
        extent=(first[0].item(), first[-1].item(), second[0].item(), second[-1].item()),
    )
