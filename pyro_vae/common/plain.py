"""Plain values, as files hold them, against the types that they should have."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import (
    Any,
    Literal,
    NotRequired,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

__all__ = ["as_number", "fits", "misfits"]


def as_number(value: Any) -> Any:
    """Return a number of another library, such as ``np.int64(3)``, as Python's; others as is."""
    if isinstance(value, Integral) and not isinstance(value, int):
        return int(value)
    if isinstance(value, Real) and not isinstance(value, int | float):
        return float(value)
    return value


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type: a class, a choice, a union, or a container of such.

    An integer is a number, too, but no truth value is; tuples and lists count as sequences.
    """
    origin, choices = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin is Literal:
        return value in choices
    if origin in (Union, types.UnionType):
        return any(fits(value, choice) for choice in choices)
    if origin is tuple:
        return isinstance(value, tuple) and all(fits(item, choices[0]) for item in value)
    if origin in (list, Sequence):
        return isinstance(value, list | tuple) and all(fits(item, choices[0]) for item in value)
    if origin in (dict, Mapping):
        return isinstance(value, Mapping) and all(
            fits(key, choices[0]) and fits(item, choices[1]) for key, item in value.items()
        )
    if is_typeddict(hint):
        return isinstance(value, Mapping) and not misfits(value, hint)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def misfits(values: Mapping[str, Any], schema: type) -> list[str]:
    """Say what is wrong with values that should be those of a ``TypedDict``; others may be there.

    Returns:
        A few words for each entry that is missing or of another type.
    """
    hints = get_type_hints(schema)
    marked = get_type_hints(schema, include_extras=True)
    required = {name for name, hint in marked.items() if get_origin(hint) is not NotRequired}
    missing = [f"{name} is missing" for name in sorted(required - values.keys())]
    return missing + [
        f"{name} is {_words(values[name])}"
        for name, hint in hints.items()
        if name in values and not fits(values[name], hint)
    ]


def _words(value: Any) -> str:
    words = repr(value) if isinstance(value, str | int | float | None) else ""
    return words if 0 < len(words) < 40 else f"a {type(value).__name__} that does not fit"
