"""A Pyro model and guide: run on a few of the data, inspected, and ready to be evaluated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from ..common.devices import sent
from ..common.seeding import seeded
from .checks import (
    check_densities,
    check_draws,
    check_indices,
    check_match,
    check_observations,
    out_of_reach,
    run_fewer,
)
from .densities import ROLES, Densities, Role
from .enumeration import left_out
from .layout import NONE, Values, pad
from .supports import support_of
from .traces import (
    Batch,
    FixedRows,
    Fn,
    ShapeMismatch,
    data_plate,
    latent_sites,
    plate_dims,
    run,
    run_both,
)

__all__ = ["MixedRows", "OneNumber", "Pair", "Values", "check_reach", "pad"]


class MixedRows(ValueError):
    """Densities of a datum depend on those beside it, in programs of so many data alone."""


class OneNumber(ValueError):
    """Programs take so many data alone, and not several draws at once."""


_PILOT_DATA, _PILOT_SAMPLES = 3, 2


@dataclass(frozen=True)
class Pair(Densities):
    """A model and a guide of which one inspection found out how they are built.

    Everything is read from traces: site names, the number of latents, inner plates and event shapes
    are the user's. Build it with :meth:`inspect`.
    """

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
        number = len(batch[0])
        try:
            pair = cls._inspect(model, guide, _rows(batch, _PILOT_DATA), narrow)
        except FixedRows as fixed:
            pilot, again = _rows(batch, fixed.rows), number > fixed.rows
            return cls._inspect(model, guide, pilot, narrow, fixed.rows, again=again)
        except (RuntimeError, IndexError, ShapeMismatch) as error:
            if number == _PILOT_DATA:
                raise
            try:  # written for all the data at once, such as a guide with a parameter for each
                return cls._inspect(model, guide, batch, narrow, number)
            except (RuntimeError, IndexError, ShapeMismatch):
                raise error from None
        if number > _PILOT_DATA:  # some company shows among many only
            with seeded("company", 0), torch.no_grad():
                if _more_sites(pair, batch):  # as many as the longest of the data has
                    pair = cls._inspect(model, guide, batch, narrow)
                values, _ = pair.propose(batch, 1)
                parts = (_others(number, free=True, again=True), *_parts(number))
                _check_company(pair, batch, values, parts)
        return pair

    def check_sites(self, model: Trace, guide: Trace, first: int) -> None:
        """Check that data have no latents but those that the inspected ones had.

        Args:
            model: trace of the model on some data.
            guide: trace of the guide.
            first: number of the first of them.

        Raises:
            ValueError: latents that are new.
        """
        if new := _new_sites(self, model, guide):
            raise ValueError(
                f"data from {first} on have latent sites that the first data do not have: "
                f"{', '.join(map(repr, new[:5]))}. Put the data with the most sites first (the "
                "longest sequence), or let loops go on to a length that is the same for all data, "
                "with masks."
            )

    @classmethod
    def _inspect(
        cls,
        model: Fn,
        guide: Fn,
        batch: Batch,
        narrow: bool,
        fixed_rows: int | None = None,
        *,
        again: bool = False,
    ) -> Pair:
        """Inspect a pair on a batch.

        Args:
            model: Pyro program.
            guide: Pyro program.
            batch: of the size that the programs get.
            narrow: as for :meth:`inspect`.
            fixed_rows: the size, if the programs run on no other.
            again: whether they will run on other data of this size.
        """
        with seeded("inspect", 0), torch.no_grad():
            guide_trace = run(guide, batch)
            values = {name: site["value"] for name, site in latent_sites(guide_trace)}
            try:
                model_trace = run(model, batch, values)
            except (RuntimeError, ValueError):  # say so if it is the guide's values that do not fit
                check_densities(run(model, batch), guide_trace)
                raise
            summed = left_out(model_trace, guide_trace)
            check_match(model_trace, guide_trace, summed=summed)
            check_draws(guide, batch, guide_trace)
            check_densities(model_trace, guide_trace)
            check_observations(model_trace)
            index, places = _others(len(batch[0]), fixed_rows is None, again)
            others = tuple(argument[index.to(argument.device)] for argument in batch)
            other = None
            if fixed_rows is None:
                other = run_fewer(guide if values else model, others, len(batch[0]))
            plate = data_plate(model_trace, guide_trace, other=other, rows=len(batch[0]))
            drawn = {name: site["value"] for name, site in latent_sites(model_trace)}
            check_indices(model, batch, {**drawn, **values}, model_trace)
            check_indices(guide, batch, values, guide_trace)
            rows = cls(
                model=model,
                guide=guide,
                plate_dims=plate_dims(model_trace, guide_trace),
                data_dim=plate.dim,
                latents={n: s["fn"].event_dim for n, s in latent_sites(guide_trace)} or {NONE: 0},
                vectorized=False,
                fixed_rows=fixed_rows,
                summed=summed,
            )
            values = rows.drawn(guide_trace, batch, 1)
            if summed:
                _check_broadcast(rows, batch, values)
            parts = ((index, places), *_parts(fixed_rows or 0, fixed=True))
            _check_company(rows, batch, values, parts)
            outside = out_of_reach(model_trace, guide_trace)
            outside = {n: rows.unfold(v, rows.latents[n], 1) for n, v in outside.items()}
            check_reach(rows, batch, values, outside, (model_trace, guide_trace), narrow=narrow)
            vectorized = replace(rows, vectorized=True)
            if fixed_rows is None:
                return vectorized if _agree(rows, vectorized, batch, _PILOT_SAMPLES) else rows
            # A fixed subsample size leaves no room for samples as rows.
            if not (_agree(rows, vectorized, batch, samples=1) and _at_once(vectorized, batch)):
                raise OneNumber(
                    f"the programs take {fixed_rows} data at once and no other number, and they "
                    "do not broadcast over samples. Give the plate the batch's size: "
                    "pyro.plate('data', len(x))."
                )
            return vectorized


def _check_broadcast(pair: Densities, batch: Batch, values: Values) -> None:
    """Check that the model runs at all values of its enumerated sites at once."""
    try:
        pair.log_joint(batch, values)
    except (RuntimeError, IndexError, TypeError) as error:
        raise ValueError(
            f"the model cannot be run at all values of {', '.join(map(repr, pair.summed))} at once "
            f"({error}). Write it to broadcast over dimensions left of the plates, as "
            "pyro.infer.TraceEnum_ELBO needs it, or add them to the guide."
        ) from error


def _rows(batch: Batch, number: int) -> Batch:
    """The first rows of a batch, so many."""
    return pad(tuple(argument[:number] for argument in batch), number)


def _others(rows: int, free: bool, again: bool) -> tuple[Tensor, Tensor]:
    """Rows to run programs on besides a batch, and the places among them to look at.

    Fewer and in another order, if the number is free; else as many, with one of them twice. Where
    programs run on one batch alone, a row may depend on its place, so that each stays at its own.
    """
    if rows == 1:
        return torch.arange(1), torch.arange(1)
    if free:
        return torch.arange(rows - 1, 0, -1), torch.arange(rows - 1)
    if again:
        return torch.tensor([*range(rows - 1, 0, -1), 1]), torch.arange(rows)
    return torch.tensor([1, *range(1, rows)]), torch.arange(1, rows)


def _parts(rows: int, *, fixed: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
    """Parts of some rows, such that of any two rows one part has the first and not the second.

    Yields rows and the places among them to look at, as :func:`_others`. Where their number is
    fixed, others stand for those that are not of the part.
    """
    every = torch.arange(rows)
    for bit in range(max(rows - 1, 0).bit_length()):
        for half in (0, 1):
            kept = (every >> bit) % 2 == half
            part = every[kept]
            if fixed:
                index = every.clone()
                index[~kept] = part[torch.arange(int((~kept).sum())) % len(part)]
                yield index, part
            else:
                yield part, torch.arange(len(part))


def _more_sites(pair: Densities, batch: Batch) -> bool:
    """Whether programs have other latents on more of the data."""
    return bool(_new_sites(pair, *run_both(pair.model, pair.guide, batch)))


def _new_sites(pair: Densities, model: Trace, guide: Trace) -> list[str]:
    known = {*pair.latents, *pair.summed}
    new = (name for trace in (guide, model) for name, _ in latent_sites(trace) if name not in known)
    return list(dict.fromkeys(new))


def _check_company(
    pair: Densities, batch: Batch, values: Values, parts: Iterable[tuple[Tensor, Tensor]]
) -> None:
    """Check that log densities of rows do not change with the rows beside them.

    Parts are rows of the batch in other company, and the places among them to look at.
    """
    device, before = batch[0].device, {}
    for role in ROLES:
        try:
            before[role] = pair.by_site(role, batch, values)
        except (KeyError, NotImplementedError):  # a flow that tells the density of its draws alone
            if role == "model":
                raise
    for part in parts:
        index, places = (sent(rows, device) for rows in part)
        others = tuple(argument[index] for argument in batch)
        theirs = {name: v.index_select(pair.data_axis, index) for name, v in values.items()}
        for role, own in before.items():
            after = pair.by_site(role, others, theirs)
            _check_alike(pair, role, batch, values, own, after, index[places], places)


def _check_alike(
    pair: Densities,
    role: Role,
    batch: Batch,
    values: Values,
    before: dict[str, Tensor],
    after: dict[str, Tensor],
    rows: Tensor,
    places: Tensor,
) -> None:
    """Check log densities of rows against those at some places among others."""
    joined = before.keys() != after.keys()  # data that are shorter have fewer sites
    if joined:
        before, after = _joined(before), _joined(after)
    for name, density in before.items():
        there = after.get(name, torch.zeros_like(density))  # of no site
        if _close(density[:, rows], there[:, places]):
            continue
        again = pair.by_site(role, batch, values)
        if not _close(density, (_joined(again) if joined else again)[name]):
            raise ValueError(
                f"site {name!r} of the {role} has another log density each time it is run at "
                "the same latents: what is random there is no sample site. Make it one, or "
                "switch it off (dropout: module.eval())."
            )
        raise (MixedRows if pair.fixed_rows else ValueError)(
            f"site {name!r} of the {role} has another log density for a datum when the data "
            "beside it are others, so log p(x) of a datum is not defined. Use nothing that "
            "mixes the rows of a batch: batch norm without running statistics, x.mean(0), "
            "attention over the batch, or values by a row's place in it."
        )


def _joined(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"all": torch.stack([*terms.values()]).sum(0)} if terms else {}


def check_reach(
    pair: Densities,
    batch: Batch,
    values: Values,
    outside: Values,
    traces: tuple[Trace, Trace],
    *,
    narrow: bool,
) -> None:
    """Check that the posterior is zero where the guide cannot draw.

    A ``narrow`` guide needs but tell its density there, so that draws of the prior can be weighed.
    """
    for name, value in outside.items():
        beyond = {**values, name: value}
        if not pair.log_joint(batch, beyond).isfinite().any():
            continue  # the likelihood allows no more than the guide does
        if narrow:
            with suppress(Exception):  # such as an index that is out of range
                pair.log_guide(batch, beyond)
                continue
        p, q = (str(support_of(trace.nodes[name]["fn"]))[:60] for trace in traces)
        raise ValueError(
            f"latent site {name!r} has support {p} in the model and only {q} in the guide, so a "
            "part of the posterior is out of reach and log p(x) would be too low. Give the guide "
            "a distribution over the model's support"
            + (", for it has no density elsewhere." if narrow else _OR_MIX)
        )


_OR_MIX = ", or mix the prior in: defensive=0.1."


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-4, atol=1e-3, equal_nan=True)


def _agree(rows: Densities, vectorized: Densities, batch: Batch, samples: int) -> bool:
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


def _at_once(vectorized: Densities, batch: Batch) -> bool:
    """Whether samples at once have the densities that they have one by one."""
    try:
        values, log_q = vectorized.propose(batch, _PILOT_SAMPLES)
        together = [vectorized.log_joint(batch, values)]
        for sample in range(_PILOT_SAMPLES):
            one = {name: value[sample : sample + 1] for name, value in values.items()}
            together.append(vectorized.log_joint(batch, one))
    except Exception:  # the user's program, run in a way that it need not support
        return False
    return log_q.shape == together[0].shape and _close(together[0], torch.cat(together[1:]))
