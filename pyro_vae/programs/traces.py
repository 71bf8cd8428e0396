"""Traces of Pyro programs: running a program, its sites and plates, densities per datum."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import constraints

__all__ = [
    "Batch",
    "DataPlate",
    "FixedRows",
    "Fn",
    "data_plate",
    "is_discrete",
    "is_everywhere",
    "is_regularizer",
    "latent_sites",
    "log_prob",
    "mask_of",
    "observed_scale",
    "observed_sites",
    "plate_dims",
    "run",
    "run_both",
    "sample_sites",
    "support_of",
]

Fn = Callable[..., Any]
"""A Pyro program."""

Batch = tuple[Tensor, ...]
"""Arguments of the model and the guide; dimension 0 of each runs over the data."""


class FixedRows(ValueError):
    """A plate takes a subsample of a size of its own, whatever the batch."""

    def __init__(self, plate: str, rows: int) -> None:
        self.rows = rows
        super().__init__(
            f"plate {plate!r} takes {rows} data whatever it is given; write "
            f"pyro.plate({plate!r}, len(x)), or subsample_size=len(x)."
        )


class _Set(Messenger):  # type: ignore[misc, unused-ignore]
    """Give latent sites their values, and take subsamples of a plate in order."""

    def __init__(self, values: Mapping[str, Tensor], rows: int, last: bool) -> None:
        super().__init__()
        self.values, self.rows, self.last = values, rows, last

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg) and msg["value"] is None:
            fn = msg["fn"]
            size = fn.size if fn.subsample_size is None else fn.subsample_size
            if fn.subsample_size not in (None, self.rows):
                raise FixedRows(msg["name"], size)
            first = fn.size - size if self.last else 0
            msg["value"] = torch.arange(first, first + size, device=fn.device)
        elif msg["name"] in self.values and not msg["is_observed"]:
            msg["value"], msg["done"] = self.values[msg["name"]], True


def run(
    fn: Fn,
    batch: Batch,
    values: Mapping[str, Tensor] | None = None,
    *,
    samples: tuple[int, int] | None = None,
    last: bool = False,
) -> Trace:
    """Trace a program.

    Args:
        fn: the program.
        batch: its arguments.
        values: values of latent sites by name; the others are drawn.
        samples: size and dimension of a plate over samples around the whole program.
        last: take the last items of a plate larger than the batch, not the first.

    Raises:
        FixedRows: a plate has a subsample size other than the number of rows.
        ValueError: the batch shape of a site does not fit its plates.
    """
    tracer = poutine.trace()
    with tracer, _Set(values or {}, len(batch[0]), last), ExitStack() as stack:
        if samples is not None:
            stack.enter_context(pyro.plate("_pyro_vae_samples", samples[0], dim=samples[1]))
        try:
            fn(*batch)
        except ValueError as error:
            if "Shape mismatch inside plate" not in str(error):
                raise
            raise ValueError(
                f"{error}. Give the data plate size len(x), and call .to_event() on "
                "distributions whose right-most dimensions belong to one datum."
            ) from error
    return tracer.trace


def run_both(model: Fn, guide: Fn, batch: Batch) -> tuple[Trace, Trace]:
    """Trace the guide, and the model at its draws; returns the model's trace, then the guide's."""
    drawn = poutine.trace(guide).get_trace(*batch)
    return poutine.trace(poutine.replay(model, drawn)).get_trace(*batch), drawn


def sample_sites(trace: Trace) -> Iterator[tuple[str, Any]]:
    """Sample sites that carry a density."""
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or site_is_subsample(site):
            continue
        if not (site["infer"] or {}).get("_deterministic"):
            yield name, site


def latent_sites(trace: Trace) -> Iterator[tuple[str, Any]]:
    """Sample sites that are not observed."""
    return ((name, site) for name, site in sample_sites(trace) if not site["is_observed"])


def observed_sites(trace: Trace) -> Iterator[tuple[str, Any]]:
    """Sample sites that are observed."""
    return ((name, site) for name, site in sample_sites(trace) if site["is_observed"])


def observed_scale(trace: Trace) -> float | Tensor:
    """Scale of the observed sites: how many data of the whole set one of the batch stands for.

    Regularizers, which are terms of a loss but no part of the bound, do not count.
    """
    scales = (s["scale"] for _, s in observed_sites(trace) if not is_regularizer(s))
    return next(scales, 1.0)


def is_regularizer(site: Any) -> bool:
    """Whether an observed site is marked with ``infer={"regularizer": True}``."""
    return bool((site["infer"] or {}).get("regularizer"))


def log_prob(site: Any) -> Tensor:
    """Log density of a site, masked but not scaled; zero density outside a latent's support."""
    density = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    support = support_of(site["fn"])
    if not site["is_observed"] and support is not None and not is_everywhere(support):
        # torch's formulas go on outside the support, where the density is zero.
        density = density.masked_fill(~support.check(site["value"]), -math.inf)
    return scale_and_mask(density, mask=site["mask"])


def mask_of(site: Any) -> Tensor:
    """Where a site counts, in its batch shape: its mask and that of its distribution.

    Raises:
        ValueError: a mask inside an event.
    """
    masks, fn = [site["mask"]], site["fn"]
    while isinstance(fn, dist.MaskedDistribution):
        masks.append(fn._mask)
        fn = fn.base_dist
    while (fn := getattr(fn, "base_dist", None)) is not None:
        if isinstance(fn, dist.MaskedDistribution):
            raise ValueError(
                f"latent site {site['name']!r} is masked inside its event, so that it is partly a "
                "latent; mask it outside of .to_event(), or use method='guide'."
            )
    total = torch.ones((), dtype=torch.bool)
    for mask in masks:
        if mask is not None:
            given = torch.as_tensor(mask, dtype=torch.bool)
            total = total.to(given.device) & given
    return total.broadcast_to(site["fn"].batch_shape)


def support_of(fn: Any) -> Any:
    """Support of a distribution, ``None`` where it has none to tell.

    Densities of angles are periodic, so that their support is one turn and not, as torch says of
    von Mises, all numbers.
    """
    try:
        support = getattr(fn, "support", None)
    except NotImplementedError:
        return None
    base = fn
    while (inner := getattr(base, "base_dist", None)) is not None:
        base = inner
    if isinstance(base, dist.VonMises | dist.SineBivariateVonMises) and is_everywhere(support):
        turn = constraints.interval(-math.pi, math.pi)
        return constraints.independent(turn, fn.event_dim) if fn.event_dim else turn
    return support


def is_everywhere(support: Any) -> bool:
    """Whether a support is all real numbers or vectors."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support is constraints.real or support is constraints.real_vector


def is_discrete(support: Any) -> bool:
    """Whether a support is of separate values."""
    return bool(getattr(support, "is_discrete", False))


@dataclass(frozen=True)
class DataPlate:
    """The one plate over the data that all sites lie in.

    Args:
        dim: its batch dimension (negative).
        rows: number of data in it.
    """

    dim: int
    rows: int


def data_plate(model: Trace, guide: Trace, *, inside: str | None = None) -> DataPlate:
    """Find the outermost plate of two traces, after checks that all their sites share it.

    Args:
        model: trace of the model.
        guide: trace of the guide.
        inside: name of a plate around everything that does not count.

    Raises:
        ValueError: no observed site; a site outside the plate, or in another one; a plate that is a
            Python loop; an inner plate that takes only some of its items.
    """
    if next(observed_sites(model), None) is None:
        raise ValueError("the model has no observed site; give one the data with obs=x.")
    frames = [*_frames(model, "model", inside), *_frames(guide, "guide", inside)]
    dims = {frame.dim for frame in frames}
    if len(dims) > 1:
        raise ValueError(f"the data plate is at several dimensions, {sorted(dims)}.")
    return DataPlate(frames[0].dim, frames[0].size)


def _frames(trace: Trace, role: str, inside: str | None) -> Iterator[Any]:
    """Outermost plate of each site."""
    first = None
    for name, site in sample_sites(trace):
        stack = [frame for frame in site["cond_indep_stack"] if frame.name != inside]
        if not stack:
            raise ValueError(
                f"site {name!r} of the {role} is outside the data plate, so log p(x) does not "
                "factor over the data. Put every site inside `with pyro.plate('data', len(x)):`."
            )
        frame = stack[0]
        if frame.dim is None:
            raise ValueError(
                f"the data plate {frame.name!r} of the {role} is a Python loop; "
                f"write `with pyro.plate({frame.name!r}, len(x)):` instead."
            )
        for inner in stack[1:]:
            if inner.full_size not in (None, inner.size):
                raise ValueError(
                    f"plate {inner.name!r} of the {role} takes {inner.size} of {inner.full_size} "
                    "items inside each datum; log p(x) needs all of them, so leave subsample_size "
                    "out."
                )
        first = first or frame
        if frame.name != first.name:
            raise ValueError(
                f"sites of the {role} lie in two outermost plates, {first.name!r} and "
                f"{frame.name!r} (site {name!r}); expected one plate over the data around all."
            )
        yield frame


def plate_dims(*traces: Trace) -> int:
    """Number of batch dimensions that the plates of some traces use."""
    sites = (site for trace in traces for _, site in sample_sites(trace))
    frames = (frame for site in sites for frame in site["cond_indep_stack"])
    return max(-int(frame.dim) for frame in frames if frame.dim is not None)
