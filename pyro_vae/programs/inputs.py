"""Data of any kind, in a type that a pair of programs takes: the door of fit and log_evidence."""

from __future__ import annotations

import pyro
import torch
from pyro.poutine.trace_struct import Trace

from ..common.seeding import seeded
from ..data import AnyData, Data, Source, as_source
from ..data.arrays import is_array
from ..data.forms import Form
from ..data.signatures import arguments_of
from ..data.stored import is_stored
from .autoguides import set_up
from .modules import device_of, modules_of, takes_missing
from .shared_latents import is_of_all
from .traces import Batch, Fn, observed_sites, run_both

__all__ = ["data_set", "source_for"]

_TRIED = 4  # data


def source_for(
    data: AnyData, model: Fn, guide: Fn, *, what: str = "x", finite: bool = True
) -> Source:
    """Make a source of data, in a type that the programs take.

    Floating-point arrays that are no tensors get the type of the programs' parameters. So do truth
    values and bytes, and other integers where the programs, tried on a few data, do not take them
    as they are (as those do that look them up or count them).

    Args:
        data: the data; see :func:`pyro_vae.data.as_source`.
        model: Pyro program.
        guide: Pyro program.
        what: name of the data in messages.
        finite: whether NaN is wrong in data that come without other arguments, unless the programs
            take it for missing values.

    Raises:
        TypeError: data of another kind, or not as many arguments as the programs take.
        ValueError: no data; arguments with different numbers of data; integers too large for the
            parameters' type; a list of single data in place of batches.
    """
    dtype = _type_of(model, guide)
    finite = finite and not takes_missing(model, guide)
    source = as_source(data, model, what=what, finite=finite, dtype=dtype)
    with seeded("inputs", 0):
        batch = next(iter(source.batches(_TRIED)), None)
    if batch is None:
        return source
    integers = not batch[0].is_floating_point() and not batch[0].is_complex()
    if dtype is not None and integers:
        small = batch[0].dtype in (torch.bool, torch.uint8)
        if small or _tried(model, guide, batch) is None:
            source = as_source(data, model, what=what, finite=finite, dtype=dtype, floating=True)
            batch = next(iter(source.batches(_TRIED)))
    if batch[0].is_complex() and _tried(model, guide, batch) is None:
        raise TypeError(
            f"{what} is {str(batch[0].dtype).removeprefix('torch.')}, which the programs do not "
            "take; give real and imaginary parts, torch.view_as_real(x)."
        )
    if isinstance(data, list):
        _check_items(_tried(model, guide, batch), what)
    return source


def data_set(data: AnyData, model: Fn, guide: Fn, automatic: Fn) -> Batch | None:
    """Return all the data as arguments of programs whose latents belong to all of them.

    Args:
        data: the data; see :func:`source_for`.
        model: Pyro program.
        guide: Pyro program.
        automatic: the guide as it was given; if it is one of Pyro's automatic guides that was never
            run, it is set up.

    Returns:
        Tensors, of which each may have a length of its own (a single zero where the programs have
        their data in themselves); ``None`` where each datum has latents of its own, or the data are
        read in batches or from disk.
    """
    if isinstance(data, Data):
        data = arguments_of(data, model)
    arguments = data if isinstance(data, tuple) else (data,)
    if not all(map(is_array, arguments)) or any(map(is_stored, arguments)):
        return None
    tensors = Form("x", _type_of(model, guide), False).tensors(arguments)
    if not tensors:  # the programs hold their data
        return (torch.zeros(1),)
    if not all(tensor.numel() for tensor in tensors) or tensors[0].dim() == 0:
        return None
    set_up(automatic, tensors)
    if not is_of_all(model, guide, tensors):
        return None
    return tensors


def _type_of(*programs: Fn) -> torch.dtype | None:
    """Type of the floating-point parameters of programs, if any."""
    for module in modules_of(*programs):
        for parameter in module.parameters():
            if parameter.is_floating_point():
                return parameter.dtype
    return None


@torch.no_grad()
def _tried(model: Fn, guide: Fn, batch: Batch) -> Trace | None:
    """Trace of the model on a batch as it is, if the programs take it."""
    device = device_of(model, guide) or batch[0].device
    try:
        with seeded("inputs", 0), pyro.validation_enabled(False):
            return run_both(model, guide, tuple(argument.to(device) for argument in batch))[0]
    except Exception:  # whatever a user's program brings up
        return None


def _check_items(model: Trace | None, what: str) -> None:
    """Check that an item of a list is a batch to the model, and not a datum that it broadcasts."""
    for name, site in () if model is None else observed_sites(model):
        seen, wanted = site["value"].shape, site["fn"].shape()
        if 0 < len(seen) < len(wanted):
            raise ValueError(
                f"{what} is a list of items that are no batches to the model: what site {name!r} "
                f"observes has shape {tuple(seen)}, its distribution {tuple(wanted)}. Give single "
                "data as torch.stack(x)."
            )
