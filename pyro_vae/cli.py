"""The command line: commands and their options, no logic of its own."""

from __future__ import annotations

import dataclasses
import io
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import tyro

from .common.errors import Interrupted
from .common.options import Method, Precision
from .common.registry import suggestion
from .config import Config, parse_setting

__all__ = ["main"]

# Each command imports what it needs when it runs, so that --help answers at once.

DataRoot: TypeAlias = Annotated[Path | None, tyro.conf.arg(metavar="DIR")]
RunFolder: TypeAlias = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]


@dataclasses.dataclass(frozen=True)
class Demo:
    """Train on the embedded digits under three priors, compare log p(x), and draw figures."""

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("pyro-vae-demo")
    """Folder for runs and figures; a new name is found if it is taken."""
    samples: int = 1000
    """Importance samples for each held-out digit."""
    epochs: int | None = None
    """Training epochs of each model."""

    def run(self) -> None:
        """Run the command."""
        from .runs.demo import demo

        out, number = self.out, 2
        while out.exists() and any(out.iterdir()):
            out, number = self.out.with_name(f"{self.out.name}-{number}"), number + 1
        comparison, figures = demo(out, samples=self.samples, epochs=self.epochs, say=_say)
        print(f"\n{comparison}\n\nFigures, in {out.resolve()}:")
        for figure in figures:
            print(f"  {figure.relative_to(out)}")


@dataclasses.dataclass(frozen=True)
class Fit:
    """Train a model into a run folder."""

    out: Annotated[Path, tyro.conf.arg(metavar="RUN")]
    """Run folder: config, checkpoint, history."""
    config: tyro.conf.OmitArgPrefixes[Config] = dataclasses.field(default_factory=Config)
    config_file: Annotated[Path | None, tyro.conf.arg(name="config", metavar="RUN")] = None
    """Another run, or its config.json: options that are not given here are taken from it."""
    resume: tyro.conf.FlagCreatePairsOff[bool] = False
    """Go on with the run in --out, with its own settings."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    data_root: DataRoot = None
    """Folder of downloaded data sets [$PYRO_VAE_DATA]."""

    def run(self) -> None:
        """Run the command."""
        from .runs.run import train_run

        history = train_run(
            self.config, self.out, root=self.data_root, device=self.device, resume=self.resume
        )
        last = history.epochs[-1]
        print(
            f"{len(history)} epochs in {last.seconds:.0f} s: ELBO {last.train_elbo:.2f} nats",
            end="",
        )
        print("" if last.valid_elbo != last.valid_elbo else f", validation {last.valid_elbo:.2f}")
        if history.restored_epoch is not None:
            print(f"restored the best parameters, of epoch {history.restored_epoch}")
        print(f"saved to {self.out}; next: pyro-vae evaluate {self.out}")


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Estimate log p(x) of a run's test data, with errors and diagnostics."""

    folder: RunFolder
    """Run folder."""
    samples: int = 1000
    """Importance samples K for each datum."""
    method: Method = "guide"
    """Proposal: guide (the literature's protocol), refined, laplace or annealed (fitted to each
    datum), or auto (as far as each datum needs)."""
    number: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Evaluate the first N test data only."""
    seed: int = 0
    """Seed of the samples."""
    chunk: int | None = None
    """Samples evaluated at once; bounds the memory, changes no result."""
    compiled: tyro.conf.FlagCreatePairsOff[bool] = False
    """Compile log p(x, z) first: worth its seconds from millions of samples on."""
    precision: Precision = "float32"
    """Precision of matrix products, if compiled: float32, or bfloat16 with its measured bias."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    data_root: DataRoot = None
    """Folder of downloaded data sets [$PYRO_VAE_DATA]."""

    def run(self) -> None:
        """Run the command."""
        import json

        from .runs.run import EVIDENCE, METRICS, evaluate_run

        evidence = evaluate_run(
            self.folder,
            samples=self.samples,
            method=self.method,
            number=self.number,
            seed=self.seed,
            chunk=self.chunk,
            compiled=self.compiled,
            precision=self.precision,
            root=self.data_root,
            device=self.device,
        )
        print(evidence)
        metrics = json.loads((self.folder / METRICS).read_text())
        print(f"{'likelihood':<22} {metrics['likelihood']}")
        print(f"{'time':<22} {evidence.seconds:.1f} s; saved to {self.folder / EVIDENCE}")


@dataclasses.dataclass(frozen=True)
class Compare:
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


@dataclasses.dataclass(frozen=True)
class Study:
    """Swap one part, train a model for each value, and compare them by log p(x).

    For example: pyro-vae study prior normal mixture vamp --out runs/priors
    """

    setting: Annotated[str, tyro.conf.Positional]
    """Setting to vary: any option of `fit`, such as prior, likelihood, posterior or latent-dim."""
    values: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="VALUE [...]")]
    """Its values."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder: a run for each value, study.json, figures."""
    config: tyro.conf.OmitArgPrefixes[Config] = dataclasses.field(default_factory=Config)
    config_file: Annotated[Path | None, tyro.conf.arg(name="config", metavar="RUN")] = None
    """Another run, or its config.json: options that are not given here are taken from it."""
    samples: int = 1000
    """Importance samples K for each test datum."""
    method: Method = "auto"
    """Proposal: guide, refined, laplace, annealed or auto."""
    number: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Evaluate the first N test data only."""
    resume: tyro.conf.FlagCreatePairsOff[bool] = False
    """Go on with the study in --out; what is finished is not done again."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    data_root: DataRoot = None
    """Folder of downloaded data sets [$PYRO_VAE_DATA]."""

    def run(self) -> None:
        """Run the command."""
        from .runs.study import study

        setting = self.setting.strip("-").replace("-", "_").replace(".", "_")
        result = study(
            setting,
            [parse_setting(setting, text) for text in self.values],
            self.config,
            self.out,
            samples=self.samples,
            method=self.method,
            number=self.number,
            compiled=self.config.compiled,
            root=self.data_root,
            device=self.device,
            resume=self.resume,
            say=_say,
        )
        print(f"\n{result}\n\nFigures:")
        for figure in result.figures:
            print(f"  {figure}")


@dataclasses.dataclass(frozen=True)
class Sample:
    """Draw new data from a run's p(x), as an array and as a figure."""

    folder: RunFolder
    """Run folder."""
    number: int = 100
    """Number of draws."""
    seed: int = 0
    """Seed of the draws."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""

    def run(self) -> None:
        """Run the command."""
        from .runs.run import sample_run

        for path in sample_run(self.folder, number=self.number, seed=self.seed, device=self.device):
            print(path)


@dataclasses.dataclass(frozen=True)
class Plot:
    """Draw every figure of a run."""

    folder: RunFolder
    """Run folder."""
    data_root: DataRoot = None
    """Folder of downloaded data sets [$PYRO_VAE_DATA]."""

    def run(self) -> None:
        """Run the command."""
        from .runs.run import draw_run

        for path in draw_run(self.folder, root=self.data_root):
            print(path)


_COMMANDS = {
    "demo": Demo,
    "fit": Fit,
    "evaluate": Evaluate,
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
    for stream in (sys.stdout, sys.stderr):  # a pipe that knows no k̂ must not cost the result
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


def _parse(arguments: Sequence[str]) -> Any:
    command = _cli(arguments, Config())
    if isinstance(command, Fit | Study):  # not for --help, which ended the program
        from .runs.folder import read_config
        from .training.checkpoint import holds_run

        resumed = isinstance(command, Fit) and command.resume and holds_run(command.out)
        source = command.out if resumed else command.config_file
        if source is not None:
            command = _cli(arguments, read_config(source))
    return command


def _cli(arguments: Sequence[str], config: Config) -> Any:
    """Parse the arguments; options of a config that are not given are those of ``config``."""
    commands: Any = None
    for name, kind in _COMMANDS.items():
        entry: Any = Annotated[kind, tyro.conf.subcommand(name)]
        if kind in (Fit, Study):  # with the rest still to give
            given: dict[str, Any] = {"out": tyro.MISSING, "config": config}
            if kind is Study:
                given |= {"setting": tyro.MISSING, "values": tyro.MISSING}
            entry = Annotated[kind, tyro.conf.subcommand(name, default=kind(**given))]
        commands = entry if commands is None else commands | entry
    return tyro.cli(commands, args=list(arguments), prog="pyro-vae", description=_DESCRIPTION)


def _say(line: str) -> None:
    print(line, flush=True)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"pyro-vae: warning: {message}", file=sys.stderr)
