"""What can be wrong with a pair of programs and its data, each said with what to write instead."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import biject_to

from ..common.seeding import seeded
from .supports import bounds, differs, is_discrete, just_outside, support_of
from .traces import (
    Batch,
    Fn,
    ShapeMismatch,
    latent_sites,
    log_prob,
    observed_sites,
    run,
    run_both,
    sample_sites,
)

__all__ = [
    "NonFiniteDensity",
    "check_densities",
    "check_draws",
    "check_indices",
    "check_match",
    "check_observations",
    "check_parameters",
    "check_shape",
    "check_shapes",
    "explain",
    "is_delta",
    "kind",
    "out_of_reach",
    "run_fewer",
]


class NonFiniteDensity(ValueError):
    """A log density of NaN or +infinity, at known rows of a batch."""

    def __init__(self, site: str, role: str, rows: list[int]) -> None:
        self.site, self.role, self.rows = site, role, rows
        shown = ", ".join(map(str, rows[:5])) + (", ..." * (len(rows) > 5))
        super().__init__(
            f"site {site!r} of the {role} has a log density of NaN or +infinity for datum "
            f"{shown}. Look for NaN in the data or the parameters, and for a scale of zero."
        )


def check_match(model: Trace, guide: Trace, *, summed: Collection[str] = ()) -> None:
    """Check that the guide is a density over the model's latent sites, but for those summed out."""
    model_sites, guide_sites = dict(latent_sites(model)), dict(latent_sites(guide))
    for name, site in model_sites.items():
        if name not in guide_sites and name not in summed:
            finite = getattr(site["fn"], "has_enumerate_support", False)
            advice = ", or mark it infer={'enumerate': 'parallel'} to sum it out" * finite
            raise ValueError(
                f"latent site {name!r} of the model is missing in the guide, whose sites are "
                f"{list(guide_sites)}. Add pyro.sample({name!r}, ...) to the guide{advice}."
            )
    for name, site in guide_sites.items():
        if name not in model_sites and not site["infer"].get("is_auxiliary"):
            observed = name in dict(observed_sites(model))
            where = "is observed there" if observed else "is not in the model"
            raise ValueError(
                f"site {name!r} of the guide {where}; the model's latent sites are "
                f"{list(model_sites)}."
            )


def check_observations(model: Trace) -> None:
    """Check that observed values have the shapes of their sites, so that none is broadcast.

    A value without some of the plates' dimensions is one for all their items; an event has no such
    dimension. (A hidden Markov model without a duration takes events of any length.)
    """
    for name, site in observed_sites(model):
        fn, shape = site["fn"], tuple(torch.as_tensor(site["value"]).shape)
        batch, event = fn.batch_shape, fn.event_shape
        kept = 1 if getattr(fn, "duration", 0) is None else 0  # the length of an event is free
        wrong = shape[len(shape) - len(event) + kept :] != event[kept:] or len(shape) < len(event)
        sizes = zip(reversed(shape[: len(shape) - len(event)]), reversed(batch), strict=False)
        wrong |= len(shape) > len(batch + event) or any(size not in (1, b) for size, b in sizes)
        if wrong:
            raise ShapeMismatch(
                f"site {name!r} observes a value of shape {shape}; its plates and its distribution "
                f"({kind(site)}) expect {tuple(batch)} + {tuple(event)}, items of the plates and "
                f"the event of each. Reshape what is given as obs to {tuple(batch + event)}, or "
                "change the distribution or its .to_event()."
            )


def check_densities(model: Trace, guide: Trace) -> None:
    """Check that p(x, z) / q(z|x) is a ratio of densities over the same space.

    Auxiliary sites of a guide are fine where they only parameterize its latents (each latent a
    ``Delta`` with the density of the transformation, as Pyro's AutoGuides do); a latent that is
    random beside them would need a density of the auxiliary sites in the model.
    """
    model_sites, guide_sites = dict(latent_sites(model)), dict(latent_sites(guide))
    auxiliary = [name for name in guide_sites if name not in model_sites]
    for name in (name for name in model_sites if name in guide_sites):
        p, q = model_sites[name]["fn"], guide_sites[name]["fn"]
        kinds = [is_discrete(support_of(fn)) for fn in (p, q)]
        if kinds[0] != kinds[1] and not is_delta(q):
            words = ["discrete" if kind else "continuous" for kind in kinds]
            raise ValueError(
                f"latent site {name!r} is {words[0]} in the model ({kind(model_sites[name])}) and "
                f"{words[1]} in the guide ({kind(guide_sites[name])}), whose densities have no "
                "ratio; use distributions of one kind."
            )
        if hasattr(model_sites[name]["value"], "_unquantize"):
            raise ValueError(
                f"latent site {name!r} is {type(q).__name__}, whose density is that of "
                "another value than the rounded one it returns; draw the relaxed variable, and "
                "round it in the model."
            )
        if p.event_shape != q.event_shape:
            raise ValueError(
                f"latent site {name!r} has event shape {tuple(q.event_shape)} in the guide and "
                f"{tuple(p.event_shape)} in the model; they must be the same."
            )
        if auxiliary and not is_delta(q) and not _only_parameterize(model, guide, auxiliary):
            raise ValueError(
                f"the guide's latent site {name!r} is random beside its auxiliary sites "
                f"{auxiliary}, so its density is not known; sum these out, or make {name!r} a "
                "Delta of them."
            )
        if is_delta(p) and not is_delta(q):
            raise ValueError(
                f"the model's latent site {name!r} is a Delta, and random in the guide, where no "
                "draw hits it; use pyro.deterministic in the model, or a Delta in the guide, too."
            )
        if not auxiliary and is_delta(q) and not is_delta(p):
            raise ValueError(
                f"the guide's latent site {name!r} is a Delta (a point estimate), which has no "
                "density to weigh draws by; use a guide that is random there."
            )


def _only_parameterize(model: Trace, guide: Trace, auxiliary: list[str]) -> bool:
    """Whether auxiliary sites have just as many dimensions as the latents that are made of them."""
    guide_sites, made = dict(latent_sites(guide)), 0
    for name, site in latent_sites(model):
        if name in guide_sites and is_delta(guide_sites[name]["fn"]):
            try:
                transform = biject_to(support_of(site["fn"]))
                made += transform.inv(guide_sites[name]["value"]).numel()
            except (NotImplementedError, TypeError, AttributeError):
                return False
    return made == sum(guide_sites[name]["value"].numel() for name in auxiliary)


def out_of_reach(model: Trace, guide: Trace) -> dict[str, Tensor]:
    """Find latents whose support is narrower in the guide than in the model.

    Bounds are compared number by number; a support that is not known is taken to be wide enough.

    Returns:
        By site, values that the model allows, just outside of what the guide can draw.
    """
    guide_sites, found = dict(latent_sites(guide)), {}
    for name, site in latent_sites(model):
        if name not in guide_sites or is_delta(site["fn"]) or is_delta(guide_sites[name]["fn"]):
            continue
        value, p, q = site["value"], *(support_of(s["fn"]) for s in (site, guide_sites[name]))
        if p is None or q is None:
            continue
        wide, narrow = bounds(p, value), bounds(q, value)
        if narrow is not None and wide is not None:
            outside = just_outside(value.double(), wide, narrow, whole=is_discrete(p))
        elif differs(p, q) and p.check(value).all():  # a simplex, say, where all vectors may be
            outside = value - 1 - value.abs().max()
        else:
            continue
        if isinstance(site["mask"], Tensor):  # what is masked may be anywhere
            mask = site["mask"].reshape(site["mask"].shape + (1,) * site["fn"].event_dim)
            outside = torch.where(mask, outside, value)
        if site["mask"] is not False and (outside != value).any():
            found[name] = outside.to(value.dtype)
    return found


def check_indices(fn: Fn, batch: Batch, values: dict[str, Tensor], trace: Trace) -> None:
    """Check that the indices of a plate larger than the batch are not used to look anything up."""
    plates: dict[str, Any] = {n: s["fn"] for n, s in trace.nodes.items() if site_is_subsample(s)}
    larger = [n for n, fn in plates.items() if fn.subsample_size and fn.subsample_size < fn.size]
    if not larger:
        return
    try:
        with pyro.validation_enabled(False):
            other = dict(sample_sites(run(fn, batch, values, last=True)))
    except (IndexError, RuntimeError) as error:
        size = plates[larger[0]].size
        raise ValueError(
            f"the programs take rows of what they are given by the indices of plate {larger[0]!r}, "
            f"of size {size}, and do not run on fewer data ({error}); give the plate their "
            f"number: pyro.plate({larger[0]!r}, len(x), subsample_size=...)."
        ) from error
    for name, site in sample_sites(trace):
        if not torch.allclose(log_prob(site), log_prob(other[name]), equal_nan=True):
            raise ValueError(
                f"site {name!r} depends on the indices of plate {larger[0]!r}, whose range is "
                "larger than the data given; pass what it looks up as an argument of its own, "
                "e.g. log_evidence(model, guide, (x, local))."
            )


def check_draws(guide: Fn, batch: Batch, drawn: Trace) -> None:
    """Check that a guide draws anew when it is run again, by the caller's random numbers."""
    sites = [(n, s) for n, s in latent_sites(drawn) if s["value"].is_floating_point()]
    sites = [(n, s) for n, s in sites if s["value"].numel() and not is_delta(s["fn"])]
    with seeded("draws", 0):
        before = torch.get_rng_state()
        again = dict(latent_sites(run(guide, batch)))
        after = torch.get_rng_state()
    with seeded("draws", 1):
        run(guide, batch)
        ignored = torch.equal(after, torch.get_rng_state()) or torch.equal(after, before)
    if not sites or not ignored:
        return
    if all(name in again and torch.equal(again[name]["value"], s["value"]) for name, s in sites):
        raise ValueError(
            f"the guide draws the same value of {sites[0][0]!r} each time it is run: it seeds its "
            "random numbers (poutine.seed, torch.manual_seed), so that many draws are copies and "
            "their spread says nothing. Leave that out; log_evidence takes a seed."
        )


def run_fewer(fn: Fn, batch: Batch, rows: int) -> Trace:
    """Run a program on fewer rows than it was run on before."""
    try:
        return run(fn, batch)
    except Exception as error:
        raise ValueError(
            f"the programs run on {rows} rows of data and not on {len(batch[0])} ({error}); write "
            "them for any number of rows: give the data plate size len(x), and pass what belongs "
            "to one datum as an argument of its own."
        ) from error


def is_delta(fn: Any) -> bool:
    """Whether a distribution puts all its mass on one point."""
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return isinstance(fn, dist.Delta)


def check_shape(name: str, site: Any, density: Tensor, rows: int, data_dim: int) -> None:
    """Check that a log density has its data along the data plate and no dimension but plates'."""
    plates = {frame.dim: frame.size for frame in site["cond_indep_stack"] if frame.dim is not None}
    shape = density.shape
    dims = range(-len(shape), 0)
    stray = [dim for dim in dims if shape[dim] != 1 and plates.get(dim) != shape[dim]]
    if stray or len(shape) < -data_dim or shape[data_dim] != rows:
        raise ValueError(
            f"site {name!r} has log_prob of shape {tuple(shape)}; expected one value for each of "
            f"the {rows} rows of data along dimension {data_dim}, and no dimension without a "
            "plate. Put the site inside the data plate, call .to_event() on its distribution, "
            "and give the data plate size len(x)."
        )


def check_shapes(model: Trace, guide: Trace) -> None:
    """Check that the guide draws latents in the shapes in which the model does."""
    ours = dict(latent_sites(model))
    for name, site in latent_sites(guide):
        shape = tuple(site["value"].shape)
        if name in ours and shape != tuple(ours[name]["value"].shape):
            raise ValueError(
                f"latent site {name!r} has shape {shape} in the guide and "
                f"{tuple(ours[name]['value'].shape)} in the model; they must be the same."
            )


def check_parameters(program: Any, parameters: Iterable[Tensor], batch: Batch) -> None:
    """Check that all parameters that the programs compute with live in the module.

    There ``fit`` trains them. Others of Pyro's store do no harm where nothing depends on them: a
    second model of the same ``pyro.module`` names finds those of the first, and uses its own.

    Args:
        program: module with programs ``model`` and ``guide``.
        parameters: its own, as they were before the programs first ran (Pyro may replace them).
        batch: data, as arguments of the programs.

    Raises:
        ValueError: a parameter of Pyro's store that the module does not have.
    """
    own = {id(parameter) for parameter in parameters}
    with pyro.validation_enabled(False):
        with torch.no_grad():
            foreign = _stored(run_both(program.model, program.guide, batch), own)
        if not foreign:
            return
        with torch.enable_grad():
            traces = run_both(program.model, program.guide, batch)
            foreign = _stored(traces, own)
            for trace in traces:
                trace.compute_log_prob()
            total = sum(site["log_prob_sum"] for trace in traces for _, site in sample_sites(trace))
    learned = {name: value for name, value in foreign.items() if value.requires_grad}
    if not learned or not isinstance(total, Tensor) or not total.requires_grad:
        return
    slopes = torch.autograd.grad(total, list(learned.values()), allow_unused=True)
    taken_over = {id(parameter) for parameter in program.parameters()} - own
    for (name, value), slope in zip(learned.items(), slopes, strict=True):
        if slope is None:
            continue
        if id(value) in taken_over or _SEPARATOR in name:
            raise ValueError(
                f"parameter {name!r} was in Pyro's global store before, of another model with the "
                "same names, and would be shared with it; call pyro.clear_param_store() before "
                "you make this model, or pyro.settings.set(module_local_params=True)."
            )
        raise ValueError(
            f"parameter {name!r} lives in Pyro's global store, where fit does not train it; make "
            "it an nn.Parameter or PyroParam of the module, or train with pyro.infer.SVI."
        )


_SEPARATOR = "$$$"  # between pyro.module's name and that of a parameter


def _stored(traces: tuple[Trace, Trace], own: set[int]) -> dict[str, Any]:
    """Unconstrained parameters of Pyro's store that programs asked for, the guide's first."""
    found: dict[str, Any] = {}
    for trace in reversed(traces):
        for name, site in trace.nodes.items():
            if site["type"] != "param":
                continue
            value: Any = site["value"]
            free = value.unconstrained() if hasattr(value, "unconstrained") else value
            if id(free) not in own:
                found.setdefault(name, free)
    return found


@torch.no_grad()
def explain(program: Any, batch: Batch) -> str:
    """Say what made the loss of a module with two programs NaN or infinite."""
    for number, argument in enumerate(batch):
        if argument.is_floating_point() and not argument.isfinite().all():
            return f"argument {number} of the batch holds NaN or infinite values"
    wrong = [name for name, p in program.named_parameters() if not p.isfinite().all()]
    if wrong:
        return f"parameters {', '.join(wrong[:3])} are not finite since the step before"
    model, guide = run_both(program.model, program.guide, batch)
    for role, trace in (("guide", guide), ("model", model)):
        trace.compute_log_prob()
        for name, site in sample_sites(trace):
            if not site["log_prob_sum"].isfinite():
                return f"log density of site {name!r} ({kind(site)}) of the {role} is not finite"
    return "the draw of that step; every density of another draw is finite"


def kind(site: Any) -> str:
    """Return the name of a site's distribution."""
    return type(getattr(site["fn"], "base_dist", site["fn"])).__name__
