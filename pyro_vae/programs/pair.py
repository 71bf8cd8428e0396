"""A Pyro model and guide, seen one datum at a time: proposals, and log densities per datum."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import pyro
import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import kl_divergence

from ..common.seeding import seeded
from .checks import (
    NonFiniteDensity,
    check_densities,
    check_indices,
    check_match,
    check_observations,
    out_of_reach,
    run_fewer,
)
from .layout import Layout, Values, pad
from .supports import support_of
from .traces import (
    Batch,
    FixedRows,
    Fn,
    data_plate,
    latent_sites,
    observed_sites,
    plate_dims,
    run,
    sample_sites,
)

__all__ = ["Pair", "Values", "pad"]

Role = Literal["model", "guide"]

_ROLES: tuple[Role, ...] = ("guide", "model")
_PILOT_DATA, _PILOT_SAMPLES = 3, 2


@dataclass(frozen=True)
class Pair(Layout):
    """A model and a guide whose sites all lie in one plate over the data.

    Everything is read from traces: site names, the number of latents, inner plates and event shapes
    are the user's. Scales (of a subsampled plate, of ``poutine.scale``) are left out, since they
    belong to training; masks count. What the guide observes is no part of q(z|x). Log densities are
    of shape ``(samples, data)``, float64; one that is NaN or infinite is passed on, and
    :meth:`check_finite` says where it comes from.

    Build it with :meth:`inspect`.

    Args:
        model: Pyro program, called with the batch.
        guide: Pyro program, called with the batch.
        fixed_rows: number of data that the programs must get at once, if their plate has a
            subsample size of its own.
    """

    model: Fn
    guide: Fn
    fixed_rows: int | None

    @classmethod
    def inspect(cls, model: Fn, guide: Fn, batch: Batch, *, narrow: bool = False) -> Pair:
        """Run the pair on a few of the data and find out how it is built.

        Samples in a dimension of their own are used only if they give the log densities that
        samples given as rows of data do.

        Args:
            model: Pyro program.
            guide: Pyro program.
            batch: some of the data.
            narrow: allow a guide that cannot draw all that the model allows, for what does not
                draw from the guide alone.

        Raises:
            ValueError: the sites of model and guide do not match; a site lies outside the data
                plate or gives more than one log density per datum; no site is observed; densities
                of a datum depend on others; the guide does not reach a part of the posterior.
        """
        pilot = pad(tuple(argument[:_PILOT_DATA] for argument in batch), _PILOT_DATA)
        try:
            return cls._inspect(model, guide, pilot, None, narrow)
        except FixedRows as fixed:
            pilot = pad(tuple(argument[: fixed.rows] for argument in batch), fixed.rows)
            return cls._inspect(model, guide, pilot, fixed.rows, narrow)

    @classmethod
    def _inspect(
        cls, model: Fn, guide: Fn, batch: Batch, fixed_rows: int | None, narrow: bool
    ) -> Pair:
        with seeded("inspect", 0), torch.no_grad():
            guide_trace = run(guide, batch)
            values = {name: site["value"] for name, site in latent_sites(guide_trace)}
            try:
                model_trace = run(model, batch, values)
            except (RuntimeError, ValueError):  # say so if it is the guide's values that do not fit
                check_densities(run(model, batch), guide_trace)
                raise
            check_match(model_trace, guide_trace)
            check_densities(model_trace, guide_trace)
            check_observations(model_trace)
            # Other rows: fewer, if the programs let us, and each in other company.
            index = torch.arange(len(batch[0]) - 1, 0, -1)
            if fixed_rows is not None:
                index = torch.cat([index, index[-1:]]) if len(index) else torch.arange(1)
            others = tuple(argument[index.to(argument.device)] for argument in batch)
            other = None if fixed_rows is not None else run_fewer(guide, others, len(batch[0]))
            plate = data_plate(model_trace, guide_trace, other=other)
            check_indices(model, batch, values, model_trace)
            check_indices(guide, batch, values, guide_trace)
            rows = cls(
                model=model,
                guide=guide,
                plate_dims=plate_dims(model_trace, guide_trace),
                data_dim=plate.dim,
                latents={name: site["fn"].event_dim for name, site in latent_sites(guide_trace)},
                vectorized=False,
                fixed_rows=fixed_rows,
            )
            values = {n: rows.unfold(v, rows.latents[n], 1) for n, v in values.items()}
            _check_company(rows, batch, values, others, index)
            if not narrow:
                outside = out_of_reach(model_trace, guide_trace)
                _check_reach(rows, batch, values, outside, (model_trace, guide_trace))
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

    def propose(self, batch: Batch, samples: int) -> tuple[Values, Tensor]:
        """Draw latents from the guide.

        Args:
            batch: N data.
            samples: number of draws S for each datum.

        Returns:
            The values, and log q(z|x) of shape ``(S, N)``, float64.
        """
        trace = self._run(self.guide, batch, {}, samples)
        log_q = self._add_up(latent_sites(trace), "guide", samples, len(batch[0]))
        return self._drawn(trace, samples), log_q

    def propose_prior(self, batch: Batch, samples: int) -> tuple[Values, Tensor]:
        """Draw latents from the model's prior; return them with log p(z), as :meth:`propose`."""
        trace = self._run(self.model, batch, {}, samples)
        log_p = self._add_up(latent_sites(trace), "model", samples, len(batch[0]))
        return self._drawn(trace, samples), log_p

    def log_joint(self, batch: Batch, values: Values) -> Tensor:
        """Return log p(x, z) for given latents."""
        return self._density("model", batch, values, sample_sites)

    def log_prior(self, batch: Batch, values: Values) -> Tensor:
        """Return log p(z) for given latents."""
        return self._density("model", batch, values, latent_sites)

    def log_likelihood(self, batch: Batch, values: Values) -> Tensor:
        """Return log p(x|z) for given latents."""
        return self._density("model", batch, values, observed_sites)

    def log_guide(self, batch: Batch, values: Values) -> Tensor:
        """Return log q(z|x) for given latents."""
        return self._density("guide", batch, values, latent_sites)

    def divergence(self, batch: Batch, fixed: Values, values: Values) -> Tensor:
        """Return KL(p(x|fixed) || p(x|values)) summed over the observed sites.

        Raises:
            NotImplementedError: torch has no closed form for a site.
        """
        samples, n = _number_of_samples(values), len(batch[0])
        with torch.no_grad():
            reference = dict(observed_sites(self._replay(self.model, batch, fixed)))
        total = torch.zeros(samples, n, dtype=torch.float64, device=batch[0].device)
        for name, site in observed_sites(self._replay(self.model, batch, values)):
            kl = kl_divergence(reference[name]["fn"], site["fn"])
            total = total + self.to_matrix(scale_and_mask(kl, mask=site["mask"]), samples, n)
        return total

    def describe(self, batch: Batch) -> tuple[Values, dict[str, Any]]:
        """Return one draw of the model's latents, and the support of each.

        It is the guide's where the model's distribution does not say.
        """
        guide = self._run(self.guide, batch, {}, 1)
        values = self._drawn(guide, 1)
        sites = dict(latent_sites(self._replay(self.model, batch, values)))
        supports = {}
        for name in (name for name in sites if name in values):
            found = (support_of(fn) for fn in (sites[name]["fn"], guide.nodes[name]["fn"]))
            supports[name] = next((support for support in found if support is not None), None)
            if supports[name] is None:
                raise ValueError(
                    f"latent site {name!r} is {type(sites[name]['fn']).__name__}, which does not "
                    "say what its support is; use method='guide'."
                )
        return {name: values[name] for name in supports}, supports

    def simulate(self, batch: Batch) -> tuple[Batch, Values]:
        """Draw latents and data from the model; the batch gives number and shape of the data.

        Raises:
            ValueError: an observed site whose value is not an argument of the program as it is.
        """
        observed = {}
        for name, site in observed_sites(run(self.model, batch)):
            places = [i for i, argument in enumerate(batch) if site["value"] is argument]
            if not places:
                raise ValueError(
                    f"site {name!r} observes a function of the model's arguments; to simulate "
                    "data its observation must be an argument as it is, obs=x."
                )
            observed[name] = places[0]
        new, values = list(batch), {}
        for name, site in sample_sites(run(pyro.poutine.uncondition(self.model), batch)):
            if name in observed:
                new[observed[name]] = site["value"].to(batch[observed[name]].dtype)
            elif name in self.latents:
                values[name] = self.unfold(site["value"], self.latents[name], 1)
        return tuple(new), values

    def check_finite(self, batch: Batch, values: Values, *densities: Tensor) -> None:
        """Check that log densities at given latents are numbers, or -infinity.

        Raises:
            NonFiniteDensity: names the first site with a density of NaN or +infinity, and the data.
        """
        if all((density < torch.inf).all() for density in densities):
            return
        for role in _ROLES:
            for name, density in self.by_site(role, batch, values).items():
                finite = density < torch.inf
                if not finite.all():
                    raise NonFiniteDensity(
                        name, role, (~finite).any(0).nonzero().flatten().tolist()
                    )

    def by_site(self, role: Role, batch: Batch, values: Values) -> dict[str, Tensor]:
        """Return the log densities of a program's sites one by one, each as :meth:`log_joint`."""
        samples, n = _number_of_samples(values), len(batch[0])
        counted = sample_sites if role == "model" else latent_sites
        sites = counted(self._replay(getattr(self, role), batch, values))
        return {name: self.density(name, site, samples, n) for name, site in sites}

    def _density(self, role: Role, batch: Batch, values: Values, sites: Any) -> Tensor:
        trace = self._replay(getattr(self, role), batch, values)
        return self._add_up(sites(trace), role, _number_of_samples(values), len(batch[0]))

    def _replay(self, fn: Fn, batch: Batch, values: Values) -> Trace:
        samples = _number_of_samples(values)
        if not self.vectorized:
            values = {name: self.fold(value, self.latents[name]) for name, value in values.items()}
        return self._run(fn, batch, values, samples)

    def _run(self, fn: Fn, batch: Batch, values: Values, samples: int) -> Trace:
        """Trace one program on every (sample, datum) pair."""
        if self.vectorized:
            return run(fn, batch, values, samples=(samples, -self.plate_dims - 1))
        repeated = tuple(a.repeat(samples, *[1] * (a.dim() - 1)) for a in batch)
        return run(fn, repeated, values)

    def _drawn(self, trace: Trace, samples: int) -> Values:
        """Latent values of a trace, samples first."""
        sites: dict[str, Any] = trace.nodes
        drawn = {name: sites[name]["value"] for name in self.latents if name in sites}
        if self.vectorized:
            return drawn
        return {name: self.unfold(v, self.latents[name], samples) for name, v in drawn.items()}

    def _add_up(self, sites: Iterable[tuple[str, Any]], role: str, samples: int, n: int) -> Tensor:
        """Sum the log densities of sites, shape ``(S, N)``, float64."""
        total: Tensor | None = None
        for name, site in sites:
            term = self.density(name, site, samples, n)
            total = term.expand(samples, n) if total is None else total + term
        if total is None:
            raise ValueError(f"the {role} has no such site.")
        return total


def _number_of_samples(values: Values) -> int:
    return len(next(iter(values.values())))


def _check_company(pair: Pair, batch: Batch, values: Values, others: Batch, index: Tensor) -> None:
    """Check that log densities of rows do not change with the rows beside them."""
    axis = pair.data_axis
    theirs = {
        name: value.index_select(axis, index.to(value.device)) for name, value in values.items()
    }
    for role in _ROLES:
        before, after = pair.by_site(role, batch, values), pair.by_site(role, others, theirs)
        for name, density in before.items():
            if _close(density[:, index.to(density.device)], after[name]):
                continue
            if not _close(density, pair.by_site(role, batch, values)[name]):
                raise ValueError(
                    f"site {name!r} of the {role} has another log density each time it is run at "
                    "the same latents: what is random there is no sample site. Make it one, or "
                    "switch it off (dropout: module.eval())."
                )
            raise ValueError(
                f"site {name!r} of the {role} has another log density for a datum when the data "
                "beside it are others, so log p(x) of a datum is not defined. Use nothing that "
                "mixes the rows of a batch: batch norm without running statistics, x.mean(0), "
                "attention over the batch, or values by a row's place in it."
            )


def _check_reach(
    pair: Pair, batch: Batch, values: Values, outside: Values, traces: tuple[Trace, Trace]
) -> None:
    """Check that the posterior is zero where the guide cannot draw."""
    for name, value in outside.items():
        there = {**values, name: pair.unfold(value, pair.latents[name], 1)}
        if not pair.log_joint(batch, there).isfinite().any():
            continue  # the likelihood allows no more than the guide does
        p, q = (str(support_of(trace.nodes[name]["fn"]))[:60] for trace in traces)
        raise ValueError(
            f"latent site {name!r} has support {p} in the model and only {q} in the guide, so a "
            "part of the posterior is out of reach and log p(x) would be too low. Give the guide "
            "a distribution over the model's support, or mix the prior in: defensive=0.1."
        )


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-4, atol=1e-3, equal_nan=True)


def _agree(rows: Pair, vectorized: Pair, batch: Batch, samples: int) -> bool:
    """Whether samples in a dimension of their own give the densities of samples as rows."""
    values, log_q = rows.propose(batch, samples)
    log_p = rows.log_joint(batch, values)
    rows.check_finite(batch, values, log_q, log_p)
    try:
        same_p = _close(vectorized.log_joint(batch, values), log_p)
        same_q = _close(vectorized.log_guide(batch, values), log_q)
        drawn, _ = vectorized.propose(batch, samples)
    except Exception:  # the user's program, run in a way that it need not support
        return False
    same_shape = all(drawn[name].shape == value.shape for name, value in values.items())
    return same_p and same_q and same_shape
