"""Tables as data frames: reading files, writing them, frames of other libraries."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.columns import check_columns_file
from ..common.files import write_atomically

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = [
    "TABLES",
    "as_frame",
    "check_names",
    "check_table_file",
    "is_frame",
    "read_csv",
    "read_parquet",
    "write_frame",
]

TABLES = (".csv", ".parquet")


def pandas() -> Any:
    """Return the pandas package.

    Raises:
        ImportError: it is not installed; names the extra.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError(
            f'tables need pandas ({error}); pip install "pyro-vae[tables]".'
        ) from error
    return pd


def is_frame(value: Any) -> bool:
    """Whether a value is a table with named columns, of pandas or polars."""
    return hasattr(value, "columns") and hasattr(value, "dtypes") and hasattr(value, "shape")


def as_frame(value: Any, *, what: str = "the table") -> DataFrame:
    """Return a table of pandas or polars as a frame of pandas.

    Raises:
        ValueError: columns of the same name, or none.
    """
    pandas()
    if hasattr(value, "to_pandas"):
        try:
            value = value.to_pandas()
        except ImportError as error:
            raise ImportError(
                f'a polars frame is read through pyarrow ({error}); pip install "pyro-vae[tables]".'
            ) from error
    frame: DataFrame = value.rename(columns=str)
    check_names(list(frame.columns), what)
    return frame


def check_names(names: list[str], what: str) -> None:
    """Check that columns have names of their own.

    Raises:
        ValueError: no columns, or two of the same name.
    """
    if not names:
        raise ValueError(f"{what} is empty: it has no columns.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"{what} has several columns named {', '.join(map(repr, twice))}; give each a name of "
            "its own."
        )


def read_csv(path: Path) -> DataFrame:
    """Read a table of comma-separated values, whose first line names the columns.

    Raises:
        ValueError: an empty file, no table, or columns of the same name.
    """
    pd = pandas()
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            names = next(csv.reader(file), [])
        check_names(names, str(path))
        options = {"low_memory": False, "float_precision": "round_trip"}
        frame: DataFrame = pd.read_csv(path, encoding="utf-8-sig", **options)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeError, csv.Error) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path} cannot be read as a table of comma-separated values: {reason}"
        ) from error
    if len(names) == 1 and any(mark in names[0] for mark in ";\t"):
        raise ValueError(f"{path} is one column, {names[0]!r}; separate the columns by commas.")
    if len(names) != frame.shape[1] or not isinstance(frame.index, pd.RangeIndex):
        raise ValueError(
            f"{path} has lines of more cells than the {len(names)} that its first line names."
        )
    return frame


def read_parquet(path: Path) -> DataFrame:
    """Read a table of a parquet file.

    Raises:
        ValueError: an empty, truncated or foreign file.
        ImportError: pyarrow is not installed; names the extra.
    """
    pd = pandas()
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty.")
    try:
        frame: DataFrame = pd.read_parquet(path)
    except ImportError as error:
        raise ImportError('parquet files need pyarrow; pip install "pyro-vae[tables]".') from error
    except (ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read as a parquet file: {reason}") from error
    return as_frame(frame, what=str(path))


def check_table_file(path: str | Path) -> None:
    """Check that a table can be written to such a file, before there is work in it.

    Raises:
        ValueError: another suffix than ``.csv`` or ``.parquet``.
        ImportError: Parquet without pyarrow.
    """
    if Path(path).suffix not in TABLES:
        raise ValueError(
            f"a table is written as {' or '.join(TABLES)}; got the name {str(path)!r}."
        )
    check_columns_file(path)


def write_frame(frame: DataFrame, path: str | Path) -> Path:
    """Write a table, ``.csv`` or ``.parquet`` by its suffix, atomically.

    Raises:
        ValueError: another suffix.
    """
    path = Path(path)
    check_table_file(path)
    if path.suffix == ".csv":
        text = frame.to_csv(index=False)
        return write_atomically(path, lambda file: file.write(text.encode()))
    return write_atomically(path, lambda file: frame.to_parquet(file, index=False))
