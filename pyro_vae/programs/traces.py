"""Traces of Pyro programs: running a program, its sites and plates, densities per datum."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Categorical

from .double import cancels, in_double
from .randomness import drawn_anew
from .supports import is_everywhere, support_of

__all__ = [
    "Batch",
    "DataPlate",
    "FixedRows",
    "Fn",
    "NoDraws",
    "ShapeMismatch",
    "data_plate",
    "is_regularizer",
    "latent_sites",
    "log_prob",
    "observed_scale",
    "observed_sites",
    "plate_dims",
    "run",
    "run_alone",
    "run_both",
    "sample_sites",
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


class ShapeMismatch(ValueError):
    """The batch shape of a site does not fit its plates."""


class NoDraws(ValueError):
    """A program with a distribution that cannot be drawn from."""


class _Set(Messenger):  # type: ignore[misc, unused-ignore]
    """Give latent sites their values, and take subsamples of a plate in order."""

    def __init__(self, values: Mapping[str, Tensor], rows: int, last: bool) -> None:
        super().__init__()
        self.values, self.rows, self.last = values, rows, last

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg) and msg["value"] is None:
            fn = msg["fn"]
            size = fn.size if fn.subsample_size is None else fn.subsample_size
            if fn.subsample_size not in (None, self.rows, fn.size):
                raise FixedRows(msg["name"], size)
            first = fn.size - size if self.last else 0
            msg["value"] = torch.arange(first, first + size, device=fn.device)
        elif msg["name"] in self.values and not msg["is_observed"]:
            msg["value"], msg["done"] = self.values[msg["name"]], True
        elif msg["value"] is None and (value := drawn_anew(msg["fn"])) is not None:
            msg["value"], msg["done"] = value, True


def run(
    fn: Fn,
    batch: Batch,
    values: Mapping[str, Tensor] | None = None,
    *,
    samples: tuple[int, int] | None = None,
    last: bool = False,
    handler: Messenger | None = None,
) -> Trace:
    """Trace a program.

    Args:
        fn: the program.
        batch: its arguments.
        values: values of latent sites by name; the others are drawn.
        samples: size and dimension of a plate over samples around the whole program.
        last: take the last items of a plate larger than the batch, not the first.
        handler: one of Pyro's, which sees the sites before they get their values.

    Raises:
        FixedRows: a plate has a subsample size other than the number of rows.
        ShapeMismatch: the batch shape of a site does not fit its plates.
    """
    tracer = poutine.trace()
    with tracer, _Set(values or {}, _rows(batch), last), ExitStack() as stack:
        if handler is not None:
            stack.enter_context(handler)
        if samples is not None:
            stack.enter_context(pyro.plate("_pyro_vae_samples", samples[0], dim=samples[1]))
        try:
            fn(*batch)
        except ValueError as error:
            if "shape mismatch" not in str(error).lower():
                raise
            raise ShapeMismatch(
                f"{error}. Give the data plate size len(x), and call .to_event() on "
                "distributions whose right-most dimensions belong to one datum."
            ) from error
        except NotImplementedError as error:
            if "does not support sampling" not in str(error):
                raise
            raise NoDraws(
                f"{error}: the prior has no draws, since it is improper; use method='guide', "
                "without defensive, or give the latent a proper prior."
            ) from error
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            raise ValueError(
                f"the program fails at some draws of its latents: {str(error).split('. ')[0]}. "
                "Add more to the matrix's diagonal there, or take float64 or a narrower prior."
            ) from error
    return _sized(tracer.trace)


def _sized(trace: Trace) -> Trace:
    """Give plates without a size the size that their sites have there."""
    for _, site in sample_sites(trace):
        stack, fn = site["cond_indep_stack"], site["fn"]
        if all(frame.size != -1 for frame in stack):
            continue
        shape = getattr(site["value"], "shape", torch.Size())
        shape = shape[: len(shape) - fn.event_dim]
        with suppress(RuntimeError):  # what does not broadcast is said elsewhere
            shape = torch.broadcast_shapes(shape, fn.batch_shape)
        site["cond_indep_stack"] = tuple(
            frame._replace(size=shape[frame.dim] if len(shape) >= -frame.dim else 1)
            if frame.size == -1 and frame.dim is not None
            else frame
            for frame in stack
        )
    return trace


def _rows(batch: Batch) -> int:
    return len(batch[0]) if batch and batch[0].dim() else 0


def run_alone(model: Fn, batch: Batch) -> Trace:
    """Trace the model at draws of its own."""
    return _sized(poutine.trace(model).get_trace(*batch))


def run_both(model: Fn, guide: Fn, batch: Batch) -> tuple[Trace, Trace]:
    """Trace the guide, and the model at its draws; returns the model's trace, then the guide's."""
    drawn = poutine.trace(guide).get_trace(*batch)
    traced = poutine.trace(poutine.replay(model, drawn)).get_trace(*batch)
    return _sized(traced), _sized(drawn)


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


def observed_scale(trace: Trace, rows: int | None = None) -> float | Tensor:
    """Scale of the observed sites: how many data of the whole set one of the batch stands for.

    Regularizers, which are terms of a loss but no part of the bound, do not count. Where a plate
    takes a subsample of the batch itself, each of its ``rows`` counts as far as it is likely to be
    taken.
    """
    for _, site in observed_sites(trace):
        if is_regularizer(site):
            continue
        scale: float | Tensor = site["scale"]
        for frame in site["cond_indep_stack"]:
            if rows and frame.full_size == rows and frame.size < rows:
                scale = scale * frame.size / rows
        return scale
    return 1.0


def is_regularizer(site: Any) -> bool:
    """Whether an observed site is marked with ``infer={"regularizer": True}``."""
    return bool((site["infer"] or {}).get("regularizer"))


def log_prob(site: Any) -> Tensor:
    """Log density of a site, masked but not scaled; zero density outside a latent's support.

    In float64 where float32 would lose it, computed from the float32 parameters as they are.
    """
    # Of a distribution that was given numbers some densities are on the CPU.
    density = _exact(site).to(site["value"].device)
    support = None if site["is_observed"] else support_of(site["fn"])
    if support is not None and not is_everywhere(support):
        # torch's formulas go on outside the support, where the density is zero.
        density = density.masked_fill(~support.check(site["value"]), -math.inf)
    if not site["is_observed"] and (never := _is_never(site["fn"], site["value"])) is not None:
        density = density.masked_fill(never, -math.inf)
    return scale_and_mask(density, mask=site["mask"])


def _is_never(fn: Any, value: Tensor) -> Tensor | None:
    """Where a class was given no probability, as in transitions that are ruled out.

    Torch takes the logarithm of no probability less than 1e-7.
    """
    if (inside := getattr(fn, "_categorical", None)) is not None:  # one-hot
        fn, value = inside, value.argmax(-1)
    own = vars(fn)
    if not isinstance(fn, Categorical) or own.get("_param") is not own.get("probs"):  # by logits
        return None
    probs = fn.probs
    index = value.long().clamp(0, probs.shape[-1] - 1).unsqueeze(-1)
    shape = torch.broadcast_shapes(index.shape[:-1], probs.shape[:-1])
    zero = (probs == 0).expand(*shape, probs.shape[-1])
    return zero.gather(-1, index.expand(*shape, 1)).squeeze(-1)


def _exact(site: Any) -> Tensor:
    fn, value = site["fn"], site["value"]
    one = not site["is_observed"] and "_enumerate_dim" not in (site["infer"] or {})
    if one and isinstance(fn, Categorical):  # torch has no class beyond the last one
        value = value.clamp(0, fn.probs.shape[-1] - 1)
    if cancels(fn):
        with suppress(Exception):  # a user's distribution may have parts of a fixed type
            density: Tensor = in_double(fn).log_prob(
                in_double(value), *site["args"], **site["kwargs"]
            )
            return density
    density = fn.log_prob(value, *site["args"], **site["kwargs"])
    return density


@dataclass(frozen=True)
class DataPlate:
    """The one plate over the data that all sites lie in.

    Args:
        dim: its batch dimension (negative).
        rows: number of data in it.
    """

    dim: int
    rows: int


def data_plate(
    model: Trace,
    guide: Trace,
    *,
    inside: str | None = None,
    other: Trace | None = None,
    rows: int | None = None,
) -> DataPlate:
    """Find the plate over the data: one that all sites share, whose size follows the data.

    Args:
        model: trace of the model.
        guide: trace of the guide.
        inside: name of a plate around everything that does not count.
        other: trace of the guide on another number of rows, to see which plate follows it. Without,
            the outermost of the plates is taken that all sites share, of those with so many
        rows: if there is one.

    Raises:
        ValueError: no observed site; no such plate, or several; one that is a Python loop; another
            plate that takes only some of its items.
    """
    if next(observed_sites(model), None) is None:
        raise ValueError("the model has no observed site; give one the data with obs=x.")
    shared = {
        role: _shared(list(sites), role, inside)
        for role, sites in (("model", sample_sites(model)), ("guide", latent_sites(guide)))
    }
    data = _following(shared["guide"] or shared["model"], other, rows)
    places = shared["model"]
    same = [f for f in places if f.name == data.name] or [f for f in places if f.dim == data.dim]
    place = (same or places)[0]
    loop = next((frame.name for frame in (data, place) if frame.dim is None), None)
    if loop is not None:
        raise ValueError(
            f"the data plate {loop!r} is a Python loop; write "
            f"`with pyro.plate({loop!r}, len(x)):` instead."
        )
    if place.dim != data.dim:
        raise ValueError(
            f"the data plate is at several dimensions, {sorted((place.dim, data.dim))}."
        )
    for role, sites in (("model", sample_sites(model)), ("guide", latent_sites(guide))):
        for _, site in sites:
            for frame in site["cond_indep_stack"]:
                if frame.dim != data.dim and frame.full_size not in (None, frame.size):
                    raise ValueError(
                        f"plate {frame.name!r} of the {role} takes {frame.size} of "
                        f"{frame.full_size} items inside each datum; log p(x) needs all of them, "
                        "so leave subsample_size out."
                    )
    return DataPlate(data.dim, data.size)


def _shared(sites: list[tuple[str, Any]], role: str, inside: str | None) -> list[Any]:
    """Plates that all sites lie in, outermost first."""
    shared: list[Any] | None = None
    for name, site in sites:
        stack = [frame for frame in site["cond_indep_stack"] if frame.name != inside]
        if not stack:
            raise ValueError(
                f"site {name!r} of the {role} is outside the data plate, so log p(x) does not "
                "factor over the data. Put every site inside `with pyro.plate('data', len(x)):`."
            )
        names = {frame.name for frame in stack}
        kept = [f for f in (stack if shared is None else shared) if f.name in names]
        if shared and not kept:
            raise ValueError(
                f"sites of the {role} lie in two outermost plates, {shared[0].name!r} and "
                f"{stack[0].name!r} (site {name!r}); expected one plate over the data around all."
            )
        shared = kept
    return shared or []


def _following(frames: list[Any], other: Trace | None, rows: int | None) -> Any:
    """The plate, of those that all sites share, whose size follows the number of rows."""
    if other is None:
        return next((frame for frame in frames if frame.size == rows), frames[0])
    sizes = {f.name: f.size for _, site in sample_sites(other) for f in site["cond_indep_stack"]}
    following = [frame for frame in frames if sizes.get(frame.name) != frame.size]
    if len(following) == 1:
        return following[0]
    names = ", ".join(repr(frame.name) for frame in following or frames)
    if following:
        raise ValueError(
            f"plates {names} all have one item for each row of data, so log p(x) does not factor "
            "over the data; expected one plate of size len(x) around all sites."
        )
    raise ValueError(
        f"plates {names} have the same sizes for any number of rows; give the one over the data "
        f"the size of the data: pyro.plate({frames[0].name!r}, len(x))."
    )


def plate_dims(*traces: Trace) -> int:
    """Number of batch dimensions that the plates of some traces use."""
    sites = (site for trace in traces for _, site in sample_sites(trace))
    frames = (frame for site in sites for frame in site["cond_indep_stack"])
    return max((-int(frame.dim) for frame in frames if frame.dim is not None), default=0)
