"""Where a model observes its arguments, and whether data put there follow it."""

from __future__ import annotations

from typing import Any

import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from .checks import is_delta
from .followed import Followed
from .traces import Batch, Fn, latent_sites, log_prob, observed_sites, run

__all__ = ["check_simulated", "data_places", "put"]


def data_places(model: Fn, batch: Batch) -> tuple[dict[str, tuple[int, Tensor]], dict[str, Any]]:
    """Find which argument a site observes, and where each observed value is in it.

    Returns:
        Places by site, without the sites that observe anything else; and all observed sites.
    """
    places, sites = {}, {}
    for number, argument in enumerate(batch):
        flat = argument.reshape(-1)
        numbers = torch.arange(len(flat), device=argument.device).reshape(argument.shape)
        with Followed(argument, numbers) as followed:
            sites = dict(observed_sites(run(model, batch)))
        for name, site in sites.items():
            index = followed.mask_of(site["value"])
            if not isinstance(index, Tensor) or len(index.unique()) < index.numel():
                continue
            there, value = flat[index].to(site["value"].dtype), site["value"]
            if ((there == value) | (there.isnan() & value.isnan())).all():
                places[name] = number, index
    return places, sites


def check_simulated(model: Fn, batch: Batch, trace: Trace) -> None:
    """Check that simulated data have the likelihood under the model that they were drawn by.

    A model may read observed values from its arguments to compute with them, as where an
    observation depends on the one before; drawn together they would depend on the given ones.

    Args:
        model: Pyro program.
        batch: the simulated data, as its arguments.
        trace: of the model, unconditioned, that they were drawn by.

    Raises:
        ValueError: a site whose simulated values have another density there.
    """
    values = {
        name: site["value"]
        for name, site in latent_sites(trace)
        if not site["infer"].get("was_observed")
    }
    sites: Any = trace.nodes
    for name, site in observed_sites(run(model, batch, values)):
        if is_delta(site["fn"]):
            continue
        there, drawn = log_prob(site), log_prob(sites[name])
        if not torch.allclose(there, drawn, rtol=1e-3, atol=1e-2, equal_nan=True):
            raise ValueError(
                f"site {name!r} depends on observed values that the model reads from its "
                "arguments, so that data cannot be simulated from it; let it read the values that "
                "pyro.sample returns instead."
            )


def put(trace: Trace, places: dict[str, tuple[int, Tensor]], arguments: list[Tensor]) -> None:
    """Put what sites drew where they observe the arguments."""
    for name, (number, index) in places.items():
        site: Any = trace.nodes[name]
        value = site["value"].to(arguments[number].dtype).expand(index.shape)
        arguments[number].view(-1)[index.flatten()] = value.flatten()
