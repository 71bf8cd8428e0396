"""Tensors, data sets and loaders of any kind, as the arguments of two Pyro programs."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import replace
from os import PathLike
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..common.checks import check_data
from .arrays import check_batches, is_array
from .base import Source, fingerprint_of
from .forms import Form
from .rows import of_rows
from .sets import Data
from .signatures import arguments_of, signature_of, takes
from .stored import check_rows, is_stored
from .streams import length_of, streamed

__all__ = ["AnyData", "Source", "as_source", "fingerprint_of"]

_SEQUENCES = (list, deque, range, array)

AnyData: TypeAlias = "Tensor | Data | tuple[Any, ...] | Dataset[Any] | Iterable[Any]"
"""A tensor or an array ``(N, *event_shape)`` (of NumPy, pandas, scipy.sparse), our ``Data``, a
tuple of such (one for each argument of the programs), a map-style or iterable dataset, or a loader
or a list of batches ``(N, *event_shape)`` that can be iterated again. Of arrays on disk (those of
``np.load(path, mmap_mode="r")``) rows are read as they are used."""


def as_source(
    data: AnyData,
    program: Callable[..., Any],
    *,
    what: str = "x",
    finite: bool = True,
    dtype: torch.dtype | None = None,
    floating: bool = False,
) -> Source:
    """Make a source of whatever a user passes as data.

    Args:
        data: the data.
        program: one of the programs, whose positional parameters say how many arguments to give. It
            gets the leading parts of the items of a dataset or loader, and the labels of ``Data``
            (the exposures, if that is its name) if it requires a second argument.
        what: name of the data in messages.
        finite: whether NaN is wrong in data that come without other arguments.
        dtype: type for floating-point arrays that are no tensors; by default their own.
        floating: give the data, the first argument, in this type if they are integers.

    Raises:
        TypeError: no data, or not as many arguments as the program takes.
        ValueError: no data, arguments with different numbers of data, or a list of single data.
    """
    least, most = takes(program)
    form = Form(what, dtype, floating)
    if is_array(data):
        data = Data(*Form(what, dtype, False).tensors((data,)))
    if isinstance(data, Data):
        (x,) = form.tensors((data.x,))
        data = data if x is data.x else replace(data, x=x)
        if not is_stored(data.x):
            check_data(data.x, what=what, finite=finite)
        return of_rows(arguments_of(data, program, what=what), data)
    if isinstance(data, tuple):
        data = form.tensors(data)
        for number, argument in enumerate(data):
            check_rows(argument, what=f"argument {number}" if number else what, finite=False)
            if len(argument) != len(data[0]):
                raise ValueError(
                    f"argument {number} has {len(argument)} rows, x {len(data[0])}; every argument "
                    "needs one row for each datum."
                )
        try:
            signature_of(program).bind(*data)
        except TypeError as error:
            raise TypeError(
                f"{what} is a tuple of {len(data)} arguments, but the programs take others: "
                f"{error}. Give one tensor for each argument."
            ) from None
        return of_rows(data)
    if isinstance(data, Mapping):
        raise TypeError(
            f"{what} is a {type(data).__name__}; give the tensors themselves, a tuple of them if "
            f"the programs take several, in their order: {_of_keys(data, least)}."
        )
    words = isinstance(data, str | bytes | PathLike)
    is_batches = isinstance(data, Dataset) or hasattr(data, "__iter__")
    if is_batches and not isinstance(data, str | bytes | PathLike | memoryview | bytearray):
        if _reads_once(data):
            raise TypeError(
                f"{what} is a {type(data).__name__}, which can be read only once; give a list of "
                "batches, a DataLoader, or a tensor."
            )
        if isinstance(data, Sized) and length_of(data) == 0:
            raise ValueError(f"{what} is empty.")
        if isinstance(data, _SEQUENCES):
            check_batches(data, what)
        return streamed(data, (least, most), form)
    raise TypeError(
        f"{what} must be a tensor, a data set or a loader of batches; got {type(data).__name__}. "
        + (
            "Read a file with pv.load(path)."
            if words
            else "Convert arrays with torch.as_tensor(x, dtype=torch.float32)."
        )
    )


def _reads_once(data: Any) -> bool:
    """Whether data are an iterator, or give the same one whenever they are asked for one."""
    if isinstance(data, Dataset | DataLoader):
        return False  # a loader may well use its workers again
    return isinstance(data, Iterator) or iter(data) is iter(data)


def _of_keys(data: Mapping[Any, Any], number: int) -> str:
    keys = [f"d[{key!r}]" for key in data][: max(1, number)]
    return keys[0] if len(keys) == 1 else f"({', '.join(keys)})"
