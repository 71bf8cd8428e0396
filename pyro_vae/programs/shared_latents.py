"""Whether latents of a model belong to all the data, so that p(data) has no factors."""

from __future__ import annotations

import pyro
import torch
from pyro.poutine.trace_struct import Trace

from ..common.seeding import seeded
from .traces import Batch, Fn, latent_sites, run_both, sample_sites

__all__ = ["is_of_all", "shares_no_plate"]

_FEW = 3


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
    for number in (_FEW, rows) if rows > _FEW else (rows,):
        part = tuple(argument[:number] for argument in data) if rows else data
        try:
            with seeded("inspect", 0), pyro.validation_enabled(False):
                trace, _ = run_both(model, guide, part)
        except Exception:  # programs of all the data at once, or with something else to say
            continue
        return shares_no_plate(trace, number)
    return False


def shares_no_plate(model: Trace, rows: int, *, inside: str = "") -> bool:
    """Whether latents of a traced model belong to all the data; see :func:`is_of_all`.

    A plate called ``inside``, around everything, does not count.
    """
    sites = [
        (site, [frame for frame in site["cond_indep_stack"] if frame.name != inside])
        for _, site in sample_sites(model)
    ]
    latents = [site for site, stack in sites if not site["is_observed"] and not stack]
    if rows and latents and all(rows in site["fn"].batch_shape for site in latents):
        return False
    if latents or not any(True for _ in latent_sites(model)):
        return not all(stack for _, stack in sites)
    if not all(stack for _, stack in sites):
        return False
    shared = set.intersection(*({frame.name for frame in stack} for _, stack in sites))
    return not shared and any(stack[0].size != rows for _, stack in sites)
