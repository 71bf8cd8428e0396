"""Columns by name as files that other tools read: NumPy archives, Parquet, CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from .files import write_atomically, write_text

__all__ = ["WRITERS", "check_columns_file", "escaped", "write_columns"]

Column: TypeAlias = "np.ndarray[Any, Any]"


def write_columns(
    path: str | Path, columns: Mapping[str, Any], about: Mapping[str, Any] | None = None
) -> Path:
    """Write columns to a file of the format that its suffix names, atomically.

    - ``.npz``: an array for each column, with ``about`` as JSON text beside them; ``np.load`` reads
      it without pickle.
    - ``.parquet``: a table, with ``about`` as JSON in its metadata (``pyro_vae``).
    - ``.csv``: a table with a header. Numbers read back to the same bits. Text that a spreadsheet
      would take for a formula is escaped (:func:`escaped`).

    In a table a column of rows of several values becomes a column for each: ``z_mean[0]``,
    ``z_mean[1]``, ``x_mean[0,7]``.

    Args:
        path: file to write; its folder is made.
        columns: tensors or arrays, one row for each datum, ``(N, ...)``, or lists of text.
        about: where the numbers come from, plain values.

    Raises:
        ValueError: an unknown suffix, or columns of different lengths.
        ImportError: Parquet without pyarrow.
        OSError: the file cannot be written; an older one is left as it was.
    """
    check_columns_file(path)
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns must have one row for each datum; got {lengths} rows.")
    return WRITERS[Path(path).suffix](Path(path), arrays, json.dumps(dict(about or {})))


def check_columns_file(path: str | Path) -> None:
    """Check that columns can be written to such a file, before there is work in them.

    Raises:
        ValueError: an unknown suffix.
        ImportError: Parquet without pyarrow.
        OSError: a folder of that name.
    """
    path = Path(path)
    if path.suffix not in WRITERS:
        raise ValueError(
            f"cannot write {path}: the suffix must be one of {', '.join(WRITERS)}, for the format."
        )
    if path.suffix == ".parquet":
        _parquet_library()
    if path.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a folder; give the name of a file.")


def escaped(text: str) -> str:
    """Return text with an apostrophe before it where a spreadsheet would run it as a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _npz(path: Path, arrays: Mapping[str, Column], about: str) -> Path:
    content: dict[str, Any] = {**arrays, "about": np.array(about)}
    return write_atomically(path, lambda file: np.savez_compressed(file, **content))


def _parquet(path: Path, arrays: Mapping[str, Column], about: str) -> Path:
    arrow, parquet = _parquet_library()
    table = arrow.table({name: np.ascontiguousarray(array) for name, array in _flat(arrays)})
    table = table.replace_schema_metadata({"pyro_vae": about})
    return write_atomically(path, lambda file: parquet.write_table(table, file))


def _csv(path: Path, arrays: Mapping[str, Column], about: str) -> Path:
    flat = dict(_flat(arrays))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(flat)
    writer.writerows(zip(*map(_cells, flat.values()), strict=True))
    return write_text(path, text.getvalue())


def _cells(array: Column) -> list[str]:
    """Numbers as the shortest text that reads back to them; text that is no formula."""
    words: list[str] = array.astype(str).tolist()
    return [escaped(word) for word in words] if array.dtype.kind == "U" else words


def _flat(arrays: Mapping[str, Column]) -> Iterator[tuple[str, Column]]:
    """Columns of single values."""
    for name, array in arrays.items():
        if array.ndim == 1:
            yield name, array
        for index in np.ndindex(array.shape[1:]) if array.ndim > 1 else ():
            yield f"{name}[{','.join(map(str, index))}]", array[(slice(None), *index)]


def _parquet_library() -> Any:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError(
            'a .parquet file needs pyarrow: pip install "pyro-vae[tables]". .npz and .csv need '
            "nothing."
        ) from error
    return pyarrow, parquet


WRITERS: dict[str, Callable[[Path, Mapping[str, Column], str], Path]] = {
    ".npz": _npz,
    ".parquet": _parquet,
    ".csv": _csv,
}
"""Writers by suffix."""
