"""What the commands share: how they are run, where they compute, which run they are about."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, TypeAlias, TypeVar

import tyro

from ..config import Config

__all__ = ["Command", "Flat", "Place", "RunFolder", "Training", "say"]

RunFolder: TypeAlias = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
T = TypeVar("T")
Flat: TypeAlias = tyro.conf.OmitArgPrefixes[T]
"""Settings whose fields become options of the command, without a prefix."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """Base of the commands."""

    def run(self) -> None:
        """Run the command."""
        raise NotImplementedError

    def source(self) -> Path | None:
        """Run that supplies the options which are not given."""
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """Where to compute, and on what."""

    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    root: Annotated[Path | None, tyro.conf.arg(name="data-root", metavar="DIR")] = None
    """Folder of downloaded data sets [$PYRO_VAE_DATA]."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training(Command):
    """Base of the commands that train."""

    config: Flat[Config] = dataclasses.field(default_factory=Config)
    config_file: Annotated[Path | None, tyro.conf.arg(name="config", metavar="RUN")] = None
    """Run, or its config.json, that has the options which are not given here."""
    place: Flat[Place] = dataclasses.field(default_factory=Place)

    def source(self) -> Path | None:
        """Run that supplies the options which are not given."""
        return self.config_file


def say(line: str) -> None:
    """Print a line of progress."""
    print(line, flush=True)
