"""A study: one part of the model swapped, everything else the same, and what that changes."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from .analysis import active_units, rate
from .checkpoint import CONFIG, Run, load_run, read_config
from .config import Config, Method
from .errors import UnreliableEvidence, suggestion
from .evidence import Comparison, Evidence, compare
from .files import write_json
from .likelihoods import LIKELIHOODS
from .posteriors import POSTERIORS
from .priors import PRIORS
from .runs import EVIDENCE, draw_comparison, evaluate_run, load_data, train_run
from .tables import align

__all__ = ["Study", "Usage", "study"]

_ANALYSED = 1000  # data whose pairs make the rate
_PARTS: dict[str, Any] = {"prior": PRIORS, "likelihood": LIKELIHOODS, "posterior": POSTERIORS}


@dataclass(frozen=True)
class Usage:
    """What one model does with its latents, on test data, and what its training took.

    Attributes:
        rate: KL term of the ELBO, nats per datum.
        rate_error: its sampling error.
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
        notes = [*self.comparison.notes(), "rate: the KL term of the ELBO, nats per datum."]
        return "\n".join([*(line.rstrip() for line in align(cells)), "", *notes])


def study(
    setting: str,
    values: Sequence[Any],
    config: Config,
    out: str | Path,
    *,
    samples: int = 1000,
    method: Method = "auto",
    number: int | None = None,
    compiled: bool = False,
    seed: int = 0,
    root: str | Path | None = None,
    device: str = "auto",
    resume: bool = False,
    say: Callable[[str], None] = print,
    progress: bool | None = None,
) -> Study:
    """Train one model for each value of a setting, and compare them by log p(x).

    Every model has the same data, budget and seed. Options of a part that only some of the values
    take (the components of a mixture) are given to those.

    Args:
        setting: field of ``Config``, such as ``"prior"`` or ``"latent_dim"``.
        values: its values, at least two.
        config: all other settings.
        out: folder; each value has a run folder in it.
        samples: importance samples for each test datum.
        method: proposal, see ``log_evidence``.
        number: evaluate the first so many test data only.
        compiled: compile the evaluation.
        seed: seed of the samples.
        root: folder of downloaded data.
        device: where to train and evaluate.
        resume: go on with a study in ``out``: finished runs are not trained again, and estimates
            with the same settings are not made again.
        say: shows a line of progress.
        progress: show progress bars; by default if the output is a terminal.

    Raises:
        ValueError: an unknown setting, or fewer than two different values.
    """
    names = {field.name for field in fields(Config)}
    if setting not in names:
        raise ValueError(f"no setting {setting!r}.{suggestion(setting, names)}")
    if len(set(values)) < 2 or len(set(values)) < len(values):
        raise ValueError(f"a study needs two or more different values of {setting}; got {values}.")
    configs = {str(value): _with(config, setting, value) for value in values}
    out, evidences, runs, usage = Path(out), {}, {}, {}
    for name, one in configs.items():
        folder = out / name
        say(f"{setting} {name}: training")
        again = resume and (folder / CONFIG).exists()
        if again:
            one = replace(one, data=read_config(folder).data)  # a file's path was made absolute
        train_run(one, folder, root=root, device=device, resume=again, progress=progress)
        runs[name] = load_run(folder, device=device)
        evidence = _stored(folder, samples, method, seed, number) if again else None
        if evidence is None:
            say(f"{setting} {name}: log p(x) of the test data, {samples} samples each")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UnreliableEvidence)  # the table says it
                evidence = evaluate_run(
                    folder,
                    samples=samples,
                    method=method,
                    number=number,
                    compiled=compiled,
                    seed=seed,
                    root=root,
                    device=device,
                    progress=progress,
                )
        evidences[name] = evidence
        usage[name] = _usage(runs[name], root)
    comparison = compare(evidences)
    figures = tuple(draw_comparison(comparison, runs, evidences, out / "figures"))
    result = Study(setting, comparison, usage, figures)
    write_json(out / "study.json", result.to_dict())
    return result


def _with(config: Config, setting: str, value: Any) -> Config:
    """Set a value, and leave out the options that the part of that name does not take."""
    config = Config.from_dict({**config.to_dict(), setting: value})
    if setting in _PARTS and value in _PARTS[setting]:
        takes = inspect.signature(_PARTS[setting][value]).parameters
        drop: dict[str, Any] = {
            f"{setting}_{o}": None for o in config.options(setting) if o not in takes
        }
        config = replace(config, **drop)
    return config


def _stored(
    folder: Path, samples: int, method: str, seed: int, number: int | None
) -> Evidence | None:
    """Read the estimate of an earlier study, if its settings are these."""
    path = folder / EVIDENCE
    if not path.exists():
        return None
    evidence = Evidence.load(path)
    same = (evidence.samples, evidence.method, evidence.seed) == (samples, method, seed)
    return evidence if same and number in (None, len(evidence)) else None


def _usage(run: Run, root: str | Path | None) -> Usage:
    test = load_data(run.config, root=root).test.head(_ANALYSED)
    spent = rate(run.vae.model, run.vae.guide, test)
    active = active_units(run.vae.model, run.vae.guide, test)
    return Usage(
        rate=spent.rate,
        rate_error=spent.error,
        active=active.number,
        latents=active.total,
        seconds=run.history.epochs[-1].seconds,
    )
