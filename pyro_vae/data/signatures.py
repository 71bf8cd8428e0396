"""How a program is called, and what it takes of a data set."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from .sets import Data

__all__ = ["arguments_of", "signature_of", "takes"]


def signature_of(program: Callable[..., Any]) -> inspect.Signature:
    """Signature of a program, or of the one that a handler of Pyro wraps."""
    try:
        return inspect.signature(program)
    except ValueError:  # a handler as a decorator keeps the function among its arguments
        inside = [part for part in getattr(program, "args", ()) if callable(part)]
        if not inside:
            raise
        return signature_of(inside[-1])


def takes(program: Callable[..., Any]) -> tuple[int, float]:
    """Fewest and most positional arguments of a program that are data; at least one.

    A parameter with a default counts only if the default is ``None``.
    """
    least, most = 0, 0.0
    for parameter in signature_of(program).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            most = math.inf
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            least += parameter.default is parameter.empty
            most += parameter.default in (parameter.empty, None)
    return max(1, least), max(1, most)


def arguments_of(data: Data, program: Callable[..., Any], *, what: str = "x") -> tuple[Tensor, ...]:
    """Return what a program takes of a data set: x, and after it exposures or labels by its name.

    Raises:
        TypeError: a program that takes more than the data have.
    """
    least, _ = takes(program)
    if least < 2:
        return (data.x,)
    name = list(signature_of(program).parameters)[1]
    wanted, beside = ("exposures", data.exposure) if name == "exposure" else ("labels", data.y)
    if beside is None or least > 2:
        raise TypeError(
            f"the programs take {least} arguments, but {what} has no {wanted}; give a tuple."
        )
    return data.x, beside
