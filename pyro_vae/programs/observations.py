"""Whether observed values lie in the support of their sites, said with what to write instead."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pyro
import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import constraints

from ..common.checks import reading
from ..common.errors import warn
from ..common.seeding import seeded
from .checks import kind
from .counted import check_masks
from .double import cancels, is_exact
from .supports import support_of
from .traces import Batch, Fn, observed_sites, run_both

__all__ = ["check_support", "say_rounded"]

_DRAWS = 8
_LARGE_COUNT = 1e5


@torch.no_grad()
def check_support(
    model: Fn,
    guide: Fn,
    batch: Batch,
    *,
    first: int = 0,
    what: str = "data",
    observations: bool = True,
    masks: bool = False,
) -> tuple[Trace, Trace]:
    """Check that the observed values of a batch lie in the support of their sites.

    Args:
        model: Pyro program.
        guide: Pyro program; the model is run once at a draw of it.
        batch: data, as arguments of the programs.
        first: number of the batch's first datum, for the message.
        what: name of the data in the message.
        observations: look at these; else at the masks alone.
        masks: check that both programs mask the same latents, too.

    Returns:
        Traces of the model and of the guide.

    Raises:
        ValueError: data outside the support at every draw of the latents; the message says what to
            do. Other masks in the guide than in the model.
    """
    with seeded("check", 0), pyro.validation_enabled(False), reading():
        trace, guide_trace = run_both(model, guide, batch)
        if masks:
            check_masks(trace, guide_trace)
        found = _outside(trace) if observations else {}
        for _ in range(_DRAWS if found else 0):  # a support may depend on the latents
            again = _outside(run_both(model, guide, batch)[0])
            found = {name: bad & again[name] for name, bad in found.items() if name in again}
    for name, bad in found.items():
        site: Any = trace.nodes[name]
        value, support = site["value"], site["fn"].support
        if not bad.any():
            continue
        which = "a datum"
        if value is batch[0]:
            row = int(bad.reshape(len(value), -1).any(1).nonzero()[0])
            which, value = f"datum {first + row}", value[row]
        element = getattr(support, "base_constraint", support)
        wants = getattr(element, "wants", None)
        hint = "Choose a likelihood with the data's support, or transform the data."
        if element is constraints.boolean:
            hint = (
                "It wants 0/1 values: choose a binarization (dynamic, static or threshold), or "
                "a likelihood for real values."
            )
        elif wants is not None:
            hint = f"It wants {wants}."
        raise ValueError(
            f"{what} outside the support of the likelihood: site {name!r} is {kind(site)}, and "
            f"{which} holds values such as {_odd_value(value, element)}. {hint}"
        )
    return trace, guide_trace


def say_rounded(trace: Trace) -> None:
    """Warn of counts so large that a log density in float32 is off by a tenth of a nat or more."""
    for name, site in observed_sites(trace):
        value, fn = site["value"], site["fn"]
        if value.dtype != torch.float32 or not cancels(fn) or is_exact(fn):
            continue
        largest = value.abs().max().item()
        if getattr(support_of(fn), "is_discrete", False) and largest >= _LARGE_COUNT:
            warn(
                f"site {name!r} is {kind(site)} of counts up to {largest:.3g}, whose log densities "
                "float32 holds to a tenth of a nat or worse: the ELBO of the history is off by as "
                "much (gradients are not, nor is log_evidence). Give float64 data and parameters, "
                "or the distributions of pv.distributions.masses.",
            )


def _outside(trace: Trace) -> dict[str, Tensor]:
    """Where observed values lie outside the support of their sites, by site."""
    found = {}
    for name, site in observed_sites(trace):
        try:
            bad = ~(support_of(site["fn"]) or site["fn"].support).check(site["value"])
        except (AttributeError, RuntimeError, NotImplementedError):  # no support, or without check
            continue
        if site["mask"] is not None:
            bad = bad & site["mask"]
        if bad.any():
            found[name] = bad
    return found


def _odd_value(datum: Tensor, element: Any) -> str:
    """Show a value of a datum that lies outside the support."""
    values = datum.flatten()
    with suppress(RuntimeError, NotImplementedError, IndexError):
        values = values[~element.check(datum).expand(datum.shape).flatten()]
    return f"{values[0].item():.4g}" if len(values) else "none in the support"
