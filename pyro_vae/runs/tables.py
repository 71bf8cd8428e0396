"""Runs on tables: the columns shown before training, missing cells of new tables imputed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..common.options import Method
from ..common.schema import Schema, parse_columns
from ..common.verbs import verb
from ..config import Config
from ..data import Data, Splits, describe, load_table
from ..data.frames import check_table_file, write_frame
from ..evidence import Imputation, impute
from ..evidence.posterior import check_draws
from .folder import load_run
from .outputs import check_out

__all__ = ["columns_of", "impute_run", "show_table", "with_schema"]


def columns_of(config: Config) -> Any:
    """How a config has a table read: by its schema, or by the likelihoods given for columns."""
    return config.likelihood_schema or parse_columns(config.columns or ())


def with_schema(config: Config, splits: Splits) -> Config:
    """Return the config with the schema of its data.

    Raises:
        ValueError: a table without the likelihood of tables, or that likelihood without a table.
    """
    schema = splits.train.schema
    if (schema is not None) != (config.likelihood == "columns"):
        name = splits.train.name
        raise ValueError(
            f"{name!r} is a table: use likelihood='columns' (--likelihood columns), which has a "
            f"likelihood for each column; got {config.likelihood!r}."
            if schema is not None
            else f"likelihood 'columns' is that of a table, .csv or .parquet; {name!r} is none."
        )
    return replace(config, likelihood_schema=schema)


def show_table(splits: Splits) -> str | None:
    """Return the columns of a table in words, or ``None`` for other data."""
    parts: Sequence[Data] = [data for data in splits if len(data)]
    schema = splits.train.schema
    if schema is None:
        return None
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.joined(part)
    return describe(schema, whole.x)


@verb
def impute_run(
    folder: str | Path,
    table: str | Path | Any,
    out: str | Path | None = None,
    *,
    draws: int = 20,
    each: bool = False,
    method: Method = "auto",
    samples: int = 1000,
    seed: int = 0,
    device: str = "auto",
    progress: bool | None = None,
) -> Imputation:
    """Impute the missing cells of a table with a run's model.

    Args:
        folder: run folder, of a model of tables.
        table: path or frame with the run's columns; all of its rows, in their order.
        out: ``.csv`` or ``.parquet`` to write; see :meth:`~pyro_vae.evidence.Imputation.frame`.
        draws: draws of each missing cell, at most ``samples``.
        each: write all completed tables, rather than one with means and spreads.
        method: proposal for the posterior, see :func:`~pyro_vae.sample_posterior`.
        samples: its draws for each row.
        seed: seed of all draws.
        device: where to compute.
        progress: show a progress bar; by default if the output is a terminal.

    Raises:
        ValueError: a run that is not of a table; a table that does not fit the run's columns; more
            draws than samples; ``out`` of another suffix, the table itself or a run's own file.
        OSError: ``out`` cannot be written.
    """
    check_draws(draws, samples)
    if out is not None:
        check_out(out, table)
        check_table_file(out)
    run = load_run(folder, device=device)
    schema: Schema | None = run.config.likelihood_schema
    if schema is None:
        raise ValueError(f"{folder} is no run of a table, so that it cannot impute one.")
    data = load_table(table, schema)
    options = {"method": method, "samples": samples, "seed": seed}
    filled = impute(run.vae.model, run.vae.guide, data, draws, progress=progress, **options)  # type: ignore[arg-type]
    if out is not None:
        write_frame(filled.frame(each=each), out)
    return filled
