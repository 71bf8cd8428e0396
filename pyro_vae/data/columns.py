"""What the columns of a table are, judged by their types and values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.registry import suggestion
from ..common.schema import IGNORE, KINDS, Column, Schema, check_likelihood
from .frames import as_frame, pandas
from .tables import label, numeric

if TYPE_CHECKING:
    from pandas import DataFrame, Series

__all__ = ["infer"]

_FEW = 10  # categories of numbers
_MANY = 100  # categories of text
_HEAVY = 3.0  # excess kurtosis


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
            or of one value; free text; values that a likelihood does not take.
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
    if (
        _is_text(series)
        or _is_bool(series)
        or KINDS.get(likelihood or "") in ("category", "binary")
    ):
        return _named(series, likelihood, where, leave)
    numbers = numeric(series, where)
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
    kurtosis = ((numbers - mean) ** 4).mean() / variance**2 - 3
    return "student-t" if kurtosis > _HEAVY else "normal"


def _named(series: Series, likelihood: str | None, where: str, leave: str) -> Column:
    """A column of categories, in their own order if they have one."""
    pd = pandas()
    if isinstance(series.dtype, pd.CategoricalDtype):
        categories = series.cat.categories.tolist()
    else:
        categories = list({label(value): value for value in series.dropna().tolist()}.values())
        plain = all(isinstance(value, int | float) for value in categories)
        categories.sort(key=(lambda value: value) if plain else label)
    categories = [v if isinstance(v, bool | int | float) else str(v) for v in categories]
    number, rows = len(categories), int(series.notna().sum())
    if number < 2:
        raise ValueError(f"{where} holds one value alone, {categories[0]!r}; {leave}.")
    if likelihood == "bernoulli" and number != 2:
        raise ValueError(f"{where} has {number} values, and bernoulli takes two; try categorical.")
    text = not isinstance(series.dtype, pd.CategoricalDtype) and _is_text(series)
    if likelihood is None and text and (number > _MANY or (number > _FEW and number > rows / 2)):
        odd = pd.to_numeric(series.dropna(), errors="coerce").isna()
        if odd.sum() <= rows / 2:
            first = series.dropna()[odd].iloc[0]
            raise ValueError(
                f"{where} holds numbers but for {int(odd.sum())} values such as {first!r}; mend or "
                "empty those."
            )
        raise ValueError(
            f"{where} is free text: {number} different values in {rows} rows. If they are "
            f"categories, say so: {series.name}=categorical; else {leave}."
        )
    if likelihood not in (None, "categorical", "bernoulli"):
        raise ValueError(
            f"{where} holds {categories[0]!r}, and {likelihood} takes numbers; give it another "
            f"likelihood, or {leave}."
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
    return any(not isinstance(value, bool | int | float | np.number) for value in values.tolist())


def _is_bool(series: Series) -> bool:
    pd = pandas()
    if pd.api.types.is_bool_dtype(series):
        return True
    return series.dtype == object and all(isinstance(v, bool) for v in series.dropna().tolist())
