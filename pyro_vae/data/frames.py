"""Tables as data frames: reading files, writing them, frames of other libraries."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.columns import check_columns_file
from ..common.errors import warn
from ..common.files import write_atomically
from ..common.schema import Schema

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = [
    "TABLES",
    "as_frame",
    "as_written",
    "below",
    "check_names",
    "check_table_file",
    "is_frame",
    "read_csv",
    "read_parquet",
    "rows_of",
    "write_frame",
]

TABLES = (".csv", ".parquet")
_NAN = ("", "NaN", "nan", "-NaN", "-nan")
_WORDS = ("NA", "N/A", "n/a", "#N/A", "<NA>", "null", "NULL", "None")  # may be meant as text


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
        ValueError: columns of the same name, of names in several rows, or none.
    """
    pandas()
    if hasattr(value, "to_pandas"):
        try:
            value = value.to_pandas()
        except ImportError as error:
            raise ImportError(
                f'a polars frame is read through pyarrow ({error}); pip install "pyro-vae[tables]".'
            ) from error
    if getattr(value.columns, "nlevels", 1) > 1:
        raise ValueError(
            f"{what} has {value.columns.nlevels} rows of column names; expected one. Join them: "
            "x.columns = x.columns.map(' '.join)."
        )
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

    Cells are missing that are empty, NaN, NA, N/A, n/a, #N/A, <NA>, null, NULL or None.

    Raises:
        ValueError: an empty file, no table, or columns of the same name.
    """
    pd = pandas()
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = (line for line in csv.reader(file) if line)
            names, first = next(lines, []), next(lines, [])
        check_names(names, str(path))
        options = {"low_memory": False, "float_precision": "round_trip"}
        options |= {"keep_default_na": False, "na_values": [*_NAN, *_WORDS]}
        frame: DataFrame = pd.read_csv(path, encoding="utf-8-sig", **options)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeError, csv.Error) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        if isinstance(error, UnicodeDecodeError):
            reason = (
                f"it is no UTF-8 text (byte {error.object[error.start]:#x}); save it as UTF-8, or "
                "give the frame pandas.read_csv(path, encoding='latin-1'), or 'utf-16'"
            )
        raise ValueError(
            f"{path} cannot be read as a table of comma-separated values: {reason}."
        ) from error
    if len(names) == 1 and _are_separated(names[0], first[0] if first else ""):
        raise ValueError(
            f"{path} is one column, {names[0]!r}; separate the columns by commas (and write "
            "decimals with a point, 1.5)."
        )
    if len(names) != frame.shape[1] or not isinstance(frame.index, pd.RangeIndex):
        raise ValueError(
            f"{path} has lines of more cells than the {len(names)} that its first line names."
        )
    return frame


def _are_separated(head: str, first: str) -> bool:
    """Whether the first lines of a table of one column are several, with other separators."""
    if ";" in head or "\t" in head:
        return True
    return any(mark in head and head.count(mark) == first.count(mark) for mark in "| ")


def as_written(frame: DataFrame, path: Path, schema: Schema) -> DataFrame:
    """Return a table read from a ``.csv`` file, its ignored columns as they are written there.

    Numbers whose text is another one when they are written again (007, whole numbers in a column
    with gaps) stay text: such columns are kept, to join tables by. Warns where cells of text such
    as NA are taken as missing.
    """
    texts = [c.name for c in schema if c.is_named and frame[c.name].isna().any()]
    others = [name for name in frame.columns if name not in schema.names]
    if not (texts or others):
        return frame
    options = {"keep_default_na": False, "dtype": str, "encoding": "utf-8-sig"}
    written = pandas().read_csv(path, usecols=[*texts, *others], **options)
    for name in texts:
        lost = set(written[name][frame[name].isna()]) & set(_WORDS)
        if lost and any(isinstance(value, str) for value in frame[name]):
            warn(
                f"column {name!r} of {path} has cells {', '.join(map(repr, sorted(lost)))}, which "
                "are taken as missing. If they are a category, write it in another way, or give a "
                "frame: pandas.read_csv(path, keep_default_na=False)."
            )
    kept = {}
    for name in others:
        cells = frame[name].astype(str)
        if frame[name].isna().any() or not (cells == written[name]).all():
            kept[name] = written[name].where(written[name] != "", None)
    return frame.assign(**kept)


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
        reason = " ".join(str(error).split()).rstrip(".")
        if isinstance(error, UnicodeDecodeError):
            reason = (
                f"it is no UTF-8 text (byte {error.object[error.start]:#x}); save it as UTF-8, or "
                "give the frame pandas.read_csv(path, encoding='latin-1'), or 'utf-16'"
            )
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


def rows_of(frame: DataFrame, rows: Any) -> DataFrame:
    """Return some rows of a table: a slice, or those at the positions of a tensor."""
    return frame.iloc[rows if isinstance(rows, slice) else rows.cpu().numpy()]


def below(frames: list[DataFrame]) -> DataFrame:
    """Return tables of the same columns as one, one below the other."""
    found: DataFrame = pandas().concat(frames, ignore_index=True)
    return found


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
