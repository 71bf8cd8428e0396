"""What an amortized guide must know of a model: its latents, their plates, supports and scales."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import biject_to, constraints

from ..common.seeding import seeded
from .checks import is_delta, kind, run_fewer
from .enumeration import left_out
from .supports import is_discrete, shared, support_of
from .traces import Batch, FixedRows, Fn, ShapeMismatch, latent_sites, plate_dims, run, sample_sites

__all__ = ["Latent", "Latents", "Plate", "read_latents"]

_PILOT_ROWS, _PRIOR_DRAWS, _MOST_RUNS = 32, 512, 32


@dataclass(frozen=True)
class Plate:
    """A plate around latents.

    Attributes:
        name: its name.
        dim: its batch dimension (negative).
        size: number of items, those left out of a subsample included; ``None`` for the number of
            rows.
    """

    name: str
    dim: int
    size: int | None


@dataclass(frozen=True)
class Latent:
    """A continuous latent in the data plate.

    Attributes:
        name: its site.
        plates: names of the plates around it.
        inner: batch shape of a datum, in the plates' order, 1 for the data.
        shape: event shape of the unconstrained value.
        support: where its values lie, the same for all data.
        transform: bijection from unconstrained values to the support.
        loc: center of the unconstrained value in the prior, ``(*inner, prod(shape))``.
        scale: its spread there.
        weight: factor of its log density by ``poutine.scale``.
    """

    name: str
    plates: tuple[str, ...]
    inner: torch.Size
    shape: torch.Size
    support: Any
    transform: Any
    loc: Tensor
    scale: Tensor
    weight: float


@dataclass(frozen=True)
class Latents:
    """The latents of a model.

    Attributes:
        local: those in the data plate, in the order in which they are drawn.
        outside: names of those outside of it.
        plates: the plates by name.
        data: the plate over the data.
        plate_dims: number of batch dimensions that plates use.
    """

    local: tuple[Latent, ...]
    outside: tuple[str, ...]
    plates: dict[str, Plate]
    data: Plate
    plate_dims: int


def read_latents(model: Fn, batch: Batch) -> Latents:
    """Read the latents of a model from traces on a few rows of data.

    Discrete latents marked ``infer={"enumerate": "parallel"}`` are left out.

    Args:
        model: Pyro program.
        batch: its arguments.

    Raises:
        ValueError: the model does not run; no plate follows the number of rows; no latent in it; a
            latent without density, discrete, masked, of a support that torch does not reach from
            real numbers, or that changes from datum to datum.
    """
    number = len(batch[0])
    index = torch.linspace(0, number - 1, min(number, _PILOT_ROWS)).long()
    few = tuple(argument[index.to(argument.device)] for argument in batch)
    fewer = tuple(a[:-1] if len(index) > 1 else torch.cat([a, a]) for a in few)
    with seeded("latents", 0), pyro.validation_enabled(False):
        try:
            with torch.enable_grad():  # to see what is learned
                traces = [run(model, few)]
        except (FixedRows, ShapeMismatch):
            raise
        except Exception as error:
            shapes = ", ".join(str(tuple(argument.shape)) for argument in few)
            raise ValueError(
                f"the model does not run on {len(index)} rows of x ({type(error).__name__}: "
                f"{error}); expected a Pyro program model(x), called here with tensors of shapes "
                f"{shapes}. Give x as the model takes it, a tuple for several arguments."
            ) from error
        other = run_fewer(model, fewer, len(index))
        with torch.no_grad():
            runs = min(_MOST_RUNS, math.ceil(_PRIOR_DRAWS / len(index)))
            traces += [run(model, few) for _ in range(runs - 1)]
    first = traces[0]
    plates, data = _plates(first, other)
    marked = left_out(first, Trace())
    local, outside = [], []
    for name, site in latent_sites(first):
        _check_density(name, site, marked)
        if name in marked:
            continue
        if data.name not in [frame.name for frame in site["cond_indep_stack"]]:
            outside.append(name)
            continue
        others = [trace.nodes.get(name) for trace in (*traces[1:], other)]
        if any(another is None for another in others):
            raise ValueError(
                f"latent site {name!r} is not in every run of the model; expected the same latent "
                "sites for all data, so let no branch of the model decide which there are."
            )
        sites: list[Any] = [site, *others]
        local.append(_latent(name, sites, plates, data))
    if not local:
        raise ValueError(
            f"the model has no continuous latent site in its data plate {data.name!r}; sites there "
            "without obs, such as pyro.sample('z', ...), are what a guide is made for."
        )
    return Latents(tuple(local), tuple(outside), plates, data, plate_dims(first))


def _plates(first: Trace, other: Trace) -> tuple[dict[str, Plate], Plate]:
    """The plates of a model, and which of them is the one over the data."""
    sizes = {frame.name: frame.size for frame in _frames(other)}
    plates: dict[str, Plate] = {}
    following = []
    for frame in _frames(first):
        if frame.name in plates or frame.dim is None:
            continue
        follows = sizes.get(frame.name) != frame.size
        whole = frame.full_size or frame.size
        size = None if follows and whole == frame.size else whole
        plates[frame.name] = Plate(frame.name, frame.dim, size)
        following += [plates[frame.name]] * follows
    if len(following) != 1:
        names = ", ".join(repr(plate.name) for plate in following) or "none"
        raise ValueError(
            f"expected one plate that has an item for each row of data; of the model's plates "
            f"{list(plates)} {names} follow the number of rows. Write "
            "`with pyro.plate('data', len(x)):` around what belongs to a datum."
        )
    return plates, following[0]


def _frames(trace: Trace) -> Iterator[Any]:
    for _, site in sample_sites(trace):
        yield from site["cond_indep_stack"]


def _check_density(name: str, site: Any, marked: tuple[str, ...]) -> None:
    """Check that a latent is one that a guide can draw, or is to be summed out."""
    if name in marked:
        return
    support = support_of(site["fn"])
    if is_discrete(support):
        raise ValueError(
            f"latent site {name!r} is discrete ({kind(site)}); mark it "
            "infer={'enumerate': 'parallel'}, so that it is summed out."
        )
    if is_delta(site["fn"]):
        raise ValueError(
            f"latent site {name!r} is a Delta, which has no density; use pyro.deterministic."
        )
    if site["mask"] is not None:
        raise ValueError(
            f"latent site {name!r} is masked in the model, and the guide does not know the mask; "
            "leave the latent unmasked (mask what observes it), or write a guide."
        )


def _latent(name: str, sites: list[Any], plates: dict[str, Plate], data: Plate) -> Latent:
    """Describe a latent from its sites in several traces, the last of other data."""
    advice = "a guide needs one bijection for all data, so scale the variable in the model instead"
    supports = [shared(name, _support(name, site), advice=advice) for site in sites]
    if any(_ends(support) != _ends(supports[0]) for support in supports):
        raise ValueError(f"latent site {name!r} has a support that changes; {advice}.")
    if any(isinstance(bound, Tensor) and bound.requires_grad for bound in _bounds(supports[0])):
        raise ValueError(f"latent site {name!r} has a support that is learned; {advice}.")
    support = _of_numbers(supports[0])
    try:
        transform = biject_to(support)
    except NotImplementedError:
        raise ValueError(
            f"latent site {name!r} has the support {support}, which no bijection of torch "
            "reaches from real numbers; transform a latent of real numbers in the model, or write "
            "a guide."
        ) from None
    frames = [frame for frame in sites[0]["cond_indep_stack"] if frame.dim is not None]
    batch = torch.Size(
        next((f.size for f in frames if f.dim == dim and f.name != data.name), 1)
        for dim in range(min(frame.dim for frame in frames), 0)
    )
    draws, shapes = [], set()
    for site in sites:
        value = site["value"].detach()
        u = transform.inv(value)
        event = u.dim() - (value.dim() - site["fn"].event_dim)
        shape = torch.Size(u.shape[u.dim() - event :])
        u = u.reshape(*u.shape[: u.dim() - event], -1)
        u = u.movedim(data.dim - 1, 0).unsqueeze(data.dim - 1)
        shapes.add((u.shape[1:], shape))
        draws.append(u)
    if shapes != {(torch.Size((*batch, draws[0].shape[-1])), shape)}:
        raise ValueError(
            f"latent site {name!r} has values of several shapes, {[tuple(s) for s, _ in shapes]} "
            "for a datum; expected the same for all data."
        )
    # Quantiles exist where moments do not, as of a Cauchy.
    low, loc, high = torch.cat(draws).double().quantile(_QUANTILES.to(draws[0].device), 0)
    scale = (high - low) / 2
    scale = torch.where((scale > 0) & scale.isfinite(), scale, 1.0)
    factor = sites[0]["scale"]
    for frame in sites[0]["cond_indep_stack"]:
        factor = factor * frame.size / (frame.full_size or frame.size)
    if isinstance(factor, Tensor) and factor.numel() > 1:
        raise ValueError(
            f"latent site {name!r} is under poutine.scale with a tensor of {factor.numel()} "
            "values; expected one number."
        )
    return Latent(
        name=name,
        plates=tuple(frame.name for frame in frames),
        inner=batch,
        shape=shape,
        support=support,
        transform=transform,
        loc=loc.to(draws[0].dtype),
        scale=scale.to(draws[0].dtype),
        weight=round(float(factor), 9),
    )


_QUANTILES = torch.tensor([0.1587, 0.5, 0.8413], dtype=torch.float64)  # one sd about the median


def _support(name: str, site: Any) -> Any:
    support = support_of(site["fn"])
    if support is None:
        raise ValueError(
            f"latent site {name!r} is {kind(site)}, which does not say what its support is; set "
            "the distribution's support, or write a guide."
        )
    return support


def _bounds(support: Any) -> list[Any]:
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return [getattr(support, name, None) for name in ("lower_bound", "upper_bound")]


def _of_numbers(support: Any) -> Any:
    """Support of bounds that are no tensors, which would belong to a device."""
    if isinstance(support, constraints.independent):
        base = _of_numbers(support.base_constraint)
        return constraints.independent(base, support.reinterpreted_batch_ndims)
    bounds = {
        name: float(getattr(support, name))
        for name in ("lower_bound", "upper_bound")
        if isinstance(getattr(support, name, None), Tensor)
    }
    for name in ("lower_bound", "upper_bound") if bounds else ():
        if hasattr(support, name):
            bounds.setdefault(name, getattr(support, name))
    return type(support)(**bounds) if bounds else support


def _ends(support: Any) -> list[Any]:
    """What tells supports apart: kinds and bounds."""
    numbers = [None if b is None else float(torch.as_tensor(b).detach()) for b in _bounds(support)]
    kinds = [type(support)]
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
        kinds.append(type(support))
    return [*kinds, *numbers]
