"""What the command line does, as functions: train, evaluate and compare runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..analysis import collapse
from ..common.devices import resolve_device
from ..common.errors import CheckpointError, warn
from ..common.files import sweep, write_json
from ..common.locks import take_turns, writes_to
from ..common.options import Method, check_taken, takes
from ..common.settings import EvaluationSettings
from ..common.verbs import verb
from ..config import Config
from ..data import Data, Splits, fingerprint, load
from ..data.classes import as_in
from ..data.exposure import with_exposure
from ..evidence import Comparison, Evidence, compare, log_evidence
from ..models import build_program, partially_labelled
from ..models.labels import UNKNOWN, check_labels
from ..objectives import objective_of
from ..training import checkpoint
from ..training.fit import fit
from ..training.history import History
from ..training.resuming import check_resumable
from .folder import Run, load_run, read_config
from .results import EVIDENCE, METRICS, stored_evidence
from .tables import columns_of, show_table, with_schema

__all__ = [
    "arguments",
    "check_method",
    "compare_runs",
    "complete",
    "data_of",
    "evaluate_run",
    "identity",
    "load_data",
    "some_of",
    "train_run",
]

_SOME = 10_000  # data that are in memory at once, of those on disk

_MONITORED = 200


@verb
def load_data(config: Config, *, root: str | Path | None = None) -> Splits:
    """Load the data that a config names, with the exposures that its program takes.

    Labels are numbered by the config's classes, if it names them.
    """
    splits = load(
        config.data,
        columns=columns_of(config),
        binarize=config.binarize,
        layout=config.layout,
        seed=config.data_seed,
        validation=config.validation,
        root=root,
    )
    if takes(config, "exposure"):
        splits = Splits(*(with_exposure(data, config.exposure) for data in splits))
    return Splits(*(as_in(config.class_names, data, repr(data.name)) for data in splits))


@verb
def data_of(run: Run, *, root: str | Path | None = None) -> Splits:
    """Load the data of a run.

    Raises:
        ValueError: they have another shape than those that it was trained on.

    Warns:
        PyroVAEWarning: their training split is another one. (Data on disk are not compared.)
    """
    splits = load_data(run.config, root=root)
    train, name = splits.train, run.config.data
    if tuple(train.event_shape) != run.event_shape:
        raise ValueError(
            f"{name} has changed since the run in {run.folder} was trained on it: it holds data of "
            f"shape {tuple(train.event_shape)}, and held some of shape {run.event_shape}. Put the "
            "old data back, or train a new run."
        )
    if takes(run.config, "labels"):
        train = _partly_labelled(train, run.config)
    known = run.train_data if isinstance(train.x, Tensor) else None
    if known is not None and train.sha256 != known:
        warn(
            f"{name} has changed since the run in {run.folder} was trained on it: results are of "
            "the data that are there now, of which it may have seen some."
        )
    return splits


def some_of(train: Data) -> Data:
    """Training data in memory, to start a model from: all, or ten thousand of those on disk."""
    return train if isinstance(train.x, Tensor) else train.head(_SOME).in_memory()


def complete(config: Config, splits: Splits) -> Config:
    """Fill in what depends on the data, so that the model can be rebuilt without them.

    Raises:
        TypeError: labels that are not integers.
        ValueError: an option that the program does not take; data without the labels that it
            needs, or with labels out of range; a table without the likelihood of tables.
    """
    check_taken(config, "program")
    config = with_schema(config, splits)
    exposure = splits.train.exposure
    if exposure is not None and (exposure != 1).any() and not takes(config, "exposure"):
        warn(
            f"{splits.train.name!r} has exposures, which program {config.program!r} leaves unused; "
            "--program counts uses them.",
        )
    if not takes(config, "classes"):
        return config
    for data in splits:
        if data.y is None:
            raise ValueError(
                f"program {config.program!r} needs labels, which the {data.split} split of "
                f"{data.name!r} has not; give them as y (or {data.split}_y) in a .npz file."
            )
    labels = torch.cat([data.y for data in splits if data.y is not None])
    classes = config.classes or int(labels[: len(splits.train)].max()) + 1
    check_labels(labels, classes, least=UNKNOWN if takes(config, "labels") else 0)
    names = splits.train.class_names
    return replace(config, classes=classes, class_names=names and names[:classes])


@verb
@writes_to("out")
def train_run(
    config: Config,
    out: str | Path,
    *,
    root: str | Path | None = None,
    device: str = "auto",
    resume: bool = False,
    say: Callable[[str], None] | None = None,
    monitor: bool = False,
    progress: bool | None = None,
) -> History:
    """Train the model that a config describes into a run folder.

    Args:
        config: data, model and training.
        out: run folder.
        root: folder of downloaded data.
        device: where to train.
        resume: continue the run in ``out``.
        say: is told the columns of a table, before training.
        monitor: add columns to the history that show whether the latents collapse
            (:func:`~pyro_vae.analysis.collapse`), of the first validation data.
        progress: show a progress bar; by default if the output is a terminal.

    Raises:
        ValueError: a config that differs from that of the run to resume, or does not fit the data.
        FileExistsError: ``out`` holds a run and ``resume`` is false.
        BlockingIOError: another process trains into ``out``.
    """
    out = Path(out)
    if config.data and Path(config.data).exists():  # a file, to be found from any folder
        config = replace(config, data=str(Path(config.data).resolve()))
    stored = read_config(out) if resume and checkpoint.holds_run(out) else None
    if stored is not None:
        config = replace(
            config,
            classes=config.classes or stored.classes,
            class_names=stored.class_names,
            likelihood_schema=stored.likelihood_schema,
        )
        check_resumable(stored.to_dict(), config.to_dict(), str(out))
    else:
        # those of these data, not of others
        config = replace(config, likelihood_schema=None, class_names=None)
    splits = load_data(config, root=root)
    config = complete(config, splits)
    if stored is not None:  # which may be of a version that kept no names
        config = replace(config, class_names=stored.class_names)
    if say is not None and (table := show_table(splits)) is not None:
        say(f"{table}\n")
    train, valid, _ = splits
    start = arguments(config, some_of(train))
    vae = build_program(config, event_shape=train.event_shape, data=start)
    if takes(config, "labels"):
        train, valid = _partly_labelled(train, config), _hidden(valid)
    watched = (valid if len(valid) else train).head(_MONITORED)
    on_epoch = collapse(vae, arguments(config, watched)) if monitor else None
    return fit(
        vae,
        train,
        valid if len(valid) else None,
        objective=objective_of(config),
        **asdict(config.training),
        device=device,
        out=out,
        resume=resume,
        config=config,
        on_epoch=on_epoch,
        progress=progress,
    )


@verb
def evaluate_run(
    folder: str | Path,
    settings: EvaluationSettings | None = None,
    *,
    root: str | Path | None = None,
    device: str = "auto",
    progress: bool | None = None,
) -> Evidence:
    """Estimate log p(x) of a run's test data; write ``evidence.json`` and ``metrics.json``.

    For a conditional program it is log p(x|y), of data given their labels, and for one of counts
    log p(x|e), given their exposures; for a semi-supervised one the labels are unknown. Other
    arguments are those of :func:`train_run`.

    Raises:
        ValueError: a method that the program cannot use.
    """
    settings = settings or EvaluationSettings()
    run = load_run(folder, device=device)
    check_method(run.config, settings.method)
    test = data_of(run, root=root).test
    options = asdict(settings)
    if (number := options.pop("number")) is not None:
        test = test.head(number)
    evidence = log_evidence(
        run.vae.model, run.vae.guide, arguments(run.config, test), **options, progress=progress
    )
    sha256, description = identity(run.config, test)
    evidence = replace(evidence, data_sha256=sha256, data=description, model_sha256=run.sha256)
    likelihood = getattr(run.vae.likelihood, "description", type(run.vae.likelihood).__name__)
    metrics = {**evidence.summary(), "likelihood": likelihood}
    if takes(run.config, "labels") and test.y is not None and (test.y != UNKNOWN).all():
        there = test.to(resolve_device(device))
        vae: Any = run.vae
        assert there.y is not None
        pairs = zip(there.x.split(_SOME), there.y.split(_SOME), strict=True)
        right = sum(round(vae.accuracy(x, y) * len(y)) for x, y in pairs)
        metrics["accuracy"] = right / len(test)
    with take_turns(run.folder):
        run.check_folder()
        sweep(run.folder, METRICS, EVIDENCE)
        write_json(run.folder / METRICS, metrics)
        evidence.save(run.folder / EVIDENCE)  # the last: it tells a study that all is done
    return evidence


def arguments(config: Config, data: Data) -> tuple[Tensor, ...]:
    """Arguments on which a config's program is evaluated: data, with labels or exposures if any."""
    if takes(config, "exposure"):
        assert data.exposure is not None  # load_data sees to it
        return data.x, data.exposure
    labels = (_hidden(data) if takes(config, "labels") else data).y
    return (data.x,) if labels is None or not takes(config, "classes") else (data.x, labels)


def identity(config: Config, data: Data) -> tuple[str, str]:
    """Hash and description of the data whose log p(x), log p(x|y) or log p(x|e) is estimated."""
    if config.program == "conditional":
        return fingerprint(*arguments(config, data)), f"{data.description}, given labels"
    if data.exposure is not None and takes(config, "exposure") and (data.exposure != 1).any():
        return fingerprint(*arguments(config, data)), f"{data.description}, given exposures"
    return data.sha256, data.description


def check_method(config: Config, method: Method) -> None:
    """Raise a ``ValueError`` for a proposal that cannot be fitted to a config's program."""
    if method != "guide" and takes(config, "labels"):
        raise ValueError(
            f"the unknown label of program {config.program!r} is discrete, and method {method!r} "
            "fits proposals of real values; use method='guide' (--method guide)."
        )


@verb
def compare_runs(folders: Sequence[str | Path]) -> Comparison:
    """Compare evaluated runs.

    Raises:
        CheckpointError: no such folder, or a run that was not evaluated.
        ValueError: runs evaluated on different data.
    """
    evidences = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise CheckpointError(f"there is no folder {folder}; give those of runs.")
        evidence = stored_evidence(folder)
        if evidence is None:
            raise CheckpointError(f"{folder} was not evaluated; run `pyro-vae evaluate {folder}`.")
        evidences[str(folder)] = evidence
    return compare(evidences)


def _partly_labelled(train: Data, config: Config) -> Data:
    if config.labels is None:
        return train
    return partially_labelled(train, labels=config.labels, seed=config.data_seed)


def _hidden(data: Data) -> Data:
    """Data with their labels hidden."""
    return replace(data, y=torch.full((len(data),), UNKNOWN))
