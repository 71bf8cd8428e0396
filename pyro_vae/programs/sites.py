"""Sites of a traced program: their plates, their log densities, and checks of both."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pyro.distributions as dist
from pyro.distributions.util import scale_and_mask
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import constraints

__all__ = [
    "NonFiniteDensity",
    "check_densities",
    "check_match",
    "check_shape",
    "data_frames",
    "is_delta",
    "latent_sites",
    "log_prob",
    "plate_dims",
    "sample_sites",
]


class NonFiniteDensity(ValueError):
    """A log density of NaN or +infinity, at known rows of a batch."""

    def __init__(self, site: str, role: str, rows: list[int], offset: int = 0) -> None:
        self.site, self.role, self.rows = site, role, rows
        shown = ", ".join(str(row + offset) for row in rows[:5]) + (", ..." * (len(rows) > 5))
        super().__init__(
            f"site {site!r} of the {role} has a log density of NaN or +infinity for datum "
            f"{shown}. Look for NaN in the data or the parameters, and for a scale of zero."
        )

    def shifted(self, offset: int) -> NonFiniteDensity:
        """Return the same error for a batch that starts at datum ``offset``."""
        return NonFiniteDensity(self.site, self.role, self.rows, offset)


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


def log_prob(site: Any) -> Tensor:
    """Log density of a site, masked but not scaled."""
    density = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    support = getattr(site["fn"], "support", None)
    if not site["is_observed"] and support is not None and not _everywhere(support):
        # torch's formulas go on outside the support, where the density is zero.
        density = density.masked_fill(~support.check(site["value"]), -math.inf)
    masked: Tensor = scale_and_mask(density, mask=site["mask"])
    return masked


def _everywhere(support: Any) -> bool:
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support is constraints.real or support is constraints.real_vector


def data_frames(trace: Trace, role: str, *, inside: str | None = None) -> list[Any]:
    """Outermost plate of each site, after checks that all share one.

    A plate named ``inside`` that lies around everything does not count.
    """
    sites = dict(sample_sites(trace))
    if role == "model" and not any(site["is_observed"] for site in sites.values()):
        raise ValueError("the model has no observed site; give one the data with obs=x.")
    frames = []
    for name, site in sites.items():
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
        frames.append(frame)
        if frame.name != frames[0].name:
            raise ValueError(
                f"sites of the {role} lie in two outermost plates, {frames[0].name!r} and "
                f"{frame.name!r} (site {name!r}); expected one plate over the data around all."
            )
    return frames


def check_match(model_trace: Trace, guide_trace: Trace) -> None:
    """Check that the guide is a density over the model's latent sites."""
    model_sites, guide_sites = dict(latent_sites(model_trace)), dict(latent_sites(guide_trace))
    observed = [name for name, site in sample_sites(model_trace) if site["is_observed"]]
    for name in model_sites:
        if name not in guide_sites:
            raise ValueError(
                f"latent site {name!r} of the model is missing in the guide, whose sites are "
                f"{list(guide_sites)}. Add pyro.sample({name!r}, ...) to the guide."
            )
    for name, site in guide_sites.items():
        if name not in model_sites and not site["infer"].get("is_auxiliary"):
            where = "is observed there" if name in observed else "is not in the model"
            raise ValueError(
                f"site {name!r} of the guide {where}; the model's latent sites are "
                f"{list(model_sites)}."
            )


def check_densities(model_trace: Trace, guide_trace: Trace) -> None:
    """Check that p(x, z) / q(z|x) is a ratio of densities over the same space.

    Auxiliary sites of a guide are fine where they only parameterize its latents (each latent a
    ``Delta`` with the density of the transformation, as Pyro's AutoGuides do); a latent that is
    random beside them would need a density of the auxiliary sites in the model.
    """
    model_sites, guide_sites = dict(latent_sites(model_trace)), dict(latent_sites(guide_trace))
    auxiliary = [name for name in guide_sites if name not in model_sites]
    for name in (name for name in model_sites if name in guide_sites):
        p, q = model_sites[name]["fn"], guide_sites[name]["fn"]
        if p.event_shape != q.event_shape:
            raise ValueError(
                f"latent site {name!r} has event shape {tuple(q.event_shape)} in the guide and "
                f"{tuple(p.event_shape)} in the model; they must be the same."
            )
        if auxiliary and not is_delta(q):
            raise ValueError(
                f"the guide's latent site {name!r} is random beside its auxiliary sites "
                f"{auxiliary}, so its density is not known; sum these out, or make {name!r} a "
                "Delta of them."
            )
        if not auxiliary and is_delta(q) and not is_delta(p):
            raise ValueError(
                f"the guide's latent site {name!r} is a Delta (a point estimate), which has no "
                "density to weigh draws by; use a guide that is random there."
            )


def is_delta(fn: Any) -> bool:
    """Whether a distribution puts all its mass on one point."""
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return isinstance(fn, dist.Delta)


def check_shape(name: str, site: Any, density: Tensor, rows: int, data_dim: int) -> None:
    """Check that a log density has its data along the data plate and no dimension but plates'."""
    plates = {frame.dim: frame.size for frame in site["cond_indep_stack"] if frame.dim is not None}
    shape = density.shape
    stray = [
        dim for dim in range(-len(shape), 0) if shape[dim] != 1 and plates.get(dim) != shape[dim]
    ]
    if stray or len(shape) < -data_dim or shape[data_dim] != rows:
        raise ValueError(
            f"site {name!r} has log_prob of shape {tuple(shape)}; expected one value for each of "
            f"the {rows} rows of data along dimension {data_dim}, and no dimension without a "
            "plate. Put the site inside the data plate, call .to_event() on its distribution, "
            "and give the data plate size len(x)."
        )


def plate_dims(*traces: Trace) -> int:
    """Number of batch dimensions that the plates of some traces use."""
    frames = [
        frame
        for trace in traces
        for _, site in sample_sites(trace)
        for frame in site["cond_indep_stack"]
    ]
    return max(-int(frame.dim) for frame in frames if frame.dim is not None)
