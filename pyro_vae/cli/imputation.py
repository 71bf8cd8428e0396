"""The command that fills the missing cells of a table."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from ..common.options import Method
from ..common.settings import Sampling
from .base import Command, Place, RunFolder

__all__ = ["Impute"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Impute(Command):
    """Fill the missing cells of a table by draws given the cells that are there.

    For example: pyro-vae impute RUN table.csv --out filled.csv
    """

    folder: RunFolder
    """Run folder, of a model of tables."""
    table: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="TABLE")]
    """Table with the run's columns, .csv or .parquet."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """Completed table, .csv or .parquet, all that was there as it was: means of the draws (of
    categories the most frequent), and beside each column with missing cells one named NAME.spread:
    the draws' standard deviation (of categories the share of other draws)."""
    each: bool = False
    """Write every draw's completed table instead, one below the other."""
    draws: int = 20
    """Draws of each missing cell, at most as many as samples."""
    method: Method = "auto"
    """Proposal for the posterior: guide, refined, laplace, modes, annealed or auto."""
    samples: int = Sampling.samples
    """Its draws for each row, of which those of the posterior are resampled by their weights."""
    seed: int = 0
    """Seed of the draws."""
    device: str = Place.device
    """auto, cpu, cuda or cuda:N."""

    def run(self) -> None:
        """Run the command."""
        from ..runs.tables import impute_run

        options = dataclasses.asdict(self)
        filled = impute_run(**options)
        missing = int(filled.missing.sum())
        print(f"{missing} of {filled.missing.numel()} cells imputed, {self.draws} draws of each")
        print(f"draws: {filled.evidence.verdict}")
        print(self.out)
