"""A study: parts of the model are varied, all else stays the same, and the effect is measured."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..common.files import write_json
from ..common.host import use_threads
from ..common.locks import writes_to
from ..common.options import Method, takes
from ..common.settings import EvaluationSettings
from ..common.verbs import verb
from ..config import Config
from ..data import Splits
from ..evidence import Evidence, compare, compare_seeds
from ..models import build_program
from ..objectives import objective_of
from ..training.checkpoint import holds_run
from ..training.resuming import check_resumable
from .figures import draw_run, draw_study
from .folder import load_run, read_config
from .grid import Planned, plan
from .inputs import arguments, complete, identity, load_data, some_of
from .outcome import Study
from .report import report_runs
from .results import EVIDENCE
from .run import train_run
from .tables import show_table
from .tasks import Task, in_processes, in_turn
from .usage import usage_of

__all__ = ["demo", "study"]

_DEMO_PRIORS = ("normal", "mixture", "vamp")
_DEMO = Config(
    latent_dim=12, hidden=(200, 200), epochs=300, schedule="one-cycle", prior_components=50
)


@verb
@writes_to("out")
def study(
    setting: str | Mapping[str, Sequence[Any]],
    values: Sequence[Any] | None = None,
    config: Config | None = None,
    out: str | Path | None = None,
    *,
    seeds: int = 1,
    jobs: int = 1,
    samples: int = EvaluationSettings.samples,
    method: Method = "auto",
    number: int | None = EvaluationSettings.number,
    search: bool = EvaluationSettings.search,
    compiled: bool = EvaluationSettings.compiled,
    seed: int = EvaluationSettings.seed,
    root: str | Path | None = None,
    device: str = "auto",
    resume: bool = False,
    say: Callable[[str], None] = print,
    progress: bool | None = None,
) -> Study:
    """Train a model for each value of a setting, and compare them by log p(x).

    ``setting`` is a field of ``config``, such as ``"prior"``, with at least two ``values``; or a
    grid, ``{"prior": ["normal", "vamp"], "latent_dim": [2, 4]}``, of which every combination is a
    model. All have the same data and budget. Options of a part that only some of the values take
    (the components of a mixture) are passed to those.

    Each model is trained from so many ``seeds``: ``config.seed`` and those after it; data, their
    binarization and test split, are the same for all. With two or more the spread between
    trainings is part of the result. Each training has a run folder in ``out``.

    So many ``jobs`` run at once, in processes of their own; each run computes on one thread, and
    numbers do not depend on ``jobs``. A run that fails is reported, and the others go on.

    ``samples``, ``method``, ``number``, ``search``, ``compiled`` and ``seed`` are those of
    :class:`EvaluationSettings`, the seed for the first training of each model (further ones have
    those after it); ``root``, ``device`` and ``progress`` those of :func:`train_run`; ``say``
    prints a line of progress. With ``resume``, a study in ``out`` is continued: finished runs, and
    estimates made with the same settings, are not repeated. One process at a time works in ``out``.

    Raises:
        ValueError: an unknown setting, or one that decides what the test data are; fewer than two
            different values; an option that no value takes; a model that cannot be built, or
            evaluated by this method; every run failed.
        FileExistsError: ``out`` holds runs of the study and ``resume`` is false.
        Interrupted: Ctrl-C; what was done is saved.
    """
    grid = _grid(setting, values, config, out)
    config, out = replace(config or Config(), class_names=None), Path(out or "")
    settings = EvaluationSettings(
        samples=samples,
        method=method,
        number=number,
        search=search,
        compiled=compiled,
        seed=seed,
    )
    planned = plan(grid, config, seeds)
    # Exposures are there if any of the models takes them.
    needy = [one.config for one in planned if takes(one.config, "exposure")]
    splits = load_data(needy[0] if needy else config, root=root)
    planned = _checked(planned, splits)
    if (table := show_table(splits)) is not None:
        say(f"{table}\n")
    name = ", ".join(grid)
    tasks = {
        one.name: Task(
            label=f"{name} {one.name}" if len(grid) == 1 else one.name,
            folder=out / one.name,
            config=one.config,
            settings=replace(settings, seed=seed + one.seed),
            resume=resume,
            root=root,
            device=device,
        )
        for one in planned
    }
    _check_folders(tasks.values(), resume=resume)
    if jobs < 1 or (jobs > 1 and int(os.environ.get("WORLD_SIZE", "1")) > 1):
        raise ValueError(f"jobs must be at least 1, and 1 under torchrun; got {jobs}.")
    if jobs == 1:
        failed = in_turn([*tasks.values()], say, progress)
    else:
        failed = in_processes([*tasks.values()], jobs, splits.test, say)
    failures = {str(t.folder): failed[t.label] for t in tasks.values() if t.label in failed}
    done = [one for one in planned if tasks[one.name].label not in failed]
    if not done:
        folder, cause = next(iter(failures.items()))
        raise ValueError(f"every run failed; the first, {folder}: {cause}")
    runs = {one.name: load_run(out / one.name, device=device) for one in done}
    evidences = {one.name: Evidence.load(out / one.name / EVIDENCE) for one in done}
    models: dict[str, tuple[str, ...]] = {}
    for one in done:
        models[one.model] = (*models.get(one.model, ()), one.name)
    with use_threads(1):
        usage = {one: usage_of(run, splits.test) for one, run in runs.items()}
    result = Study(
        setting=name,
        comparison=compare(evidences),
        usage=usage,
        by_seed=compare_seeds(
            {model: [evidences[one] for one in names] for model, names in models.items()}
        ),
        models=models,
        failures=failures,
    )
    values_of = {one.model: one.config for one in done}
    result = replace(
        result,
        figures=tuple(draw_study(result, values_of, runs, evidences, out / "figures")),
    )
    write_json(out / "study.json", result.to_dict())
    return result


@verb
def demo(
    out: Path, *, samples: int, epochs: int | None, say: Callable[[str], None]
) -> tuple[Study, list[Path], Path]:
    """Train real models on real digits and show their log p(x) with error bars.

    ``samples`` are drawn for each held-out digit. ``epochs`` may be ``None`` for as many as the
    digits need. ``say`` prints a line of progress.

    Returns:
        The study of the priors, the paths of the figures, and that of the report.
    """
    config = _DEMO if epochs is None else replace(_DEMO, epochs=epochs)
    result = study("prior", _DEMO_PRIORS, config, out, samples=samples, device="cpu", say=say)
    say("two latent dimensions, for a picture of the whole latent space")
    flat = out / "two-dimensional"
    train_run(replace(config, latent_dim=2, prior_components=None), flat, device="cpu")
    figures, folders = list(result.figures), [*(out / prior for prior in _DEMO_PRIORS), flat]
    for folder in folders:
        figures += draw_run(folder)
    return result, figures, report_runs(folders, out / "report.html")


def _grid(
    setting: str | Mapping[str, Sequence[Any]],
    values: Sequence[Any] | None,
    config: Config | None,
    out: str | Path | None,
) -> dict[str, Sequence[Any]]:
    """Return what to vary, by setting."""
    if isinstance(setting, Mapping):
        grid = dict(setting)
        if values is not None:
            raise TypeError("a grid holds its values: study({...}, config=config, out=folder).")
    elif values is None:
        raise TypeError("study needs values: study(setting, values, config, out).")
    else:
        grid = {setting: values}
    if not isinstance(config, Config) or out is None:
        raise TypeError("study needs config=Config(...) and out=folder.")
    return grid


def _checked(planned: Sequence[Planned], splits: Splits) -> list[Planned]:
    """Complete the configs; mistakes show before anything is trained."""
    checked, known, named = [], dict[str, Config](), dict[tuple[str, str], str]()
    for one in planned:
        if one.model not in known:
            config = complete(one.config, splits)
            build_program(
                config,
                event_shape=splits.train.event_shape,
                data=arguments(config, some_of(splits.train)),
            )
            objective_of(config)
            known[one.model] = config
            named[identity(config, splits.test)] = one.model
        checked.append(replace(one, config=replace(known[one.model], seed=one.config.seed)))
    if len(named) > 1:
        first, other, *_ = (f"{model} gives log p of {data}" for (_, data), model in named.items())
        raise ValueError(
            f"{first}, and {other}: these cannot be compared; study another setting of each."
        )
    return checked


def _check_folders(tasks: Iterable[Task], *, resume: bool) -> None:
    """Check that what is in the folders can be resumed, or that nothing is."""
    for task in tasks:
        if not resume and holds_run(task.folder):
            raise FileExistsError(
                f"{task.folder} holds a run already; resume the study (resume=True, --resume) or "
                "choose another folder."
            )
        if task.resume:
            stored = read_config(task.folder)
            check_resumable(stored.to_dict(), task.config.to_dict(), str(task.folder))
