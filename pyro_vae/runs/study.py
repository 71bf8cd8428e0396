"""A study: one part of the model is varied, all else stays the same, and the effect is measured."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from pyro import poutine
from torch import Tensor

from ..analysis import active_units, rate
from ..common.errors import UnreliableEvidence
from ..common.files import write_json
from ..common.options import Method, not_taken, takes
from ..common.registry import options_of, suggestion
from ..common.settings import EvaluationSettings
from ..common.tables import align
from ..common.verbs import verb
from ..config import Config
from ..data.sets import Data
from ..evidence import Comparison, Evidence, compare
from ..likelihoods import LIKELIHOODS
from ..models import build_program
from ..objectives import objective_of
from ..posteriors import POSTERIORS
from ..priors import PRIORS
from ..programs.traces import Fn
from ..training.checkpoint import CONFIG
from .figures import draw_comparison, draw_run
from .folder import Run, load_run, read_config
from .run import (
    EVIDENCE,
    arguments,
    check_method,
    complete,
    evaluate_run,
    identity,
    load_data,
    train_run,
)

__all__ = ["Study", "Usage", "demo", "study"]

_ANALYSED = 1000  # data; the rate takes all pairs of them
_PARTS: dict[str, Any] = {"prior": PRIORS, "likelihood": LIKELIHOODS, "posterior": POSTERIORS}
_DEMO_PRIORS = ("normal", "mixture", "vamp")
_DEMO = Config(
    latent_dim=12, hidden=(200, 200), epochs=300, schedule="one-cycle", prior_components=50
)
_OF_THE_DATA = ("data", "binarize", "data_seed")


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


@dataclass(frozen=True)
class Study:
    """Models that differ in one setting, compared on the same test data; prints as a table.

    Attributes:
        setting: field of the config that was varied.
        comparison: paired comparison by log p(x), best first.
        usage: what each model does with its latents, by name.
        figures: paths of the figures.
    """

    setting: str
    comparison: Comparison
    usage: dict[str, Usage]
    figures: tuple[Path, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the study as plain values."""
        return {
            "setting": self.setting,
            **self.comparison.to_dict(),
            "usage": {name: asdict(usage) for name, usage in self.usage.items()},
        }

    def __str__(self) -> str:
        usage = [("rate", "± s.e.", "active", "training")]
        for row in self.comparison.rows:
            one = self.usage[row.name]
            usage.append(
                (
                    f"{one.rate:.2f}",
                    f"{one.rate_error:.2f}",
                    f"{one.active} of {one.latents}",
                    f"{one.seconds / 60:.1f} min" if one.seconds >= 60 else f"{one.seconds:.1f} s",
                )
            )
        cells = [
            (*left, *right) for left, right in zip(self.comparison.cells(), usage, strict=True)
        ]
        notes = [
            *self.comparison.notes(),
            "rate: the KL term of the ELBO, nats per datum. active: latent dimensions whose "
            "posterior mean has a variance above 0.01, a rule for priors of unit scale.",
        ]
        return "\n".join([*(line.rstrip() for line in align(cells)), "", *notes])


@verb
def study(
    setting: str,
    values: Sequence[Any],
    config: Config,
    out: str | Path,
    *,
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
    """Train one model for each value of a setting, and compare them by log p(x).

    ``setting`` is a field of ``config``, such as ``"prior"``, with at least two ``values``; each
    has a run folder in ``out``. All models have the same data, budget and seed. Options of a part
    that only some of the values take (the components of a mixture) are passed to those.

    ``samples``, ``method``, ``number``, ``search``, ``compiled`` and ``seed`` are those of
    :class:`EvaluationSettings`; ``root``, ``device`` and ``progress`` those of :func:`train_run`;
    ``say`` prints a line of progress. With ``resume``, a study in ``out`` is continued: finished
    runs, and estimates made with the same settings, are not repeated.

    Raises:
        ValueError: an unknown setting, or one that decides what the test data are; fewer than two
            different values; an option that no value takes; a model that cannot be built, or
            evaluated by this method.
    """
    settings = EvaluationSettings(
        samples=samples,
        method=method,
        number=number,
        search=search,
        compiled=compiled,
        seed=seed,
    )
    configs = _configs(setting, values, config)
    splits = load_data(config, root=root)
    for name, one in configs.items():  # mistakes show before anything is trained
        check_method(one, method)
        configs[name] = one = complete(one, splits)
        build_program(one, event_shape=splits.train.event_shape, data=splits.train.x)
        objective_of(one)
    out, evidences, runs, usage = Path(out), {}, {}, {}
    for name, one in configs.items():
        folder = out / name
        say(f"{setting} {name}: training")
        again = resume and (folder / CONFIG).exists()
        if again:
            one = replace(one, data=read_config(folder).data)  # a file's path was made absolute
        train_run(one, folder, root=root, device=device, resume=again, progress=progress)
        runs[name] = load_run(folder, device=device)
        evidence = _stored(folder, one, settings, splits.test) if again else None
        if evidence is None:
            say(f"{setting} {name}: log p(x) of the test data, {samples} samples each")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UnreliableEvidence)  # the table says it
                evidence = evaluate_run(
                    folder, settings, root=root, device=device, progress=progress
                )
        evidences[name] = evidence
        usage[name] = _usage(runs[name], splits.test)
    comparison = compare(evidences)
    figures = tuple(draw_comparison(comparison, runs, evidences, out / "figures"))
    result = Study(setting, comparison, usage, figures)
    write_json(out / "study.json", result.to_dict())
    return result


@verb
def demo(
    out: Path, *, samples: int, epochs: int | None, say: Callable[[str], None]
) -> tuple[Study, list[Path]]:
    """Train real models on real digits and show their log p(x) with error bars.

    ``samples`` are drawn for each held-out digit. ``epochs`` may be ``None`` for as many as the
    digits need. ``say`` prints a line of progress.

    Returns:
        The study of the priors, and the paths of the figures.
    """
    config = _DEMO if epochs is None else replace(_DEMO, epochs=epochs)
    result = study("prior", _DEMO_PRIORS, config, out, samples=samples, device="cpu", say=say)
    say("two latent dimensions, for a picture of the whole latent space")
    flat = out / "two-dimensional"
    train_run(replace(config, latent_dim=2, prior_components=None), flat, device="cpu")
    figures = list(result.figures)
    for folder in (*(out / prior for prior in _DEMO_PRIORS), flat):
        figures += draw_run(folder)
    return result, figures


def _configs(setting: str, values: Sequence[Any], config: Config) -> dict[str, Config]:
    """Make the config of each value, by name, without options that it does not take."""
    names = {field.name for field in fields(Config)}
    if setting not in names:
        raise ValueError(f"no setting {setting!r}.{suggestion(setting, names)}")
    if setting in _OF_THE_DATA:
        raise ValueError(
            f"{setting} decides what the test data are, and log p(x) of different data cannot be "
            "compared; run two studies."
        )
    if len({str(value) for value in values}) < max(2, len(values)):
        raise ValueError(f"a study needs two or more different values of {setting}; got {values}.")
    if setting == "program" and "conditional" in values:
        raise ValueError(
            "a conditional program gives log p(x|y) and the others log p(x), which cannot be "
            "compared; study another setting of --program conditional."
        )
    given = Config.from_dict({**config.to_dict(), setting: values[0]})
    configs, foreign = {}, []
    for value in values:
        one = Config.from_dict({**given.to_dict(), setting: value})
        foreign.append(_not_taken(one, setting))
        reset = {name: getattr(Config, name) for name in foreign[-1]}
        configs[str(value)] = replace(one, **reset)
    useless = set.intersection(*foreign)
    if useless:
        raise ValueError(f"no {setting} of {values} takes {', '.join(sorted(useless))}.")
    return configs


def _not_taken(config: Config, setting: str) -> set[str]:
    """Options that were set but that this config's part does not take."""
    if setting in _PARTS:
        own = options_of(_PARTS[setting][getattr(config, setting)])
        return {f"{setting}_{name}" for name in config.options(setting) if name not in own}
    return set(not_taken(config, setting))


def _stored(
    folder: Path, config: Config, settings: EvaluationSettings, test: Data
) -> Evidence | None:
    """Read the estimate of an earlier study, if made with these settings and data."""
    path = folder / EVIDENCE
    if not path.exists():
        return None
    evidence = Evidence.load(path)
    stored = (
        evidence.samples,
        evidence.method,
        evidence.search.done,
        evidence.seed,
        evidence.data_sha256,
    )
    sha256, _ = identity(config, test if settings.number is None else test.head(settings.number))
    wanted = (settings.samples, settings.method, settings.search, settings.seed, sha256)
    return evidence if stored == wanted else None


def _given_labels(program: Fn) -> Fn:
    """Return a program of x and labels with the labels observed."""

    def given(x: Tensor, y: Tensor) -> Any:
        return poutine.condition(program, data={"y": y})(x, y)

    return given


def _usage(run: Run, test: Data) -> Usage:
    data = arguments(run.config, test.head(_ANALYSED))
    model, guide = run.vae.model, run.vae.guide
    spent = rate(model, guide, data)
    if takes(run.config, "labels"):  # of the style, given the likeliest label
        vae: Any = run.vae
        x = test.head(_ANALYSED).x
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
