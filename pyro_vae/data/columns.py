"""What the columns of a table are, judged by their types and values."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.errors import warn
from ..common.registry import suggestion
from ..common.schema import IGNORE, KINDS, Column, Schema, check_likelihood
from .frames import as_frame, pandas
from .tables import label, numeric
from .text import are_numbers, are_times, looks_like, mend

if TYPE_CHECKING:
    from pandas import DataFrame, Series

__all__ = ["infer"]

_FEW = 10  # categories of numbers
_MANY = 100  # categories of text
_HEAVY = 3.0  # excess kurtosis
_LEAST, _MOST = 1e-37, 1e37  # standard deviations that float32 holds


def infer(
    table: Any, columns: Mapping[str, str] | None = None, *, what: str = "the table"
) -> Schema:
    """Choose the likelihood of each column, and note its categories and units.

    By type and values: text, and numbers of two values, are categorical; truth values and 0/1
    bernoulli; whole numbers that are not negative are poisson or, if their variance is above 1.5
    times the mean, negative-binomial, but categorical or real if it is below half the mean (codes,
    ratings, years); values that reach from below 0.05 to above 0.95 within [0, 1] are beta, or
    truncated-normal if an end is among them; other numbers are student-t if their excess kurtosis
    is above 3, else normal. Units of real values are their mean and standard deviation over all
    rows: coordinates of the networks, not parameters of a density.

    Args:
        table: a frame of pandas or polars.
        columns: likelihoods by column, in place of those chosen; ``"ignore"`` leaves one out, and
            ``"beta:0:100"`` has bounds.
        what: name of the table in messages.

    Raises:
        ValueError: no table of two rows or more; a name that is no column; a column without values,
            or of one value; free text, numbers as text; values that a likelihood does not take, or
            that differ too much or too little for float32.

    Warns:
        PyroVAEWarning: text of a few values that looks like dates or numbers, taken as categories.
    """
    frame = as_frame(table, what=what)
    given = dict(columns or {})
    for name in given:
        if name not in frame.columns:
            raise ValueError(f"{what} has no column {name!r}.{suggestion(name, frame.columns)}")
    if len(frame) < 2:
        raise ValueError(
            f"{what} has {len(frame)} row{'s' * (len(frame) != 1)}; a model needs two or more to "
            "learn from."
            if len(frame)
            else f"{what} is empty: it has no rows."
        )
    found, ignored = [], []
    for name in frame.columns:
        likelihood, bounds = check_likelihood(name, given[name]) if name in given else (None, None)
        if likelihood == IGNORE:
            ignored.append(name)
        else:
            found.append(_column(frame, name, likelihood, bounds, what))
    if not found:
        raise ValueError(f"{what} has no columns that are not ignored.")
    return Schema(tuple(found), tuple(ignored))


def _column(
    frame: DataFrame,
    name: str,
    likelihood: str | None,
    bounds: tuple[float, float] | None,
    what: str,
) -> Column:
    series, where = frame[name], f"column {name!r} of {what}"
    leave = f"leave it out: {name}=ignore"
    if name.startswith("Unnamed: ") and likelihood is None:
        raise ValueError(f"{where} has no name: the numbers of the rows? Name it, or {leave}.")
    seen = series.dropna()
    if not len(seen):
        raise ValueError(f"{where} has no values; {leave}.")
    if _is_bool(series) or KINDS.get(likelihood or "") in ("category", "binary"):
        return _named(series, likelihood, where, leave)
    as_numbers = likelihood is not None and are_numbers(seen).all()  # "1.5", if they are to be
    if _is_text(series) and not as_numbers and not are_times(series):
        return _named(series, likelihood, where, leave)
    numbers = numeric(series, where)
    _check_spread(numbers, where, leave)
    numbers = numbers[~np.isnan(numbers)]
    if len(np.unique(numbers)) < 2:
        raise ValueError(f"{where} holds one value alone, {numbers[0]:g}; {leave}.")
    likelihood = likelihood or _chosen(numbers)
    kind = KINDS[likelihood]
    if kind in ("category", "binary"):
        return _named(series, likelihood, where, leave)
    if kind == "count":
        return Column(name=name, likelihood=likelihood, scale=max(1.0, float(numbers.std())))
    if kind == "bounded":
        low, high = bounds or (0.0, 1.0)
        return Column(name=name, likelihood=likelihood, offset=low, scale=high - low)
    return Column(
        name=name,
        likelihood=likelihood,
        offset=float(numbers.mean()),
        scale=float(numbers.std()),
    )


def _check_spread(numbers: Any, where: str, leave: str) -> None:
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        spread = float(np.nanstd(numbers))
    low, high, row = np.nanmin(numbers), np.nanmax(numbers), int(np.nanargmax(np.abs(numbers)))
    if low == high or _LEAST < spread < _MOST:
        return
    much = "little" if spread <= _LEAST else "much"
    raise ValueError(
        f"{where} holds values from {low:g} to {high:g} (the largest in row {row}), which differ "
        f"too {much} for float32; give them in other units, or {leave}."
    )


def _chosen(numbers: Any) -> str:
    """Likelihood that suits numbers."""
    distinct = np.unique(numbers)
    if len(distinct) == 2:
        return "bernoulli" if set(distinct) == {0.0, 1.0} else "categorical"
    mean, variance = numbers.mean(), numbers.var()
    if (numbers % 1 == 0).all() and distinct[0] >= 0:
        if variance >= mean / 2:
            return "negative-binomial" if variance > 1.5 * mean else "poisson"
        return "categorical" if len(distinct) <= _FEW else "normal"
    if distinct[0] >= 0 and distinct[-1] <= 1 and distinct[0] < 0.05 and distinct[-1] > 0.95:
        return "truncated-normal" if distinct[0] == 0 or distinct[-1] == 1 else "beta"
    kurtosis = (((numbers - mean) / variance**0.5) ** 4).mean() - 3
    return "student-t" if kurtosis > _HEAVY else "normal"


def _named(series: Series, likelihood: str | None, where: str, leave: str) -> Column:
    """A column of categories, in their own order if they have one."""
    pd = pandas()
    if isinstance(series.dtype, pd.CategoricalDtype):
        categories = series.cat.categories.tolist()
    else:
        categories = list({label(value): value for value in series.dropna().tolist()}.values())
        plain = all(isinstance(value, int | float | Decimal) for value in categories)
        categories.sort(key=(lambda value: value) if plain else label)
    categories = [float(v) if isinstance(v, Decimal) else v for v in categories]
    categories = [v if isinstance(v, bool | int | float) else str(v) for v in categories]
    number, rows = len(categories), int(series.notna().sum())
    if number < 2:
        raise ValueError(f"{where} holds one value alone, {categories[0]!r}; {leave}.")
    if likelihood == "bernoulli" and number != 2:
        raise ValueError(f"{where} has {number} values, and bernoulli takes two; try categorical.")
    text = not isinstance(series.dtype, pd.CategoricalDtype) and _is_text(series)
    if likelihood is None and text and (number > _MANY or (number > _FEW and number > rows / 2)):
        seen = series.dropna()
        odd = seen[~are_numbers(seen)].tolist()
        if not odd:
            raise ValueError(
                f"{where} holds numbers as text, such as {seen.iloc[0]!r}. If they are quantities, "
                f"say so: {series.name}=normal; if they are categories, {series.name}=categorical; "
                f"else {leave}."
            )
        if len(odd) <= rows / 2:
            raise ValueError(
                f"{where} holds numbers but for {len(odd)} value{'s' * (len(odd) > 1)} such as "
                f"{odd[0]!r}; mend or empty those.{mend(odd[0])}"
            )
        raise ValueError(
            f"{where} is free text: {number} different values in {rows} rows, such as "
            f"{odd[0]!r}.{mend(odd[0])} If they are categories, say so: "
            f"{series.name}=categorical; else {leave}."
        )
    if likelihood not in (None, "categorical", "bernoulli"):
        seen = series.dropna()
        odd = seen[~are_numbers(seen)].tolist() or categories
        raise ValueError(
            f"{where} holds {odd[0]!r}, and {likelihood} takes numbers; give it another "
            f"likelihood, or {leave}.{mend(odd[0])}"
        )
    like = {looks_like(value) for value in categories}
    if likelihood is None and text and len(like) == 1 and None not in like:
        warn(
            f"{where} is text, such as {categories[0]!r}, and is taken as {number} categories."
            f"{mend(categories[0])} If categories are meant, say so: {series.name}=categorical."
        )
    chosen = likelihood or ("bernoulli" if _is_bool(series) and number == 2 else "categorical")
    return Column(name=str(series.name), likelihood=chosen, categories=tuple(categories))


def _is_text(series: Series) -> bool:
    pd = pandas()
    if isinstance(series.dtype, pd.CategoricalDtype):
        return True
    if not (pd.api.types.is_object_dtype(series) or pd.api.types.is_string_dtype(series)):
        return False
    values = series.dropna()
    numbers = bool | int | float | np.number | Decimal
    return any(not isinstance(value, numbers) for value in values.tolist())


def _is_bool(series: Series) -> bool:
    pd = pandas()
    if pd.api.types.is_bool_dtype(series):
        return True
    return series.dtype == object and all(isinstance(v, bool) for v in series.dropna().tolist())
