"""The command line: which commands there are, how they are parsed, how they end."""

from __future__ import annotations

import dataclasses
import io
import os
import re
import sys
import warnings
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stderr, redirect_stdout, suppress
from importlib import metadata
from typing import Annotated, Any

import tyro

from ..common.errors import Interrupted
from ..common.memory import explained
from ..common.registry import suggestion
from ..config import Config
from .base import Command, Training
from .help import command_help
from .imputation import Impute
from .new_data import Encode, Reconstruct, Score
from .published import Reproduce
from .report import Report
from .results import Certify, Check, Compare, Evaluate, Export, Plot, Sample
from .training import Demo, Fit, Study

__all__ = ["COMMANDS", "main"]

COMMANDS: dict[str, type[Command]] = {
    "demo": Demo,
    "fit": Fit,
    "evaluate": Evaluate,
    "certify": Certify,
    "check": Check,
    "compare": Compare,
    "encode": Encode,
    "score": Score,
    "reconstruct": Reconstruct,
    "study": Study,
    "reproduce": Reproduce,
    "sample": Sample,
    "plot": Plot,
    "report": Report,
    "export": Export,
    "impute": Impute,
}
_INNER = re.compile(r"Error parsing \S*__tyro-dummy-inner__\S* ?(.*?)(?= │|$)", re.MULTILINE)
_COLOURS = re.compile(r"\x1b\[[\d;]*m")
_NOBODY_READS = 141  # 128 + SIGPIPE
_DESCRIPTION = (
    "Deep latent-variable models as Pyro programs: train with SVI, swap any part, and know "
    "log p(x) per datum with its error."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0: done; 1: failed; 2: wrong usage; 130: stopped by Ctrl-C; 141: nobody reads the output (as the
    shell has it of a program that ``head`` has closed the pipe of).
    """
    try:
        code = _main(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)  # for what Python flushes when it ends
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                os.dup2(nowhere, stream.fileno())
        return _NOBODY_READS
    return code


def _main(arguments: Sequence[str] | None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):  # a pipe that cannot encode k̂ must not lose the result
        reconfigure = getattr(stream, "reconfigure", None)
        if callable(reconfigure):
            reconfigure(errors="replace")
    if arguments == ["--version"]:
        print(f"pyro-vae {metadata.version('pyro-vae')}")
        return 0
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        print(
            f"pyro-vae: no command {arguments[0]!r}; there are {', '.join(COMMANDS)}."
            + suggestion(arguments[0], COMMANDS),
            file=sys.stderr,
        )
        return 2
    if {"-h", "--help"} & set(arguments) and arguments[0] in COMMANDS:
        print(command_help(arguments[0], COMMANDS[arguments[0]]))
        return 0
    first = int(os.environ.get("RANK", "0")) == 0  # of several processes
    speaking = nullcontext() if first else redirect_stdout(io.StringIO())
    with speaking, warnings.catch_warnings():
        warnings.showwarning = _show_warning  # restored at the end of the block
        try:
            with explained("this"):
                _parse(arguments or ["--help"]).run()
        except SystemExit as stop:
            return int(stop.code or 0)
        except Interrupted as stop:
            print(f"\npyro-vae: {stop}", file=sys.stderr)
            return 130
        except KeyboardInterrupt:
            print("\npyro-vae: stopped.", file=sys.stderr)
            return 130
        except BrokenPipeError:
            raise
        except (ValueError, TypeError, OSError, ImportError, ArithmeticError, MemoryError) as error:
            print(f"pyro-vae: error: {error}", file=sys.stderr)
            return 1
    return 0


def _parse(arguments: Sequence[str]) -> Command:
    command = _cli(arguments, Config())
    if (source := command.source()) is None:
        return command
    from ..runs.folder import read_config

    return _cli(arguments, read_config(source))


def _cli(arguments: Sequence[str], config: Config) -> Command:
    """Parse the arguments; options that are not given are taken from ``config``."""
    commands: Any = None
    for name, kind in COMMANDS.items():
        given: dict[str, Any] = {"config": config} if issubclass(kind, Training) else {}
        for field in dataclasses.fields(kind):
            if field.default is field.default_factory:  # neither: required
                given[field.name] = tyro.MISSING
        entry: Any = Annotated[kind, tyro.conf.subcommand(name, default=kind(**given))]
        commands = entry if commands is None else commands | entry
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return tyro.cli(
                commands,
                args=list(arguments),
                prog="pyro-vae",
                description=_DESCRIPTION,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    finally:
        print(_without_inner(said.getvalue()), end="", file=sys.stderr)


def _without_inner(text: str) -> str:
    """Leave out tyro's own name of a group of options, in a box as wide as before."""
    plain = _COLOURS.sub("", text)
    found = _INNER.search(plain)
    return text if found is None else plain.replace(found[0], found[1].ljust(len(found[0])))


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"pyro-vae: warning: {message}", file=sys.stderr)
