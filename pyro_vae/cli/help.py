"""The help of a command: its options in groups, each with what it is if it is not given."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ..config import Config
from .base import Command
from .training import Fit

__all__ = ["command_help"]

_WIDTH, _COLUMN = 120, 24
_METAVARS = {int: "N", float: "X", str: "TEXT"}
_RUN = "run"


def command_help(name: str, kind: type[Command], given: Any = None) -> str:
    """Return the help of a command.

    Args:
        name: what it is called.
        kind: the command, a dataclass: fields that are dataclasses, too, are groups of options.
        given: settings whose values are the defaults.
    """
    groups: dict[str, list[str]] = {}
    required = []
    for group, option in _options(kind, given):
        groups.setdefault(group, []).extend(option.lines())
        required += [option.usage()] * option.required
    groups.setdefault(_RUN, []).extend(_entry("-h, --help", "show this help and exit"))
    last = groups.pop(_RUN)
    usage = " ".join([f"usage: pyro-vae {name}", *required, "[OPTIONS]"])
    text = [usage, "", *textwrap.wrap(inspect.getdoc(kind) or "", _WIDTH)]
    if kind is not Fit and any(field.name == "config" for field in dataclasses.fields(kind)):
        text.append("It takes the options of data, model, objective and training of fit, too.")
    for title, lines in {**groups, _RUN: last}.items():
        text += ["", f"{title}:", *lines]
    return "\n".join(text).replace("\0", " ")


@dataclasses.dataclass(frozen=True)
class _Option:
    """One option of a command line."""

    name: str
    metavar: str
    text: str
    default: str
    positional: bool
    required: bool

    def usage(self) -> str:
        """The option as it is written."""
        word = "" if self.positional else f"--{self.name}"
        return f"{word} {self.metavar}".strip()

    def lines(self) -> list[str]:
        """The option with its text and what it is otherwise."""
        default = "" if self.required or not self.default else f" [{self.default}]"
        return _entry(self.usage(), f"{self.text}{default}")


def _options(kind: type, given: Any = None, group: str = _RUN) -> Iterator[tuple[str, _Option]]:
    """Yield the options of a dataclass with their groups."""
    hints, texts = get_type_hints(kind, include_extras=True), _texts(kind)
    for field in dataclasses.fields(kind):
        hint, extras = _split(hints[field.name])
        if any("Suppress" in repr(extra) for extra in extras):
            continue
        value = _value(field) if given is None else getattr(given, field.name)
        if dataclasses.is_dataclass(hint):
            part: Any = hint
            if not (part is Config and kind is not Fit):
                yield from _options(part, value, _RUN)
            continue
        named: Any = next((extra for extra in extras if hasattr(extra, "metavar")), None)
        name = getattr(named, "name", None) or field.name.replace("_", "-")
        hint_of_default = getattr(named, "help_behavior_hint", None)
        switch = hint is bool
        text = texts.get(field.name, "")
        yield (
            _group(kind, field.name, group),
            _Option(
                name=f"no-{name}" if switch and value else name,
                metavar="" if switch else getattr(named, "metavar", None) or _metavar(hint),
                text=_negated(text) if switch and value else text,
                default="" if switch else _shown(value, hint_of_default),
                positional=any("Positional" in repr(extra) for extra in extras),
                required=value is dataclasses.MISSING,
            ),
        )


def _negated(text: str) -> str:
    """Text of the option that switches off what is on."""
    return f"Do not {text[:1].lower()}{text[1:]}"


def _split(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """Take the annotations off a type."""
    extras: tuple[Any, ...] = ()
    while hasattr(hint, "__metadata__"):
        extras += hint.__metadata__
        hint = get_args(hint)[0]
    return hint, extras


def _value(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _group(kind: type, name: str, group: str) -> str:
    """Title of a field: what kind of settings the class is that declares it."""
    owner = next(base for base in kind.__mro__ if name in inspect.get_annotations(base))
    title, found, _ = owner.__name__.partition("Settings")
    return title.lower() if found else "evaluation" if title == "Sampling" else group


def _shown(value: Any, hint: Any) -> str:
    if hint is not None:
        return str(hint)
    if value is None or value is dataclasses.MISSING:
        return ""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _metavar(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"{{{','.join(map(str, inner))}}}"
    if origin in (Union, UnionType):
        return "|".join(_metavar(one) for one in inner if one is not NoneType)
    if origin is tuple:
        return f"{_metavar(inner[0])} [...]"
    return _METAVARS.get(hint, getattr(hint, "__name__", str(hint)).upper())


def _texts(kind: type) -> dict[str, str]:
    """Texts below the fields of a dataclass and of its bases."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        for one, after in pairwise(getattr(body, "body", ())):
            if (
                isinstance(one, ast.AnnAssign)
                and isinstance(one.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
            ):
                found[one.target.id] = " ".join(str(after.value.value).split())
    return found


def _entry(usage: str, text: str) -> list[str]:
    """Put a text beside what it is of, its further lines in a column of their own."""
    usage = usage if len(usage) < _WIDTH - 10 else f"{usage.partition('{')[0]}NAME"
    first = f"  {usage:<{_COLUMN - 4}}  "
    return textwrap.wrap(
        first.replace(" ", "\0") + text,  # the usage is one word
        _WIDTH,
        subsequent_indent=" " * _COLUMN,
        break_on_hyphens=False,
        break_long_words=False,
    )
