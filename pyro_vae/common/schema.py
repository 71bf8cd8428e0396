"""The columns of a table: their likelihoods, categories, and units."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, get_args

from .options import ColumnLikelihood
from .registry import check_choice, suggestion

__all__ = ["IGNORE", "KINDS", "Column", "Schema", "check_likelihood", "parse_columns"]

IGNORE = "ignore"
KINDS: dict[str, str] = {
    "normal": "real",
    "student-t": "real",
    "laplace": "real",
    "poisson": "count",
    "negative-binomial": "count",
    "categorical": "category",
    "bernoulli": "binary",
    "beta": "bounded",
    "truncated-normal": "bounded",
}
"""Kind of the values that a likelihood is for."""
_NAMED = ("category", "binary")


@dataclass(frozen=True, kw_only=True)
class Column:
    r"""One column, and how its values v become numbers x, which networks and densities see.

    - real and bounded: :math:`x = (v - \mathrm{offset}) / \mathrm{scale}`, in standard deviations
      from the mean, or in [0, 1] between two bounds;
    - counts: x = v; ``scale``, their standard deviation, is used inside networks alone;
    - categories and binary values: the position of v in ``categories``.

    Attributes:
        name: name of the column.
        likelihood: a key of ``KINDS``.
        categories: values by position, of categories and binary values.
        offset: value at which x = 0.
        scale: units of v in a unit of x.
    """

    name: str
    likelihood: str
    categories: tuple[Any, ...] = ()
    offset: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_choice(f"likelihood of column {self.name!r}", str(self.likelihood), KINDS)
        object.__setattr__(self, "categories", tuple(self.categories))
        for name in ("offset", "scale"):
            object.__setattr__(self, name, float(getattr(self, name)))
        if not (math.isfinite(self.offset) and 0 < self.scale < math.inf):
            raise ValueError(
                f"column {self.name!r} needs a finite offset and a positive scale; got "
                f"{self.offset} and {self.scale}."
            )
        if (self.kind in _NAMED) != (len(self.categories) >= 2):
            raise ValueError(
                f"column {self.name!r} is {self.likelihood}, with {len(self.categories)} "
                "categories; categories and binary values have two or more, others none."
            )

    @property
    def kind(self) -> str:
        """``real``, ``count``, ``category``, ``binary`` or ``bounded``."""
        return KINDS[self.likelihood]

    @property
    def is_named(self) -> bool:
        """Whether values are positions in ``categories``."""
        return self.kind in _NAMED

    @property
    def is_density(self) -> bool:
        """Whether the likelihood is a density in units of v, rather than a probability."""
        return self.kind in ("real", "bounded")


@dataclass(frozen=True)
class Schema:
    """The columns of a table, in order; with it another table is read like the first.

    Attributes:
        columns: what each column is.
        ignored: columns of the first table that were left out.
    """

    columns: tuple[Column, ...]
    ignored: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(self.columns))
        object.__setattr__(self, "ignored", tuple(self.ignored))

    def __len__(self) -> int:
        return len(self.columns)

    def __iter__(self) -> Iterator[Column]:
        return iter(self.columns)

    @property
    def names(self) -> list[str]:
        """Names of the columns."""
        return [column.name for column in self.columns]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Schema:
        """Build a schema from plain values.

        Raises:
            ValueError: values of another kind.
        """
        known = {field.name for field in fields(Column)}
        try:
            columns = [dict(one) for one in values["columns"]]
            ignored = tuple(str(name) for name in values.get("ignored", ()))
            if not columns or any(set(one) - known for one in columns):
                raise ValueError(f"columns with other entries than {', '.join(sorted(known))}")
            return cls(tuple(Column(**one) for one in columns), ignored)
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise ValueError(f"the schema of a table cannot be read: {error}") from error


def parse_columns(settings: tuple[str, ...]) -> dict[str, str]:
    """Read settings such as ``age=student-t`` or ``share=beta:0:100``.

    Raises:
        ValueError: text of another form, or a column that is named twice.
    """
    found: dict[str, str] = {}
    for text in settings:
        name, equals, likelihood = text.rpartition("=")
        if not (name and equals and likelihood):
            raise ValueError(
                f"columns are given as NAME=LIKELIHOOD, for example age=student-t; got {text!r}."
            )
        if name in found:
            raise ValueError(f"column {name!r} is given twice, as {found[name]} and {likelihood}.")
        check_likelihood(name, likelihood)
        found[name] = likelihood
    return found


def check_likelihood(name: str, text: str) -> tuple[str, tuple[float, float] | None]:
    """Return the likelihood that a column is to have, and its bounds if these are given.

    Raises:
        ValueError: an unknown likelihood, or bounds that are no two rising numbers.
    """
    likelihood, *bounds = str(text).split(":")
    choices = (*get_args(ColumnLikelihood), IGNORE)
    if likelihood not in choices:
        raise ValueError(
            f"unknown likelihood {likelihood!r} of column {name!r}; there are "
            f"{', '.join(choices)}.{suggestion(likelihood, choices)}"
        )
    if not bounds:
        return likelihood, None
    try:
        low, high = map(float, bounds)
    except ValueError:
        low = high = math.nan
    if KINDS.get(likelihood) != "bounded" or not -math.inf < low < high < math.inf:
        raise ValueError(
            f"column {name!r} cannot be {text!r}; bounds are for beta and truncated-normal, and "
            "are written as beta:0:100."
        )
    return likelihood, (low, high)
