"""A Pyro model and guide, seen one datum at a time: proposals, and log densities per datum."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import kl_divergence

from ..common.seeding import seeded
from .sites import (
    NonFiniteDensity,
    check_densities,
    check_match,
    check_shape,
    data_frames,
    latent_sites,
    log_prob,
    plate_dims,
    sample_sites,
)

__all__ = ["Batch", "Program", "Values", "pad"]

Batch = tuple[Tensor, ...]
"""Arguments of the model and the guide; dimension 0 of each runs over the data."""

Values = dict[str, Tensor]
"""Latent values by site: shape ``(samples, *batch dims of the plates, *event_shape)``."""

Fn = Callable[..., Any]

_PILOT_DATA, _PILOT_SAMPLES = 3, 2


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
        fixed_rows: number of data that the programs must get at once, if their plate has a
            subsample size of its own.
    """

    model: Fn
    guide: Fn
    plate_dims: int
    data_dim: int
    latents: Mapping[str, int]
    vectorized: bool
    fixed_rows: int | None

    @classmethod
    def inspect(cls, model: Fn, guide: Fn, batch: Batch) -> Program:
        """Run the pair on a few of the data and find out how it is built.

        Samples in a dimension of their own are used only if they give the log densities that
        samples given as rows of data do.

        Raises:
            ValueError: the sites of model and guide do not match; a site lies outside the data
                plate or gives more than one log density per datum; no site is observed.
        """
        pilot = tuple(argument[:_PILOT_DATA] for argument in batch)
        try:
            return cls._inspect(model, guide, pilot, fixed_rows=None)
        except _FixedRows as fixed:
            pilot = pad(tuple(argument[: fixed.rows] for argument in batch), fixed.rows)
            return cls._inspect(model, guide, pilot, fixed_rows=fixed.rows)

    @classmethod
    def _inspect(cls, model: Fn, guide: Fn, batch: Batch, fixed_rows: int | None) -> Program:
        with seeded("inspect", 0), torch.no_grad():
            guide_trace = _trace(guide, batch)
            values = {name: site["value"] for name, site in latent_sites(guide_trace)}
            try:
                model_trace = _trace(model, batch, values)
            except (RuntimeError, ValueError):  # say so if it is the guide's values that do not fit
                check_densities(_trace(model, batch), guide_trace)
                raise
            check_match(model_trace, guide_trace)
            check_densities(model_trace, guide_trace)
            frames = data_frames(model_trace, "model") + data_frames(guide_trace, "guide")
            dims = {frame.dim for frame in frames}
            if len(dims) > 1:
                raise ValueError(f"the data plate is at several dimensions, {sorted(dims)}.")
            _check_indices(model, batch, values, model_trace)
            _check_indices(guide, batch, values, guide_trace)
            rows = cls(
                model,
                guide,
                plate_dims=plate_dims(model_trace, guide_trace),
                data_dim=dims.pop(),
                latents={name: site["fn"].event_dim for name, site in latent_sites(guide_trace)},
                vectorized=False,
                fixed_rows=fixed_rows,
            )
            vectorized = replace(rows, vectorized=True)
            if fixed_rows is None:
                return vectorized if _agree(rows, vectorized, batch, _PILOT_SAMPLES) else rows
            # A fixed subsample size leaves no room for samples as rows.
            if not _agree(rows, vectorized, batch, samples=1):
                raise ValueError(
                    f"the data plate takes {fixed_rows} data whatever it is given, and the "
                    "programs do not broadcast over samples. Give the plate the batch's size: "
                    "pyro.plate('data', len(x))."
                )
            return vectorized

    def propose(self, batch: Batch, samples: int, *, check: bool = True) -> tuple[Values, Tensor]:
        """Draw latents from the guide.

        Args:
            batch: N data.
            samples: number of draws S for each datum.
            check: raise an error for a density of NaN or +infinity rather than pass it on.

        Returns:
            The values, and log q(z|x) of shape ``(S, N)``, float64.
        """
        trace = self._trace(self.guide, batch, {}, samples)
        sites = dict(sample_sites(trace))
        log_q = self._add_up(sites, "guide", samples, len(batch[0]), check=check)
        values = {}
        for name, event_dim in self.latents.items():
            value: Any = trace.nodes[name]["value"]
            values[name] = value if self.vectorized else self._unfold(value, event_dim, samples)
        return values, log_q

    def propose_prior(self, batch: Batch, samples: int) -> tuple[Values, Tensor]:
        """Draw latents from the model's prior; return them with log p(z), as :meth:`propose`."""
        trace = self._trace(self.model, batch, {}, samples)
        values = {}
        for name, site in latent_sites(trace):
            value: Any = site["value"]
            values[name] = (
                value if self.vectorized else self._unfold(value, self.latents[name], samples)
            )
        prior = dict(latent_sites(trace))
        return values, self._add_up(prior, "model", samples, len(batch[0]))

    def log_joint(self, batch: Batch, values: Values, *, check: bool = True) -> Tensor:
        """Return log p(x, z) for given latents, shape ``(S, N)``, float64.

        Without ``check`` a density of NaN or +infinity is passed on rather than raised.
        """
        trace = self._replay(self.model, batch, values)
        samples = _number_of_samples(values)
        return self._add_up(dict(sample_sites(trace)), "model", samples, len(batch[0]), check=check)

    def log_prior(self, batch: Batch, values: Values, *, check: bool = True) -> Tensor:
        """Return log p(z) for given latents, shape ``(S, N)``, float64."""
        sites = dict(latent_sites(self._replay(self.model, batch, values)))
        samples = _number_of_samples(values)
        return self._add_up(sites, "model", samples, len(batch[0]), check=check)

    def log_likelihood(self, batch: Batch, values: Values) -> Tensor:
        """Return log p(x|z) for given latents, shape ``(S, N)``, float64."""
        trace = self._replay(self.model, batch, values)
        sites = {name: site for name, site in sample_sites(trace) if site["is_observed"]}
        samples = _number_of_samples(values)
        return self._add_up(sites, "model", samples, len(batch[0]), check=False)

    def divergence(self, batch: Batch, fixed: Values, values: Values) -> Tensor:
        """Return KL(p(x|fixed) || p(x|values)) summed over the observed sites, ``(S, N)``.

        Raises:
            NotImplementedError: torch has no closed form for a site.
        """
        samples, n = _number_of_samples(values), len(batch[0])
        with torch.no_grad():
            reference = dict(sample_sites(self._replay(self.model, batch, fixed)))
        total = torch.zeros(samples, n, dtype=torch.float64, device=batch[0].device)
        for name, site in sample_sites(self._replay(self.model, batch, values)):
            if site["is_observed"]:
                kl = kl_divergence(reference[name]["fn"], site["fn"])
                total = total + self._to_matrix(scale_and_mask(kl, mask=site["mask"]), samples, n)
        return total

    def describe(self, batch: Batch) -> tuple[Values, dict[str, Any]]:
        """Return one draw of the model's latents, and the support of each."""
        values, _ = self.propose(batch, 1)
        sites = dict(latent_sites(self._replay(self.model, batch, values)))
        supports = {name: site["fn"].support for name, site in sites.items()}
        return {name: values[name] for name in supports}, supports

    def log_guide(self, batch: Batch, values: Values) -> Tensor:
        """Return log q(z|x) for given latents, shape ``(S, N)``, float64."""
        trace = self._replay(self.guide, batch, values)
        samples = _number_of_samples(values)
        return self._add_up(dict(sample_sites(trace)), "guide", samples, len(batch[0]))

    def simulate(self, batch: Batch) -> tuple[Batch, Values]:
        """Draw latents and data from the model; the batch gives number and shape of the data.

        Raises:
            ValueError: an observed site whose value is not an argument of the program as it is.
        """
        observed = {}
        for name, site in sample_sites(_trace(self.model, batch)):
            if site["is_observed"]:
                places = [i for i, argument in enumerate(batch) if site["value"] is argument]
                if not places:
                    raise ValueError(
                        f"site {name!r} observes a function of the model's arguments; to simulate "
                        "data its observation must be an argument as it is, obs=x."
                    )
                observed[name] = places[0]
        trace = _trace(poutine.uncondition(self.model), batch)
        new, values = list(batch), {}
        for name, site in sample_sites(trace):
            if name in observed:
                drawn: Any = site["value"]
                new[observed[name]] = drawn.to(batch[observed[name]].dtype)
            elif name in self.latents:
                values[name] = self._unfold(site["value"], self.latents[name], 1)
        return tuple(new), values

    def _replay(self, fn: Fn, batch: Batch, values: Values) -> Trace:
        samples = _number_of_samples(values)
        if not self.vectorized:
            values = {name: self._fold(value, self.latents[name]) for name, value in values.items()}
        return self._trace(fn, batch, values, samples)

    def _trace(self, fn: Fn, batch: Batch, values: Values, samples: int) -> Trace:
        """Trace one program on every (sample, datum) pair."""
        if self.vectorized:
            return _trace(fn, batch, values, plate=(samples, -self.plate_dims - 1))
        repeated = tuple(a.repeat(samples, *[1] * (a.dim() - 1)) for a in batch)
        return _trace(fn, repeated, values)

    def _add_up(
        self, sites: Mapping[str, Any], role: str, samples: int, n: int, *, check: bool = True
    ) -> Tensor:
        """Sum the log densities of sites, shape ``(S, N)``, float64."""
        total: Tensor | None = None
        for name, site in sites.items():
            density = log_prob(site)
            check_shape(name, site, density, n if self.vectorized else n * samples, self.data_dim)
            term = self._to_matrix(density, samples, n)
            total = term.expand(samples, n) if total is None else total + term
            if check and not (finite := total < torch.inf).all():
                raise NonFiniteDensity(name, role, (~finite).any(0).nonzero().flatten().tolist())
        if total is None:
            raise ValueError(f"the {role} has no such site.")
        return total

    def _fold(self, value: Tensor, event_dim: int) -> Tensor:
        """From ``(samples, ..., data, ..., event)`` to ``(..., samples * data, ..., event)``."""
        axis = value.dim() - event_dim + self.data_dim
        return value.movedim(0, axis - 1).flatten(axis - 1, axis)

    def _unfold(self, value: Tensor, event_dim: int, samples: int) -> Tensor:
        """Undo :meth:`_fold`."""
        missing = self.plate_dims + event_dim - value.dim()
        value = value.reshape((1,) * missing + value.shape)
        axis = value.dim() - event_dim + self.data_dim
        unfolded: Tensor = value.unflatten(axis, (samples, -1))
        return unfolded.movedim(axis, 0)

    def _to_matrix(self, density: Tensor, samples: int, n: int) -> Tensor:
        """Sum a site's log density to shape ``(samples, data)``, float64."""
        density = density.movedim(self.data_dim, -1)
        if not self.vectorized:
            return density.reshape(-1, samples, n).sum(0, dtype=torch.float64)
        depends_on_sample = density.dim() == self.plate_dims + 1
        lead = len(density) if depends_on_sample else 1
        return density.reshape(lead, -1, n).sum(1, dtype=torch.float64)


def _number_of_samples(values: Values) -> int:
    return len(next(iter(values.values())))


def pad(batch: Batch, rows: int) -> Batch:
    """Repeat the last datum until the batch has so many rows."""
    missing = rows - len(batch[0])
    return tuple(
        torch.cat([a, a[-1:].expand(missing, *a.shape[1:])]) if missing > 0 else a for a in batch
    )


class _FixedRows(ValueError):
    """A plate takes a subsample of a size of its own, whatever the batch."""

    def __init__(self, plate: str, rows: int) -> None:
        self.rows = rows
        super().__init__(
            f"plate {plate!r} takes {rows} data whatever it is given; write "
            f"pyro.plate({plate!r}, len(x)), or subsample_size=len(x)."
        )


class _Set(Messenger):  # type: ignore[misc, unused-ignore]
    """Give latent sites their values, and take subsamples of a plate in order."""

    def __init__(self, values: Mapping[str, Tensor], rows: int, last: bool = False) -> None:
        super().__init__()
        self.values = values
        self.rows = rows
        self.last = last

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg) and msg["value"] is None:
            fn = msg["fn"]
            size = fn.size if fn.subsample_size is None else fn.subsample_size
            if fn.subsample_size not in (None, self.rows):
                raise _FixedRows(msg["name"], size)
            first = fn.size - size if self.last else 0
            msg["value"] = torch.arange(first, first + size, device=fn.device)
        elif msg["name"] in self.values and not msg["is_observed"]:
            msg["value"] = self.values[msg["name"]]
            msg["done"] = True


def _trace(
    fn: Fn,
    batch: Batch,
    values: Mapping[str, Tensor] | None = None,
    *,
    plate: Any = None,
    last: bool = False,
) -> Trace:
    """Trace a program with given latent values, inside an outer plate ``(size, dim)`` if asked."""
    tracer = poutine.trace()
    with tracer, _Set(values or {}, len(batch[0]), last), ExitStack() as stack:
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


def _check_indices(fn: Fn, batch: Batch, values: Values, trace: Trace) -> None:
    """Check that the indices of a plate larger than the batch are not used to look anything up."""
    plates: dict[str, Any] = {n: s["fn"] for n, s in trace.nodes.items() if site_is_subsample(s)}
    larger = [n for n, fn in plates.items() if fn.subsample_size and fn.subsample_size < fn.size]
    if not larger:
        return
    with pyro.validation_enabled(False):
        other = dict(sample_sites(_trace(fn, batch, values, last=True)))
    for name, site in sample_sites(trace):
        if not torch.allclose(log_prob(site), log_prob(other[name]), equal_nan=True):
            raise ValueError(
                f"site {name!r} depends on the indices of plate {larger[0]!r}, whose range is "
                "larger than the data given; pass what it looks up as an argument of its own, "
                "e.g. log_evidence(model, guide, (x, local))."
            )


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
