"""Tables of things by name: lookup, the options of an entry, the nearest spelling."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

__all__ = ["build", "check_choice", "check_options", "lookup", "options_of", "suggestion"]

T = TypeVar("T")


def suggestion(word: str, choices: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the nearest choice, or nothing."""
    near = difflib.get_close_matches(word, list(choices), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def lookup(kind: str, name: str, table: Mapping[str, T]) -> T:
    """Return ``table[name]``, or raise a ``ValueError`` that lists the names in the table."""
    if name not in table:
        raise ValueError(
            f"unknown {kind} {name!r}; there are {', '.join(map(repr, table))}."
            + suggestion(name, table)
        )
    return table[name]


def check_choice(kind: str, word: str, choices: Iterable[str]) -> None:
    """Raise a ``ValueError`` that lists the choices, unless ``word`` is one of them."""
    choices = list(choices)
    if word not in choices:
        raise ValueError(
            f"unknown {kind} {word!r}; there are {', '.join(choices)}.{suggestion(word, choices)}"
        )


def options_of(constructor: Callable[..., Any]) -> list[str]:
    """Return the names of a constructor's keyword-only parameters."""
    parameters = inspect.signature(constructor).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]


def check_options(
    kind: str, name: str, constructor: Callable[..., Any], options: Iterable[str]
) -> None:
    """Raise a ``ValueError`` for an option that a constructor does not take."""
    own = options_of(constructor)
    for option in options:
        if option not in own:
            takes = ", ".join(own) or "no options"
            raise ValueError(
                f"{kind} {name!r} does not take {option}; it takes {takes}."
                + suggestion(option, own)
            )


def build(
    kind: str, name: str, table: Mapping[str, Callable[..., T]], /, *args: Any, **options: Any
) -> T:
    """Return ``table[name](*args, **options)``; ``kind`` says in messages what the table holds.

    Raises:
        ValueError: an unknown name, or an option that its constructor does not take.
    """
    constructor = lookup(kind, name, table)
    check_options(kind, name, constructor, options)
    return constructor(*args, **options)
