"""Whether latents of a model belong to all the data, so that p(data) has no factors."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pyro
import torch
from pyro.poutine.trace_struct import Trace

from ..common.seeding import seeded
from .traces import (
    Batch,
    Fn,
    is_regularizer,
    latent_sites,
    run_alone,
    run_both,
    sample_sites,
)

__all__ = ["is_of_all", "shares_no_plate"]

_FEW = (3, 5)  # so that a plate of one of these sizes is not taken for that of the data


@torch.no_grad()
def is_of_all(model: Fn, guide: Fn, data: Batch) -> bool:
    """Whether a model has latents that belong to all the data, so that p(data) has no factors.

    That is, sites that share no plate. Where all latents without a plate have a row for each datum,
    their plate is taken to be forgotten.

    Args:
        model: Pyro program.
        guide: Pyro program.
        data: all the data, as arguments of the programs.
    """
    lengths = {len(argument) for argument in data}
    rows = lengths.pop() if len(lengths) == 1 else 0
    numbers = _FEW if rows > max(_FEW) else (rows - 1, rows) if rows > 1 else (rows,)
    found = [_shared(model, guide, data, number, rows) for number in numbers]
    if all(one is None for one in found):  # programs of all the data at once
        found = [_shared(model, guide, data, rows, rows)]
    return any(found)


def _shared(model: Fn, guide: Fn, data: Batch, number: int, rows: int) -> bool | None:
    """Ask :func:`shares_no_plate` of so many rows; ``None`` if the programs do not run on them."""
    part = tuple(argument[:number] for argument in data) if rows else data
    with seeded("inspect", 0), pyro.validation_enabled(False):
        with suppress(Exception):  # written for other numbers, or without draws of its own
            trace = run_alone(model, part)
            trace.compute_log_prob()  # fails where sizes do not go together
            return shares_no_plate(trace, number, rows)
        if number == rows:  # some guides remember the number that they were run on first
            with suppress(Exception):  # something else to say
                return shares_no_plate(run_both(model, guide, part)[0], number, rows)
    return None


def shares_no_plate(model: Trace, rows: int, total: int = 0, *, inside: str = "") -> bool:
    """Whether latents of a traced model belong to all the data; see :func:`is_of_all`.

    Args:
        model: the trace.
        rows: number of data that it was run on; 0 if it is not known.
        total: number of all the data.
        inside: name of a plate around everything, which does not count.
    """
    sites = [
        (site, [frame for frame in site["cond_indep_stack"] if frame.name != inside])
        for _, site in sample_sites(model)
    ]
    latents = [site for site, stack in sites if not site["is_observed"] and not stack]
    if rows and latents and all(_has_rows(site, rows) for site in latents):
        return False
    if latents or not any(True for _ in latent_sites(model)):
        return not all(stack for _, stack in sites)
    if outside := [site for site, stack in sites if not stack and not is_regularizer(site)]:
        return bool(rows) and not any(_has_rows(site, rows) for site in outside)
    stacks = [stack for _, stack in sites if stack]
    shared = set.intersection(*({frame.name for frame in stack} for stack in stacks))
    if not shared:
        return any(stack[0].size != rows for stack in stacks)
    frames = [frame for stack in stacks for frame in stack if frame.name in shared]
    follows = any(frame.size == rows or frame.full_size in (rows, total) for frame in frames)
    loose = any(_has_rows(site, rows) for site, _ in sites)
    return bool(rows) and not (follows or loose)


def _has_rows(site: Any, rows: int) -> bool:
    """Whether a site has a dimension of so many items and no plate for it, as if forgotten."""
    shape = site["fn"].batch_shape
    plates = {frame.dim for frame in site["cond_indep_stack"]}
    return any(shape[dim] == rows for dim in range(-len(shape), 0) if dim not in plates)
