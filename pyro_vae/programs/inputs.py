"""Data of any kind, in a type that a pair of programs takes: the door of fit and log_evidence."""

from __future__ import annotations

import pyro
import torch
from torch import Tensor

from ..common.seeding import seeded
from ..data import AnyData, Source, as_source
from .modules import device_of, modules_of
from .traces import Batch, Fn, run_both

__all__ = ["source_for"]

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
        finite: whether NaN is wrong in data that come without other arguments.

    Raises:
        TypeError: data of another kind, or not as many arguments as the programs take.
        ValueError: no data; arguments with different numbers of data; integers too large for the
            parameters' type.
    """
    dtype = _type_of(model, guide)
    source = as_source(data, model, what=what, finite=finite, dtype=dtype)
    if dtype is None:
        return source
    with seeded("inputs", 0):
        batch = next(iter(source.batches(_TRIED)), None)
    if batch is None or batch[0].is_floating_point() or batch[0].is_complex():
        return source
    if batch[0].dtype not in (torch.bool, torch.uint8) and _take(model, guide, batch):
        return source
    return as_source(data, model, what=what, finite=finite, dtype=dtype, floating=True)


def _type_of(*programs: Fn) -> torch.dtype | None:
    """Type of the floating-point parameters of programs, if any."""
    for module in modules_of(*programs):
        for parameter in module.parameters():
            if parameter.is_floating_point():
                return parameter.dtype
    return None


@torch.no_grad()
def _take(model: Fn, guide: Fn, batch: Batch) -> bool:
    """Whether programs run on a batch as it is."""
    device = device_of(model, guide) or batch[0].device
    arguments: list[Tensor] = [argument.to(device) for argument in batch]
    try:
        with seeded("inputs", 0), pyro.validation_enabled(False):
            run_both(model, guide, tuple(arguments))
    except Exception:  # whatever a user's program brings up
        return False
    return True
