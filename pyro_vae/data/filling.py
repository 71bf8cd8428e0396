"""Tables whose missing cells were drawn: all others as they were given."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from ..common.errors import warn
from ..common.schema import Column, Schema
from .frames import pandas
from .tables import decoded, label, values_of

if TYPE_CHECKING:
    from pandas import DataFrame, Series

__all__ = ["imputed"]


def imputed(
    draws: Tensor,
    missing: Tensor,
    schema: Schema,
    *,
    given: DataFrame | None = None,
    each: bool = False,
) -> DataFrame:
    """Return a table whose missing cells were drawn, see :meth:`pyro_vae.Imputation.frame`.

    Args:
        draws: completed tables, ``(n, N, D)``.
        missing: where cells were drawn, ``(N, D)``.
        schema: the columns.
        given: the table itself, with any other columns; by default what ``draws`` has where nothing
            is missing.
        each: return the n tables one below the other.
    """
    pd = pandas()
    given = decoded(draws[0], schema) if given is None else given
    taken = set(given.columns)
    if each:
        given = pd.concat([given] * len(draws), ignore_index=True)
        for place, column in enumerate(schema):
            new = values_of(draws[..., place].flatten(), column)
            hidden = missing[:, place].numpy()
            hidden = np.tile(hidden, len(draws))
            given[column.name] = _filled(given[column.name], new, hidden, column)
        number, rows = draws.shape[:2]
        given.insert(0, _free("row", taken, "rows"), np.tile(np.arange(rows), number))
        given.insert(0, _free("draw", taken, "draws"), np.repeat(np.arange(number), rows))
        return given
    places = {column.name: place for place, column in enumerate(schema)}
    found: dict[str, Any] = {}
    for name in given.columns:
        found[name] = given[name]
        hidden = missing[:, places[name]].numpy() if name in places else np.zeros(1, dtype=bool)
        if hidden.any():
            place = places[name]
            column = schema.columns[place]
            centre, spread = _summary(draws[..., place].double(), column)
            found[name] = _filled(given[name], values_of(centre, column), hidden, column)
            beside = _free(f"{name}.spread", taken, f"spreads of {name!r}")
            found[beside] = pd.Series(spread.numpy(), given.index).where(hidden)
    return pd.DataFrame(found)


def _summary(cells: Tensor, column: Column) -> tuple[Tensor, Tensor]:
    """Centre of the draws of cells, ``(n, N)``, and how far they are from it."""
    if column.is_named:
        centre = cells.mode(0).values
        return centre, (cells != centre).double().mean(0)
    centre, spread = cells.mean(0), cells.std(0, correction=0)
    return (centre.round(), spread) if column.kind == "count" else (centre, spread * column.scale)


def _filled(series: Series, new: Series, missing: Any, column: Column) -> Series:
    """A column with new values in its missing cells, of its own type if that holds them."""
    pd = pandas()
    if not missing.any():
        return series
    seen, added = series[~missing].astype(object), new[missing].tolist()
    if column.is_named:
        own = list(getattr(series.dtype, "categories", ())) + seen.tolist()
        written = {label(value): value for value in own}  # 1, 1.0 and "1" are the same
        added = [written.get(label(value), value) for value in added]
    elif len(seen) and isinstance(seen.iloc[0], Decimal | str):
        added = [type(seen.iloc[0])(repr(value)) for value in added]
    cells = np.empty(len(series), dtype=object)
    cells[~missing], cells[missing] = seen.to_numpy(), added
    mixed = pd.Series(cells, series.index, name=series.name)
    if series.dtype == object:
        return mixed.infer_objects()
    if pd.api.types.is_float_dtype(series.dtype):
        return mixed.astype(new.dtype if str(new.dtype) == "Int64" else series.dtype)
    if isinstance(series.dtype, pd.CategoricalDtype):
        more = [value for value in dict.fromkeys(added) if value not in series.cat.categories]
        return mixed.astype(series.cat.add_categories(more).dtype)
    try:
        typed = mixed.astype(series.dtype)
    except (TypeError, ValueError):
        return mixed.infer_objects()
    return typed if (typed.astype(object) == mixed).all() else mixed.infer_objects()


def _free(name: str, taken: set[str], what: str) -> str:
    """A name for a new column, said where the table has one of that name already."""
    free, number = name, 1
    while free in taken:
        number += 1
        free = f"{name}.{number}"
    if free != name:
        warn(f"the table has a column {name!r}, so that the {what} are in a column {free!r}.")
    taken.add(free)
    return free
