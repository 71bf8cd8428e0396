"""A Pyro model and guide, seen one datum at a time: proposals, and log densities per datum."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from ..seeding import seeded

__all__ = ["Batch", "NonFiniteDensity", "Program", "Values", "evaluation_mode"]

Batch = tuple[Tensor, ...]
"""Arguments of the model and the guide; dimension 0 of each runs over the data."""

Values = dict[str, Tensor]
"""Latent values by site: shape ``(samples, *batch dims of the plates, *event_shape)``."""

Fn = Callable[..., Any]

_PILOT_DATA, _PILOT_SAMPLES = 3, 2


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


@dataclass(frozen=True)
class Program:
    """A ``(model, guide)`` pair whose sites all lie in one outermost plate over the data.

    Everything is read from traces: site names, the number of latents, inner plates and event shapes
    are the user's. Scales (of a subsampled plate, of ``poutine.scale``) are left out, since they
    belong to training; masks count.

    Build it with :meth:`inspect`.

    Args:
        model: Pyro program, called with the batch.
        guide: Pyro program, called with the batch.
        plate_dims: number of batch dimensions that the programs' plates use.
        data_dim: batch dimension of the data plate (negative).
        latents: number of event dimensions of each latent site.
        vectorized: whether samples go through the programs in a dimension of their own. Otherwise
            each sample is given to them as one more row of data, which suits every program but
            runs the guide's network on each sample.
        most_rows: most data that the programs take at once (a fixed subsample size), if limited.
    """

    model: Fn
    guide: Fn
    plate_dims: int
    data_dim: int
    latents: Mapping[str, int]
    vectorized: bool
    most_rows: int | None

    @classmethod
    def inspect(cls, model: Fn, guide: Fn, batch: Batch) -> Program:
        """Run the pair on a few of the data and find out how it is built.

        Samples in a dimension of their own are used only if they give the log densities that
        samples given as rows of data do.

        Raises:
            ValueError: the sites of model and guide do not match; a site lies outside the data
                plate or gives more than one log density per datum; no site is observed.
        """
        batch = tuple(argument[:_PILOT_DATA] for argument in batch)
        with seeded(0), torch.no_grad():
            guide_trace = _trace(guide, batch)
            values = {name: site["value"] for name, site in _latents(guide_trace)}
            model_trace = _trace(model, batch, values)
            _check_match(model_trace, guide_trace)
            frames = _data_frames(model_trace, "model") + _data_frames(guide_trace, "guide")
            dims = {frame.dim for frame in frames}
            if len(dims) > 1:
                raise ValueError(f"the data plate is at several dimensions, {sorted(dims)}.")
            most_rows = _most_rows((model_trace, guide_trace), len(batch[0]))
            rows = cls(
                model,
                guide,
                plate_dims=_plate_dims(model_trace, guide_trace),
                data_dim=dims.pop(),
                latents={name: site["fn"].event_dim for name, site in _latents(guide_trace)},
                vectorized=False,
                most_rows=most_rows,
            )
            vectorized = replace(rows, vectorized=True)
            if most_rows is None:
                return vectorized if _agree(rows, vectorized, batch, _PILOT_SAMPLES) else rows
            # A fixed subsample size leaves no room for samples as rows.
            batch = tuple(argument[:most_rows] for argument in batch)
            if not _agree(rows, vectorized, batch, samples=1):
                raise ValueError(
                    f"the data plate takes a subsample of {most_rows} data whatever it is given, "
                    "and the programs do not broadcast over samples. Give the plate the batch's "
                    "size: pyro.plate('data', len(x))."
                )
            return vectorized

    def propose(self, batch: Batch, samples: int) -> tuple[Values, Tensor]:
        """Draw latents from the guide.

        Args:
            batch: N data.
            samples: number of draws S for each datum.

        Returns:
            The values, and log q(z|x) of shape ``(S, N)``, float64.
        """
        trace, log_q = self._run(self.guide, batch, {}, samples, "guide")
        values = {}
        for name, event_dim in self.latents.items():
            value = trace.nodes[name]["value"]
            values[name] = value if self.vectorized else self._unfold(value, event_dim, samples)
        return values, log_q

    def log_joint(self, batch: Batch, values: Values) -> Tensor:
        """Return log p(x, z) for given latents, shape ``(S, N)``, float64."""
        return self._log_density(self.model, batch, values, "model")

    def log_guide(self, batch: Batch, values: Values) -> Tensor:
        """Return log q(z|x) for given latents, shape ``(S, N)``, float64."""
        return self._log_density(self.guide, batch, values, "guide")

    def _log_density(self, fn: Fn, batch: Batch, values: Values, role: str) -> Tensor:
        samples = len(next(iter(values.values())))
        if not self.vectorized:
            values = {name: self._fold(value, self.latents[name]) for name, value in values.items()}
        return self._run(fn, batch, values, samples, role)[1]

    def _run(
        self, fn: Fn, batch: Batch, values: Values, samples: int, role: str
    ) -> tuple[Trace, Tensor]:
        """Trace one program on every (sample, datum) pair; return the trace and log densities."""
        n = len(batch[0])
        if self.vectorized:
            sample_dim = -self.plate_dims - 1
            trace = _trace(fn, batch, values, plate=(samples, sample_dim))
        else:
            repeated = tuple(a.repeat(samples, *[1] * (a.dim() - 1)) for a in batch)
            trace = _trace(fn, repeated, values)
        total = torch.zeros(samples, n, dtype=torch.float64, device=batch[0].device)
        for name, site in _sites(trace):
            log_prob = _site_log_prob(site)
            _check_shape(name, site, log_prob, n if self.vectorized else n * samples, self.data_dim)
            total += self._to_matrix(log_prob, samples, n)
            finite = total < torch.inf
            if not finite.all():
                raise NonFiniteDensity(name, role, (~finite).any(0).nonzero().flatten().tolist())
        return trace, total

    def _fold(self, value: Tensor, event_dim: int) -> Tensor:
        """From ``(samples, ..., data, ..., event)`` to ``(..., samples * data, ..., event)``."""
        axis = value.dim() - event_dim + self.data_dim
        return value.movedim(0, axis - 1).flatten(axis - 1, axis)

    def _unfold(self, value: Tensor, event_dim: int, samples: int) -> Tensor:
        """Undo :meth:`_fold`."""
        missing = self.plate_dims + event_dim - value.dim()
        value = value.reshape((1,) * missing + value.shape)
        axis = value.dim() - event_dim + self.data_dim
        return value.unflatten(axis, (samples, -1)).movedim(axis, 0)


    def _to_matrix(self, log_prob: Tensor, samples: int, n: int) -> Tensor:
        """Sum a site's log density to shape ``(samples, data)``, float64."""
        log_prob = log_prob.movedim(self.data_dim, -1)
        if not self.vectorized:
            return log_prob.reshape(-1, samples, n).sum(0, dtype=torch.float64)
        depends_on_sample = log_prob.dim() == self.plate_dims + 1
        lead = len(log_prob) if depends_on_sample else 1
        return log_prob.reshape(lead, -1, n).sum(1, dtype=torch.float64)


@contextmanager
def evaluation_mode(*programs: Fn) -> Iterator[None]:
    """Put the modules that own the programs in ``eval()`` mode, without gradients, for a while.

    Pyro's argument validation is off meanwhile: data are checked once, not at every chunk.
    """
    owners = {id(m): m for m in map(_owner, programs) if m is not None}
    modules = [module for owner in owners.values() for module in owner.modules()]
    training = [module for module in modules if module.training]
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(pyro.validation_enabled(False))
        for module in training:
            module.training = False
        try:
            yield
        finally:
            for module in training:
                module.training = True


def _owner(program: Fn) -> nn.Module | None:
    owner = getattr(program, "__self__", program)
    return owner if isinstance(owner, nn.Module) else None


class _Set(Messenger):  # type: ignore[misc, unused-ignore]
    """Give latent sites their values, and take subsamples of a plate in order."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg) and msg["value"] is None:
            fn = msg["fn"]
            size = fn.size if fn.subsample_size is None else min(fn.size, fn.subsample_size)
            msg["value"] = torch.arange(size, device=fn.device)
        elif msg["name"] in self.values and not msg["is_observed"]:
            msg["value"] = self.values[msg["name"]]
            msg["done"] = True


def _trace(
    fn: Fn, batch: Batch, values: Mapping[str, Tensor] | None = None, *, plate: Any = None
) -> Trace:
    """Trace a program with given latent values, inside an outer plate ``(size, dim)`` if asked."""
    tracer = poutine.trace()
    with tracer, _Set(values or {}), ExitStack() as stack:
        if plate is not None:
            size, dim = plate
            stack.enter_context(pyro.plate("_pyro_vae_samples", size, dim=dim))
        try:
            fn(*batch)
        except ValueError as error:
            if "Shape mismatch inside plate" not in str(error):
                raise
            raise ValueError(
                f"{error}. Give the data plate size len(x), and call .to_event() on "
                "distributions whose right-most dimensions belong to one datum."
            ) from error
    trace: Trace = tracer.trace
    return trace


def _sites(trace: Trace) -> Iterator[tuple[str, Any]]:
    """Sample sites that carry a density."""
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or site_is_subsample(site):
            continue
        if not site["infer"].get("_deterministic"):
            yield name, site


def _latents(trace: Trace) -> Iterator[tuple[str, Any]]:
    return ((name, site) for name, site in _sites(trace) if not site["is_observed"])


def _site_log_prob(site: Any) -> Tensor:
    """Log density of a site, masked but not scaled."""
    log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    masked: Tensor = scale_and_mask(log_prob, mask=site["mask"])
    return masked


def _data_frames(trace: Trace, role: str) -> list[Any]:
    """Outermost plate of each site, after checks that all share one."""
    sites = dict(_sites(trace))
    if role == "model" and not any(site["is_observed"] for site in sites.values()):
        raise ValueError("the model has no observed site; give one the data with obs=x.")
    frames = []
    for name, site in sites.items():
        if not site["cond_indep_stack"]:
            raise ValueError(
                f"site {name!r} of the {role} is outside the data plate, so log p(x) does not "
                "factor over the data. Put every site inside `with pyro.plate('data', len(x)):`."
            )
        frame = site["cond_indep_stack"][0]
        if frame.dim is None:
            raise ValueError(
                f"the data plate {frame.name!r} of the {role} is a Python loop; "
                f"write `with pyro.plate({frame.name!r}, len(x)):` instead."
            )
        frames.append(frame)
        if frame.name != frames[0].name:
            raise ValueError(
                f"sites of the {role} lie in two outermost plates, {frames[0].name!r} and "
                f"{frame.name!r} (site {name!r}); expected one plate over the data around all."
            )
    return frames


def _check_match(model_trace: Trace, guide_trace: Trace) -> None:
    """Check that model and guide have the same latent sites."""
    model_sites, guide_sites = dict(_latents(model_trace)), dict(_latents(guide_trace))
    observed = [name for name, site in _sites(model_trace) if site["is_observed"]]
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


def _check_shape(name: str, site: Any, log_prob: Tensor, rows: int, data_dim: int) -> None:
    """Check that a log density has its data along the data plate and no dimension but plates'."""
    plates = {frame.dim: frame.size for frame in site["cond_indep_stack"] if frame.dim is not None}
    shape = log_prob.shape
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


def _plate_dims(*traces: Trace) -> int:
    """Number of batch dimensions that the plates of some traces use."""
    return max(
        -frame.dim
        for trace in traces
        for _, site in _sites(trace)
        for frame in site["cond_indep_stack"]
        if frame.dim is not None
    )


def _most_rows(traces: Sequence[Trace], rows: int) -> int | None:
    """Size of the subsample that the data plate takes of a longer batch, if it takes one.

    A plate of size ``len(x)`` with a subsample size of its own indexes its data. Any other size
    (``len(x)`` as subsample of a constant) only scales the densities, which is left out anyway.
    """
    limit = None
    for trace in traces:
        for name, site in trace.nodes.items():
            fn = site.get("fn")
            if not site_is_subsample(site) or fn.subsample_size is None:
                continue
            if fn.size == rows:
                limit = fn.subsample_size
            elif fn.subsample_size > rows:
                raise ValueError(
                    f"plate {name!r} wants batches of exactly {fn.subsample_size} data; write "
                    f"pyro.plate({name!r}, {fn.size}, subsample_size=len(x)) to take any number."
                )
    return limit


def _agree(rows: Program, vectorized: Program, batch: Batch, samples: int) -> bool:
    """Whether samples in a dimension of their own give the densities of samples as rows."""
    values, log_q = rows.propose(batch, samples)
    log_p = rows.log_joint(batch, values)
    try:
        same_p = torch.allclose(vectorized.log_joint(batch, values), log_p, rtol=1e-4, atol=1e-3)
        same_q = torch.allclose(vectorized.log_guide(batch, values), log_q, rtol=1e-4, atol=1e-3)
        drawn, _ = vectorized.propose(batch, samples)
    except Exception:  # the user's program, run in a way that it need not support
        return False
    same_shape = all(drawn[name].shape == value.shape for name, value in values.items())
    return same_p and same_q and same_shape
