"""The command line: commands and their options, no logic of its own."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

import tyro

from .common.errors import Interrupted
from .common.registry import suggestion
from .common.settings import CheckSettings, EvaluationSettings, Sampling
from .config import Config, parse_setting

__all__ = ["main"]

# Each command imports what it needs when it runs, so that --help answers at once.

RunFolder: TypeAlias = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
T = TypeVar("T")
# Their fields become options of the command, without a prefix.
Flat: TypeAlias = tyro.conf.OmitArgPrefixes[T]
_STUDY_SAMPLING = Sampling(method="auto")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Command:
    """Base of the commands."""

    def run(self) -> None:
        """Run the command."""
        raise NotImplementedError

    def source(self) -> Path | None:
        """Run that supplies the options which are not given."""
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Place:
    """Where to compute, and on what."""

    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    root: Annotated[Path | None, tyro.conf.arg(name="data-root", metavar="DIR")] = None
    """Folder of downloaded data sets [$PYRO_VAE_DATA]."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Demo(_Command):
    """Train on the embedded digits under three priors, compare log p(x), and draw figures."""

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("pyro-vae-demo")
    """Folder for runs and figures; if it is not empty, a new name is chosen."""
    samples: int = Sampling.samples
    """Importance samples for each held-out digit."""
    epochs: int | None = None
    """Training epochs of each model."""

    def run(self) -> None:
        """Run the command."""
        from .runs.study import demo

        out, number = self.out, 2
        while out.exists() and any(out.iterdir()):
            out, number = self.out.with_name(f"{self.out.name}-{number}"), number + 1
        comparison, figures = demo(out, samples=self.samples, epochs=self.epochs, say=_say)
        print(f"\n{comparison}\n\nFigures, in {out.resolve()}:")
        for figure in figures:
            print(f"  {figure.relative_to(out)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Training(_Command):
    """Base of the commands that train."""

    config: Flat[Config] = dataclasses.field(default_factory=Config)
    config_file: Annotated[Path | None, tyro.conf.arg(name="config", metavar="RUN")] = None
    """Another run, or its config.json: options that are not given here are taken from it."""
    place: Flat[_Place] = dataclasses.field(default_factory=_Place)

    def source(self) -> Path | None:
        """Run that supplies the options which are not given."""
        return self.config_file


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fit(_Training):
    """Train a model into a run folder."""

    out: Annotated[Path, tyro.conf.arg(metavar="RUN")]
    """Run folder: config, checkpoint, history."""
    resume: bool = False
    """Resume the run in --out, with its own settings."""

    def source(self) -> Path | None:
        """Run that supplies the options which are not given: the one to resume, if any."""
        from .training.checkpoint import holds_run

        return self.out if self.resume and holds_run(self.out) else self.config_file

    def run(self) -> None:
        """Run the command."""
        from .runs.run import train_run

        history = train_run(self.config, self.out, resume=self.resume, **vars(self.place))
        last = history.epochs[-1]
        print(
            f"{len(history)} epochs in {last.seconds:.0f} s: ELBO {last.train_elbo:.2f} nats"
            + ("" if math.isnan(last.valid_elbo) else f", validation {last.valid_elbo:.2f}")
        )
        if history.restored_epoch is not None:
            print(f"restored the best parameters, of epoch {history.restored_epoch}")
        print(f"saved to {self.out}; next: pyro-vae evaluate {self.out}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate(_Command):
    """Estimate log p(x) of a run's test data, with errors and diagnostics."""

    folder: RunFolder
    """Run folder."""
    settings: Flat[EvaluationSettings] = dataclasses.field(default_factory=EvaluationSettings)
    place: Flat[_Place] = dataclasses.field(default_factory=_Place)

    def run(self) -> None:
        """Run the command."""
        from .runs.run import EVIDENCE, METRICS, evaluate_run

        evidence = evaluate_run(self.folder, self.settings, **vars(self.place))
        print(evidence)
        metrics = json.loads((self.folder / METRICS).read_text())
        print(f"{'likelihood':<22} {metrics['likelihood']}")
        if "accuracy" in metrics:
            print(f"{'accuracy of labels':<22} {metrics['accuracy']:.1%}")
        print(f"{'time':<22} {evidence.seconds:.1f} s; saved to {self.folder / EVIDENCE}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check(_Command):
    """Check a run: does its model make data like the test data, and is its encoder calibrated?"""

    folder: RunFolder
    """Run folder."""
    settings: Flat[CheckSettings] = dataclasses.field(default_factory=CheckSettings)
    place: Flat[_Place] = dataclasses.field(default_factory=_Place)

    def run(self) -> None:
        """Run the command."""
        from .runs.check import CHECK, check_figures, check_run

        fitted, ranked = check_run(self.folder, self.settings, **vars(self.place))
        print(f"Does the model make data like these?\n\n{fitted}\n")
        print(f"Does the encoder find the latents of simulated data?\n\n{ranked}\n")
        for path in (self.folder / CHECK, *check_figures(self.folder)):
            print(path)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compare(_Command):
    """Compare evaluated runs on the same data: paired differences with standard errors."""

    folders: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")
    ]
    """Run folders."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Also write the comparison as JSON."""

    def run(self) -> None:
        """Run the command."""
        from .common.files import write_json
        from .runs.run import compare_runs

        comparison = compare_runs(self.folders)
        print(comparison)
        if self.json is not None:
            write_json(self.json, comparison.to_dict())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study(_Training):
    """Swap one part, train a model for each value, and compare them by log p(x).

    For example: pyro-vae study prior normal mixture vamp --out runs/priors
    """

    setting: Annotated[str, tyro.conf.Positional]
    """Setting to vary: any option of `fit`, such as prior, likelihood, posterior or latent-dim."""
    values: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="VALUE [...]")]
    """Its values."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder: a run for each value, study.json, figures."""
    sampling: Flat[Sampling] = _STUDY_SAMPLING
    resume: bool = False
    """Resume the study in --out; what is finished is not repeated."""

    def run(self) -> None:
        """Run the command."""
        from .runs.study import study

        setting = self.setting.strip("-").replace("-", "_").replace(".", "_")
        result = study(
            setting,
            [parse_setting(setting, text) for text in self.values],
            self.config,
            self.out,
            compiled=self.config.compiled,
            resume=self.resume,
            say=_say,
            **vars(self.sampling),
            **vars(self.place),
        )
        print(f"\n{result}\n\nFigures:")
        for figure in result.figures:
            print(f"  {figure}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample(_Command):
    """Draw new data from a run's p(x), as an array and as a figure."""

    folder: RunFolder
    """Run folder."""
    number: int = 100
    """Number of draws."""
    seed: int = 0
    """Seed of the draws."""
    device: str = _Place.device
    """auto, cpu, cuda or cuda:N."""

    def run(self) -> None:
        """Run the command."""
        from .runs.figures import sample_run

        for path in sample_run(self.folder, number=self.number, seed=self.seed, device=self.device):
            print(path)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plot(_Command):
    """Draw every figure of a run."""

    folder: RunFolder
    """Run folder."""
    root: Annotated[Path | None, tyro.conf.arg(name="data-root", metavar="DIR")] = None
    """Folder of downloaded data sets [$PYRO_VAE_DATA]."""

    def run(self) -> None:
        """Run the command."""
        from .runs.figures import draw_run

        for path in draw_run(self.folder, root=self.root):
            print(path)


_COMMANDS: dict[str, type[_Command]] = {
    "demo": Demo,
    "fit": Fit,
    "evaluate": Evaluate,
    "check": Check,
    "compare": Compare,
    "study": Study,
    "sample": Sample,
    "plot": Plot,
}
_DESCRIPTION = (
    "Deep latent-variable models as Pyro programs: train with SVI, swap any part, and know "
    "log p(x) per datum with its error."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0: done; 1: failed; 2: wrong usage; 130: stopped by Ctrl-C.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):  # a pipe that cannot encode k̂ must not lose the result
        reconfigure = getattr(stream, "reconfigure", None)
        if callable(reconfigure):
            reconfigure(errors="replace")
    if arguments == ["--version"]:
        print(f"pyro-vae {metadata.version('pyro-vae')}")
        return 0
    if arguments and not arguments[0].startswith("-") and arguments[0] not in _COMMANDS:
        print(
            f"pyro-vae: no command {arguments[0]!r}; there are {', '.join(_COMMANDS)}."
            + suggestion(arguments[0], _COMMANDS),
            file=sys.stderr,
        )
        return 2
    first = int(os.environ.get("RANK", "0")) == 0  # of several processes
    speaking = nullcontext() if first else redirect_stdout(io.StringIO())
    with speaking, warnings.catch_warnings():
        warnings.showwarning = _show_warning  # restored at the end of the block
        try:
            _parse(arguments or ["--help"]).run()
        except SystemExit as stop:
            return int(stop.code or 0)
        except Interrupted as stop:
            print(f"\npyro-vae: {stop}", file=sys.stderr)
            return 130
        except KeyboardInterrupt:
            print("\npyro-vae: stopped.", file=sys.stderr)
            return 130
        except (ValueError, TypeError, OSError, ImportError, ArithmeticError) as error:
            print(f"pyro-vae: error: {error}", file=sys.stderr)
            return 1
    return 0


def _parse(arguments: Sequence[str]) -> _Command:
    command = _cli(arguments, Config())
    if (source := command.source()) is None:
        return command
    from .runs.folder import read_config

    return _cli(arguments, read_config(source))


def _cli(arguments: Sequence[str], config: Config) -> _Command:
    """Parse the arguments; options that are not given are taken from ``config``."""
    commands: Any = None
    for name, kind in _COMMANDS.items():
        given: dict[str, Any] = {"config": config} if issubclass(kind, _Training) else {}
        for field in dataclasses.fields(kind):
            if field.default is field.default_factory:  # neither: required
                given[field.name] = tyro.MISSING
        entry: Any = Annotated[kind, tyro.conf.subcommand(name, default=kind(**given))]
        commands = entry if commands is None else commands | entry
    return tyro.cli(
        commands,
        args=list(arguments),
        prog="pyro-vae",
        description=_DESCRIPTION,
        config=(tyro.conf.FlagCreatePairsOff,),
    )


def _say(line: str) -> None:
    print(line, flush=True)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"pyro-vae: warning: {message}", file=sys.stderr)
