"""What the command line does, as functions: train, evaluate, compare, sample and draw a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

import torch

from .. import plots
from ..common.errors import CheckpointError
from ..common.files import write_atomically, write_json
from ..common.options import Method, Precision
from ..config import Config
from ..data.sets import Data, Splits, load
from ..evidence import Comparison, Evidence, compare, log_evidence
from ..models import build_program
from ..models.vae import VAE
from ..objectives import objective_of
from ..training import checkpoint
from ..training.fit import fit
from ..training.history import History
from .folder import Run, load_run, read_config

__all__ = [
    "compare_runs",
    "draw_comparison",
    "draw_run",
    "evaluate_run",
    "load_data",
    "sample_run",
    "train_run",
]

EVIDENCE, METRICS, FIGURES = "evidence.json", "metrics.json", "figures"
_SHOWN = 2000  # data in a scatter plot


def load_data(config: Config, *, root: str | Path | None = None) -> Splits:
    """Load the data that a config names."""
    return load(
        config.data,
        binarize=config.binarize,
        seed=config.data_seed,
        validation=config.validation,
        root=root,
    )


def train_run(
    config: Config,
    out: str | Path,
    *,
    root: str | Path | None = None,
    device: str = "auto",
    resume: bool = False,
    progress: bool | None = None,
) -> History:
    """Train the model that a config describes into a run folder.

    Args:
        config: data, model and training.
        out: run folder.
        root: folder of downloaded data.
        device: where to train.
        resume: go on with the run in ``out``.
        progress: show a progress bar; by default if the output is a terminal.

    Raises:
        ValueError: a config that differs from that of the run to resume.
        FileExistsError: ``out`` holds a run and ``resume`` is false.
    """
    if Path(config.data).exists():  # a file: found again from any folder
        config = replace(config, data=str(Path(config.data).resolve()))
    if resume and (Path(out) / checkpoint.CONFIG).exists():
        _check_same_config(config, read_config(out), out)
    train, valid, _ = load_data(config, root=root)
    vae = build_program(config, event_shape=train.event_shape, data=train.x)
    if resume and not _finished(out, config):  # numbers of the parameters as they were
        for name in (EVIDENCE, METRICS):
            (Path(out) / name).unlink(missing_ok=True)
    return fit(
        vae,
        train,
        valid if len(valid) else None,
        objective=objective_of(config),
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        schedule=config.schedule,
        kl_warmup=config.kl_warmup,
        kl_cycles=config.kl_cycles,
        beta=config.beta,
        compiled=config.compiled,
        precision=config.precision,
        patience=config.patience,
        seed=config.seed,
        device=device,
        out=out,
        resume=resume,
        config=config,
        progress=progress,
    )


def evaluate_run(
    folder: str | Path,
    *,
    samples: int = 1000,
    method: Method = "guide",
    number: int | None = None,
    seed: int = 0,
    chunk: int | None = None,
    compiled: bool = False,
    precision: Precision = "float32",
    root: str | Path | None = None,
    device: str = "auto",
    progress: bool | None = None,
) -> Evidence:
    """Estimate log p(x) of a run's test data; write ``evidence.json`` and ``metrics.json``.

    Args:
        folder: run folder.
        samples: importance samples for each datum.
        method: proposal, see ``log_evidence``.
        number: evaluate the first so many test data only.
        seed: seed of the samples.
        chunk: samples evaluated at once.
        compiled: compile the evaluation first.
        precision: of matrix products, if compiled.
        root: folder of downloaded data.
        device: where to evaluate.
        progress: show a progress bar; by default if the output is a terminal.
    """
    if number is not None and number < 1:
        raise ValueError(f"number of test data must be at least 1; got {number}.")
    run = load_run(folder, device=device)
    test = load_data(run.config, root=root).test
    test = test if number is None else test.head(number)
    evidence = log_evidence(
        run.vae.model,
        run.vae.guide,
        test,
        samples=samples,
        method=method,
        seed=seed,
        chunk=chunk,
        compiled=compiled,
        precision=precision,
        progress=progress,
    )
    evidence.save(run.folder / EVIDENCE)
    description = getattr(run.vae.likelihood, "description", type(run.vae.likelihood).__name__)
    write_json(run.folder / METRICS, {**evidence.summary(), "likelihood": description})
    return evidence


def compare_runs(folders: Sequence[str | Path]) -> Comparison:
    """Compare evaluated runs.

    Raises:
        CheckpointError: a run that was not evaluated.
        ValueError: runs evaluated on different data.
    """
    evidences = {}
    for folder in map(Path, folders):
        path = folder / EVIDENCE
        if not path.exists():
            raise CheckpointError(f"{folder} was not evaluated; run `pyro-vae evaluate {folder}`.")
        evidences[str(folder)] = Evidence.load(path)
    return compare(evidences)


def sample_run(
    folder: str | Path, *, number: int = 100, seed: int = 0, device: str = "auto"
) -> tuple[Path, Path]:
    """Draw data from p(x) of a run; write them as ``samples.npy`` and as a figure.

    Returns:
        Paths of the array and of the figure.
    """
    import numpy as np

    run = load_run(folder, device=device)
    x = run.vae.sample(number, seed=seed).cpu().numpy()
    array = write_atomically(run.folder / "samples.npy", lambda file: np.save(file, x))
    return array, _draw_samples(run, number, seed)


def draw_run(folder: str | Path, *, root: str | Path | None = None) -> Iterator[Path]:
    """Draw every figure of a run: samples, reconstructions, curves, latent space, evidence."""
    run = load_run(folder)
    test = load_data(run.config, root=root).test
    out = run.folder / FIGURES
    evidence = Evidence.load(run.folder / EVIDENCE) if (run.folder / EVIDENCE).exists() else None
    yield _draw_samples(run, 100, 0)
    yield from _draw_reconstructions(run, test, out)
    yield plots.save(
        plots.learning_curves(
            {_title(run): run.history.columns()}, evidence=_levels({_title(run): evidence})
        ),
        out / "curves.png",
    )
    yield plots.save(_latent_figure(run, test), out / "latent.png")
    if isinstance(run.vae, VAE) and run.config.latent_dim == 2 and len(test.event_shape) == 2:
        yield plots.save(_manifold_figure(run.vae), out / "manifold.png")
    if evidence is not None and evidence.log_px.isfinite().all():
        yield plots.save(
            plots.evidence_diagnostics(
                evidence.log_px,
                evidence.pareto_k,
                title=f"log p(x) of {len(evidence)} data, K = {evidence.samples}",
            ),
            out / "evidence.png",
        )


def draw_comparison(
    comparison: Comparison,
    runs: Mapping[str, Run],
    evidences: Mapping[str, Evidence],
    out: str | Path,
) -> Iterator[Path]:
    """Draw runs side by side: log p(x) with errors, and learning curves with their gap."""
    rows = comparison.rows
    yield plots.save(
        plots.comparison(
            [row.name for row in rows],
            [row.log_px for row in rows],
            [row.sampling_error for row in rows],
            differences=[row.difference for row in rows],
            difference_errors=[row.difference_error for row in rows],
            title="log p(x) of the held-out data",
        ),
        Path(out) / "comparison.png",
    )
    yield plots.save(
        plots.learning_curves(
            {name: run.history.columns() for name, run in runs.items()},
            evidence=_levels(evidences),
        ),
        Path(out) / "curves.png",
    )


def _finished(folder: str | Path, config: Config) -> bool:
    """Whether a run has nothing left to train."""
    path = Path(folder) / checkpoint.CHECKPOINT
    if not path.exists():
        return False
    state = checkpoint.read(path)
    stopped: bool = state["finished"] and (
        state["stopped_early"] or state["epoch"] >= config.epochs
    )
    return stopped


def _check_same_config(config: Config, stored: Config, out: str | Path) -> None:
    differ = [
        f"{field.name} {getattr(stored, field.name)!r} (now {getattr(config, field.name)!r})"
        for field in fields(Config)
        if field.name != "epochs" and getattr(stored, field.name) != getattr(config, field.name)
    ]
    if differ:
        raise ValueError(
            f"the run in {out} has {', '.join(differ)}; leave these options out to resume it, or "
            "start a new run."
        )


def _levels(evidences: Mapping[str, Evidence | None]) -> dict[str, tuple[float, float, float]]:
    """Mean log p(x) by name, its sampling error, and the ELBO of the same data."""
    return {
        name: (evidence.mean().value, evidence.mean().sampling_error, evidence.elbo.mean().item())
        for name, evidence in evidences.items()
        if evidence is not None
    }


def _title(run: Run) -> str:
    layers = "" if run.config.program == "vae" else f", two layers {run.config.program}"
    return f"{run.config.data.rpartition('/')[2]}, {run.config.prior} prior{layers}"


def _draw_samples(run: Run, number: int, seed: int) -> Path:
    x = run.vae.sample(number, seed=seed, mean=True).cpu()
    figure = plots.images(x, columns=20, title=f"Samples: {_title(run)}")
    return plots.save(figure, run.folder / FIGURES / "samples.png")


def _draw_reconstructions(run: Run, test: Data, out: Path) -> Iterator[Path]:
    if len(test.event_shape) not in (2, 3):
        return
    x = test.x[:10]
    yield plots.save(plots.reconstructions(x, run.vae.reconstruct(x)), out / "reconstructions.png")
    pairs = min(6, len(test) // 2)
    if pairs and isinstance(run.vae, VAE):
        a, b = test.x[:pairs], test.x[pairs : 2 * pairs]
        figure = plots.interpolation(run.vae.interpolate(a, b, steps=10))
        yield plots.save(figure, out / "interpolation.png")


def _latent_figure(run: Run, test: Data) -> plots.Figure:
    shown = test.head(_SHOWN)
    codes, title = run.vae.encode(shown.x), f"Posterior means: {_title(run)}"
    codes = codes[0] if isinstance(codes, tuple) else codes  # those of the lower layer
    if codes.shape[1] == 1:
        return plots.images(codes, title=title)  # a histogram
    return plots.latent_space(codes, shown.y, title=title)


def _manifold_figure(vae: VAE, *, points: int = 20) -> plots.Figure:
    """Decode a grid through the prior's quantiles, read from its draws."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
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
