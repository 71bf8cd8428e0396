"""Commands that train: the demo, one run, a study."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Annotated, Any

import tyro

from ..common.settings import Sampling
from ..config import Config, parse_grid
from .base import Command, Flat, Training, say

__all__ = ["Demo", "Fit", "Study"]

_STUDY_SAMPLING = Sampling(method="auto")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Demo(Command):
    """Train on the embedded digits under three priors, compare log p(x), and write a report."""

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("pyro-vae-demo")
    """Folder for runs, figures and report; if it is not empty, a new name is chosen."""
    samples: int = Sampling.samples
    """Importance samples for each held-out digit."""
    epochs: int | None = None
    """Training epochs of each model."""

    def run(self) -> None:
        """Run the command."""
        from ..runs.study import demo

        out, number = self.out, 2
        while out.exists() and any(out.iterdir()):
            out, number = self.out.with_name(f"{self.out.name}-{number}"), number + 1
        comparison, figures, report = demo(out, samples=self.samples, epochs=self.epochs, say=say)
        print(f"\n{comparison}\n\nFigures, in {out.resolve()}:")
        for figure in figures:
            print(f"  {figure.relative_to(out)}")
        print(f"\nopen {report.resolve()}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fit(Training):
    """Train a model into a run folder."""

    out: Annotated[Path, tyro.conf.arg(metavar="RUN")]
    """Run folder: config, checkpoint, history."""
    resume: bool = False
    """Resume the run in --out, with its own settings; start it if other options are given."""
    monitor: bool = False
    """Add rate, mutual information and active units to the history, epoch by epoch: do the latents
    collapse?"""

    def source(self) -> Path | None:
        """Run that supplies the options which are not given: the one to resume, if any."""
        from ..training.checkpoint import holds_run

        return self.out if self.resume and holds_run(self.out) else self.config_file

    def run(self) -> None:
        """Run the command."""
        from ..runs.run import train_run
        from ..training.checkpoint import holds_run

        if self.resume and not holds_run(self.out):
            lengths: dict[str, Any] = {"epochs": Config.epochs, "patience": Config.patience}
            if self.config_file is None and dataclasses.replace(self.config, **lengths) == Config():
                raise ValueError(
                    f"{self.out} holds no run to resume; give the folder of one (--out), or "
                    "options of a run to start (--data, ...)."
                )
            say(f"{self.out} holds no run to resume: a new one starts")
        history = train_run(
            self.config,
            self.out,
            resume=self.resume,
            monitor=self.monitor,
            say=say,
            **vars(self.place),
        )
        last, baseline = history.epochs[-1], history.baseline
        print(
            f"{len(history)} epochs in {last.seconds:.0f} s: ELBO {_nats(last.train_elbo)} nats"
            + ("" if math.isnan(last.valid_elbo) else f", validation {_nats(last.valid_elbo)}")
            + (
                ""
                if math.isnan(baseline)
                else f" (independent values, no latents: {_nats(baseline)})"
            )
        )
        if history.stopped_early:
            print(f"stopped early, after {len(history)} epochs; only more --patience goes on")
        if history.restored_epoch is not None:
            print(f"restored the best parameters, of epoch {history.restored_epoch}")
        print(f"saved to {self.out}; next: pyro-vae evaluate {self.out}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study(Training):
    """Swap a part, train a model for each value, and compare them by log p(x).

    For example: pyro-vae study prior normal mixture vamp --out runs/priors. Several settings with
    their values make a grid: pyro-vae study prior normal vamp latent-dim 2 4 8 --out runs/grid.
    """

    setting: Annotated[str, tyro.conf.Positional]
    """Setting to vary: any option of `fit`, such as prior, likelihood, posterior or latent-dim."""
    values: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="VALUE [...]")]
    """Its values. A word that is none of them, but a setting, begins the values of that one."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder: the runs, study.json, figures."""
    seeds: int = 1
    """Trainings of each model, from --seed on; of two or more the spread is in the errors."""
    jobs: int = 1
    """Runs at once, each a process with one thread; changes no number."""
    sampling: Flat[Sampling] = _STUDY_SAMPLING
    resume: bool = False
    """Resume the study in --out; what is finished is not repeated."""

    def run(self) -> None:
        """Run the command."""
        from ..runs.study import study

        result = study(
            parse_grid((self.setting, *self.values)),
            config=self.config,
            out=self.out,
            seeds=self.seeds,
            jobs=self.jobs,
            compiled=self.config.compiled,
            resume=self.resume,
            say=say,
            **vars(self.sampling),
            **vars(self.place),
        )
        print(f"\n{result}\n\nFigures:")
        for figure in result.figures:
            print(f"  {figure}")
        if result.failures:
            raise ValueError(
                f"{len(result.failures)} runs failed, as said above; --resume tries them again."
            )


def _nats(value: float) -> str:
    """Write a number that may have got out of hand."""
    return f"{value:.2f}" if abs(value) < 1e6 else f"{value:.3g}"
