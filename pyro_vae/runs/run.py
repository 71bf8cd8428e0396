"""What the command line does, as functions: train, evaluate and compare runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..analysis import collapse
from ..common.devices import resolve_device
from ..common.errors import CheckpointError
from ..common.files import sweep, write_json
from ..common.locks import take_turns, writes_to
from ..common.options import takes
from ..common.settings import EvaluationSettings
from ..common.verbs import verb
from ..config import Config
from ..evidence import Comparison, Evidence, compare, log_evidence
from ..models import build_program
from ..models.labels import UNKNOWN
from ..objectives import objective_of
from ..training import checkpoint
from ..training.fit import fit
from ..training.history import History
from ..training.resuming import check_resumable
from .folder import load_run, read_config
from .inputs import (
    SOME,
    arguments,
    complete,
    data_of,
    hidden,
    identity,
    load_data,
    partly_labelled,
    some_of,
)
from .results import EVIDENCE, METRICS, stored_evidence
from .tables import show_table

__all__ = ["compare_runs", "evaluate_run", "train_run"]

_MONITORED = 200


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
        train, valid = partly_labelled(train, config), hidden(valid)
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
        pairs = zip(there.x.split(SOME), there.y.split(SOME), strict=True)
        right = sum(round(vae.accuracy(x, y) * len(y)) for x, y in pairs)
        metrics["accuracy"] = right / len(test)
    with take_turns(run.folder):
        run.check_folder()
        sweep(run.folder, METRICS, EVIDENCE)
        write_json(run.folder / METRICS, metrics)
        evidence.save(run.folder / EVIDENCE)  # the last: it tells a study that all is done
    return evidence


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
