"""The values of a table as numbers, by a schema, and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..common.errors import warn
from ..common.schema import Column, Schema
from ..common.tables import align
from .frames import as_frame, pandas
from .text import are_numbers, are_times, mend

if TYPE_CHECKING:
    from pandas import DataFrame, Series

__all__ = ["coded", "decoded", "describe", "label", "numeric", "values_of"]

_MOST_COUNT = 2**24  # float32 holds whole numbers up to here
_FARTHEST = 1e18  # deviations from the mean, whose squares float32 holds


def coded(table: Any, schema: Schema, *, what: str = "the table") -> Tensor:
    """Return a table's rows as numbers, float32 of shape ``(N, D)``, NaN where a cell is missing.

    Args:
        table: a frame of pandas or polars; its columns may be in any order.
        schema: the columns; others are ignored, with a warning unless the schema names them.
        what: name of the table in messages.

    Raises:
        ValueError: no rows, a missing column, a row without any value, or values that a column's
            likelihood does not take; the message names the column and the row.
    """
    frame = as_frame(table, what=what)
    if not len(frame):
        raise ValueError(f"{what} is empty: it has no rows.")
    absent = [name for name in schema.names if name not in frame.columns]
    if absent:
        raise ValueError(
            f"{what} lacks the column{'s' * (len(absent) > 1)} {', '.join(map(repr, absent))}; "
            f"expected {', '.join(map(repr, schema.names))}."
        )
    known = {*schema.names, *schema.ignored}
    more = [name for name in frame.columns if name not in known]
    if more:
        warn(
            f"{what} has columns that the model does not know, which are ignored: "
            f"{', '.join(map(repr, more))}.",
        )
    columns = [_coded(frame[column.name], column, what) for column in schema]
    x = torch.from_numpy(np.stack(columns, 1))
    nothing = x.isnan().all(1)
    if nothing.any():
        row = int(nothing.nonzero()[0])
        raise ValueError(
            f"{what} has no value in row {row} (of {int(nothing.sum())} such); leave such rows out."
        )
    return x


def decoded(x: Tensor, schema: Schema) -> DataFrame:
    """Return numbers ``(N, D)`` as a table in the schema's units and categories."""
    pd = pandas()
    return pd.DataFrame(
        {column.name: values_of(x[:, place], column) for place, column in enumerate(schema)}
    )


def values_of(x: Tensor, column: Column) -> Series:
    """Values of a column, from their numbers of shape ``(N,)``; missing where these are NaN."""
    pd = pandas()
    numbers = x.detach().cpu().double().numpy()
    if column.is_named:
        labels = np.array(column.categories, dtype=object)
        series = pd.Series([None if np.isnan(n) else labels[int(n)] for n in numbers], dtype=object)
        return series.infer_objects()
    series = pd.Series(numbers * column.scale + column.offset)
    if column.kind != "count":
        return series
    whole = pd.Series(numbers)
    return whole.astype("Int64") if (whole.dropna() % 1 == 0).all() else whole


def describe(schema: Schema, x: Tensor) -> str:
    """Return the columns as a table: name, kind, likelihood, share of missing cells, values."""
    rows: list[Sequence[str]] = [("column", "kind", "likelihood", "missing", "values")]
    for place, column in enumerate(schema):
        cells = x[:, place].double()
        seen = cells[~cells.isnan()]
        if column.is_named:
            shown = ", ".join(map(_shown, column.categories[:4]))
            more = len(column.categories) - 4
            values = shown + (f" and {more} more" if more > 0 else "")
        elif len(seen):
            offset, scale = (0.0, 1.0) if column.kind == "count" else (column.offset, column.scale)
            digits = 6 - math.ceil(math.log10(abs(offset) + scale))  # that float32 tells apart
            ends = (float(end) * scale + offset for end in (seen.min(), seen.max()))
            low, high = (round(end, digits) + 0.0 for end in ends)
            values = f"{low:.5g} to {high:.5g}"
        else:
            values = "none"
        missing = 1 - len(seen) / max(1, len(cells))
        share = f"{missing:.1%}" if missing else "none"
        rows.append((column.name, column.kind, column.likelihood, share, values))
    return "\n".join(line.rstrip() for line in align(rows))


def _shown(value: Any) -> str:
    """A category as it is shown, in quotes where spaces or commas could be overlooked."""
    text = str(value)
    return repr(value) if text != text.strip() or "," in text or not text else text


def label(value: Any) -> str:
    """Text by which values of a category are told apart: 1, 1.0 and "1" are the same."""
    if isinstance(value, bool | np.bool_):
        return str(bool(value))
    numbers = int | float | np.integer | np.floating | Decimal
    if isinstance(value, numbers) and float(value).is_integer():
        return str(int(value))
    return str(value)


def _coded(series: Series, column: Column, what: str) -> Any:
    where = f"column {column.name!r} of {what}"
    missing = series.isna().to_numpy()
    if column.is_named:
        return _positions(series, column, missing, where)
    numbers = numeric(series, where)
    seen = numbers[~missing]

    def refuse(bad: Any, wants: str) -> None:
        if bad.any():
            row = int(np.flatnonzero(~missing)[np.flatnonzero(bad)[0]])
            raise ValueError(
                f"{where} holds {numbers[row]:g} (row {row}), but {column.likelihood} takes "
                f"{wants}; mend the value, or give the column another likelihood."
            )

    if column.kind == "count":
        refuse(seen < 0, "counts, which are not negative")
        refuse(seen % 1 != 0, "counts, which are whole numbers")
        wanted = f"counts that float32 holds exactly, as all up to {_MOST_COUNT}"
        refuse(seen.astype(np.float32) != seen, wanted)
        return numbers.astype(np.float32)
    with np.errstate(over="ignore"):
        x = (numbers - column.offset) / column.scale
        x = np.where(np.abs(x) > _FARTHEST, np.inf, x).astype(np.float32)
    seen = x[~missing]
    if column.kind == "bounded":
        low, high = column.offset, column.offset + column.scale
        refuse((seen < 0) | (seen > 1), f"values from {low:g} to {high:g}")
        if column.likelihood == "beta":
            refuse(
                (seen <= 0) | (seen >= 1),
                f"values strictly between {low:g} and {high:g} (truncated-normal takes the ends)",
            )
    far = np.flatnonzero(np.isinf(x))
    if len(far):
        raise ValueError(
            f"{where} holds {numbers[far[0]]:g} (row {far[0]}), too far from the column's mean "
            f"{column.offset:.5g} and standard deviation {column.scale:.5g} for float32; mend the "
            "value, or give it in the same units."
        )
    return x


def numeric(series: Series, where: str) -> Any:
    """Return a column as float64, NaN where missing.

    Raises:
        ValueError: text or dates, complex or infinite values.
    """
    pd = pandas()
    if are_times(series):
        raise ValueError(
            f"{where} holds dates or times; give numbers, such as days since the first, or leave "
            f"it out: {series.name}=ignore."
        )
    if isinstance(series.dtype, pd.CategoricalDtype):
        series = series.astype(object)
    try:
        numbers = pd.to_numeric(series)
        if np.iscomplexobj(numbers):
            raise ValueError(
                f"{where} holds complex numbers; give real and imaginary parts as two columns, "
                "z.real and z.imag."
            )
        numbers = numbers.to_numpy(dtype=np.float64, na_value=np.nan)
    except (ValueError, TypeError) as error:
        wrong = np.flatnonzero(series.notna().to_numpy() & ~are_numbers(series))
        if not len(wrong):
            raise error from None
        value = series.iloc[int(wrong[0])]
        raise ValueError(
            f"{where} holds {value!r} (row {wrong[0]}), which is no number.{mend(value)}"
        ) from None
    infinite = np.isinf(numbers)
    if infinite.any():
        row = int(np.flatnonzero(infinite)[0])
        raise ValueError(f"{where} holds an infinite value (row {row}); remove or mend it.")
    return numbers


def _positions(series: Series, column: Column, missing: Any, where: str) -> Any:
    places = {label(value): place for place, value in enumerate(column.categories)}
    found = np.full(len(series), np.nan, dtype=np.float32)
    for row, value in enumerate(series.tolist()):
        if missing[row]:
            continue
        place = places.get(label(value))
        if place is None:
            known = ", ".join(map(_shown, column.categories[:8]))
            known += ", ..." if len(column.categories) > 8 else ""
            raise ValueError(
                f"{where} holds {value!r} (row {row}), which is none of its categories: {known}."
            )
        found[row] = place
    return found
