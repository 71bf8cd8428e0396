"""The command that reproduces published tables."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from .base import Command, Flat, Place, say

__all__ = ["Reproduce"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reproduce(Command):
    """Train and evaluate the models of a published table: what was reported beside what we get.

    The tables are burda-1layer, exemplar-mlp, vampprior, altosaar-static and wu-ais. What was
    interrupted goes on where it stopped.
    """

    table: Annotated[str, tyro.conf.Positional]
    """Its name."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder: a run for each model, table.md, table.json."""
    rows: tuple[str, ...] = ()
    """Some of its models, by name. By default all."""
    short: bool = False
    """A few epochs, fewer test data: minutes to an hour for each model."""
    epochs: int | None = None
    """Another number of epochs. By default those of the publication."""
    data: str | None = None
    """Another data set, such as fashion-mnist. By default that of the table."""
    place: Flat[Place] = dataclasses.field(default_factory=Place)

    def run(self) -> None:
        """Run the command."""
        from ..runs.published import reproduce

        text = reproduce(
            self.table,
            self.out,
            rows=self.rows,
            short=self.short,
            epochs=self.epochs,
            data=self.data,
            say=say,
            **vars(self.place),
        )
        print(f"\n{text}\n\n{self.out / 'table.md'}")
