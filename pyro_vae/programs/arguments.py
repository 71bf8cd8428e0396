"""Arguments as programs are called: by position or name, nested, and those that are no data."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from ..common.seeding import seeded
from ..data.arrays import is_array
from ..data.signatures import signature_of
from .module import ProgramModule
from .packed import as_long_as, is_packed, padded
from .traces import Fn

__all__ = ["bound", "of_data", "of_fewer"]


def bound(data: Any, *programs: Fn) -> tuple[Any, tuple[Fn, ...]]:
    """Make programs of data alone, if they are called with more than that.

    A tuple may hold what is no data: numbers, strings, ``None``, tensors without dimensions. It is
    the same for all data and goes to the programs as it is. So do lists, tuples and dictionaries of
    tensors, of which each tensor has a row for each datum. A dictionary whose keys are names of the
    programs' parameters is passed by name; another one as it is, if the programs run on it. Of a
    packed sequence the data are its sequences with their lengths; the programs get it packed again.

    Where an integer is the number of data, as a size of their plate, a program has another form of
    itself, ``counting``, in which it is the number of the data that it gets.

    Args:
        data: what a user passes as data.
        programs: Pyro programs, which all get the same arguments.

    Returns:
        The data, a tuple of tensors or arrays where there was anything else, and the programs of
        these.

    Raises:
        TypeError: a list of numbers, one for each datum; other arguments than the programs take.
    """
    if isinstance(data, Mapping) and all(_takes(program, data) for program in programs):
        call: tuple[tuple[Any, ...], dict[str, Any]] = ((), dict(data))
    elif is_packed(data) or (isinstance(data, dict) and all(_runs(p, data) for p in programs)):
        call = ((data,), {})
    elif isinstance(data, tuple):
        if all(map(_is_data, data)) and data:
            return data, programs
        call = (data, {})
    else:
        return data, programs
    for program in programs:
        _check_call(program, *call)
    _check_lists(call)
    unnamed = bool(call[0]) and call[0][0] is data
    call = tree_map(padded, call, is_leaf=is_packed)
    leaves, form = tree_flatten(call)
    padding = as_long_as(call)
    places = [place for place, leaf in enumerate(leaves) if _is_data(leaf)]
    if unnamed:  # its names have no order: numbers first, codes and masks
        places.sort(key=lambda place: "float" not in str(leaves[place].dtype))
    constants = {n: leaf for n, leaf in enumerate(leaves) if n not in places}
    rows = len(leaves[places[0]]) if places else None
    numbers = [n for n, leaf in constants.items() if type(leaf) is int and leaf == rows]

    def without(program: Fn, *, counting: bool = False) -> Fn:
        def run(*tensors: Tensor) -> Any:
            given = list(leaves)
            for place, tensor in zip(places, tensors, strict=False):
                given[place] = tensor
            for place in numbers if counting else ():
                given[place] = len(tensors[0])
            args, kwargs = tree_unflatten(given, form)
            with padding:
                return program(*args, **kwargs)

        run.constants = constants  # type: ignore[attr-defined]
        if numbers and not counting:
            run.counting = without(program, counting=True)  # type: ignore[attr-defined]
        run.__wrapped__ = program  # type: ignore[attr-defined]
        run.__signature__ = _OF_ANY_NUMBER  # type: ignore[attr-defined]
        return run

    return tuple(leaves[place] for place in places), tuple(map(without, programs))


class OfData(ProgramModule):
    """A module with two programs of data alone; its parameters and state are those of another.

    Args:
        program: the module.
        model: its model, called with the data.
        guide: its guide, likewise.
    """

    def __init__(self, program: nn.Module, model: Fn, guide: Fn) -> None:
        super().__init__()
        self.program = program
        self.model, self.guide = model, guide

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return that of the program."""
        return self.program.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load that of the program."""
        return self.program.load_state_dict(*args, **kwargs)


def of_data(program: Any, train: Any, valid: Any) -> tuple[Any, Any, Any]:
    """Make a module of the data alone, where its programs are called with more than that.

    Arguments beside others that are no data, and of lengths of their own, are one data set.

    Returns:
        The module (the given one, if all arguments are data), training data, validation data.

    Raises:
        ValueError: arguments beside the validation data that differ from those of training.
    """
    train, programs = bound(train, program.model, program.guide)
    constants = getattr(programs[0], "constants", None)
    if constants is not None and valid is None and len({*map(len, train)}) > 1:  # one data set
        programs, train = tuple(_holding(run, train) for run in programs), ()
    if constants is not None and train == ():  # the programs hold their data
        train = (torch.zeros(1),)
    if valid is not None:
        valid, others = bound(valid, program.model, program.guide)
        beside = getattr(others[0], "constants", None)
        if beside != constants:
            raise ValueError(
                f"training data come with {_shown(constants)} beside them, and validation data "
                f"with {_shown(beside)}; give both the same."
            )
    return (program if constants is None else OfData(program, *programs)), train, valid


def _holding(program: Fn, data: tuple[Tensor, ...]) -> Fn:
    """Make a program that holds its data, whatever it is called with."""

    def run(*_: Tensor) -> Any:
        return program(*data)

    run.__wrapped__ = program  # type: ignore[attr-defined]
    run.__signature__ = _OF_ANY_NUMBER  # type: ignore[attr-defined]
    return run


def of_fewer(program: Fn, number: int) -> Fn:
    """Make a program that leaves out so many of its last arguments."""

    def run(*arguments: Tensor) -> Any:
        return program(*arguments[:-number])

    run.__wrapped__ = program  # type: ignore[attr-defined]
    return run


def _shown(constants: dict[int, Any] | None) -> str:
    return ", ".join(map(repr, (constants or {}).values())) or "nothing"


def _is_data(leaf: Any) -> bool:
    """Whether a value has rows, one for each datum."""
    return is_array(leaf) and len(leaf.shape) > 0


def _takes(program: Callable[..., Any], names: Mapping[Any, Any]) -> bool:
    """Whether a program can be called with arguments of these names."""
    if not names or not all(isinstance(name, str) for name in names):
        return False
    try:
        signature_of(program).bind(**names)
    except (TypeError, ValueError):
        return False
    return True


def _runs(program: Callable[..., Any], data: dict[Any, Any]) -> bool:
    """Whether a program takes a dictionary as it is."""
    try:
        with seeded("arguments", 0), torch.no_grad(), pyro.validation_enabled(False):
            pyro.poutine.trace(program).get_trace(data)
    except Exception:  # whatever a user's program brings up
        return False
    return True


def _check_call(program: Fn, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    try:
        signature_of(program).bind(*args, **kwargs)
    except ValueError:  # it has no signature
        return
    except TypeError as error:
        raise TypeError(
            f"x is a tuple of {len(args)} arguments, but the programs take others: {error}."
        ) from None


def _check_lists(call: tuple[tuple[Any, ...], dict[str, Any]]) -> None:
    """Check that no list of numbers, one for each datum, is taken for a setting."""
    values = {f"argument {place}": value for place, value in enumerate(call[0])} | call[1]
    rows = next((len(value) for value in values.values() if _is_data(value)), None)
    for name, value in values.items():
        rows_of_numbers = isinstance(value, list) and bool(value) and all(map(_numbers, value))
        if (_numbers(value) and len(value) == rows) or (
            rows_of_numbers and rows in (None, len(value))
        ):
            raise TypeError(
                f"{name} is a list of {len(value)} {'rows' if rows_of_numbers else 'numbers'}, one "
                "for each datum; give a tensor, torch.tensor(...)."
            )


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(part, int | float) for part in value)


_OF_ANY_NUMBER = inspect.Signature([inspect.Parameter("tensors", inspect.Parameter.VAR_POSITIONAL)])
