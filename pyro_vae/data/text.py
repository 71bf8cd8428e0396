"""What text in a table looks like, where numbers were expected: said in messages."""

from __future__ import annotations

import datetime
import re
from typing import TYPE_CHECKING, Any

from .frames import pandas

if TYPE_CHECKING:
    from pandas import Series

__all__ = ["are_numbers", "are_times", "looks_like", "mend"]

_NUMBER = r"[+-]?\d[\d.,' ]*"
_FORMS = {
    "dates or times": (
        r"\d{4}([-/.]\d{1,2}){1,2}([ T].*)?|\d{1,2}([-/.])\d{1,2}\3\d{2,4}([ T].*)?"
        r"|\d{1,2}:\d{2}(:\d{2})?"
    ),
    "numbers with commas": rf"(?=.*,){_NUMBER}",
    "amounts with a sign": rf"[+-]?[^\w\s.,+-]\s?{_NUMBER}|{_NUMBER}\s?[^\w\s.,]",
}
_MEND = {
    "dates or times": "give numbers, such as days since the first",
    "numbers with commas": "write 1.5 for 1,5, and 1500 for 1,500",
    "amounts with a sign": "write numbers alone, without the sign",
}


def looks_like(value: Any) -> str | None:
    """Return what a text looks like that is no number, ``"dates or times"``, if that is known."""
    if not isinstance(value, str):
        return None
    return next((name for name, form in _FORMS.items() if re.fullmatch(form, value.strip())), None)


def mend(value: Any) -> str:
    """Return what to write instead of a text, as the end of a message; empty if nobody knows."""
    name = looks_like(value)
    return "" if name is None else f" It looks like {name}: {_MEND[name]}."


def are_times(series: Series) -> bool:
    """Whether a column holds dates, times or spans of time, in a type of pandas or of Python."""
    pd = pandas()
    if pd.api.types.is_datetime64_any_dtype(series) or pd.api.types.is_timedelta64_dtype(series):
        return True
    if isinstance(series.dtype, pd.PeriodDtype):
        return True
    kinds = (datetime.date, datetime.time, datetime.timedelta, pd.Period)
    seen = series.dropna() if series.dtype == object else ()
    return len(seen) > 0 and all(isinstance(value, kinds) for value in seen)


def are_numbers(series: Series) -> Any:
    """Which cells of a column hold numbers, if as text."""
    pd = pandas()
    return pd.to_numeric(series.astype(object), errors="coerce").notna().to_numpy()
