"""The ladder of proposals: from the guide to annealing, climbed per datum by k̂ and ESS."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import get_args

import torch
from torch import Tensor

from ..common.options import Method
from ..common.registry import check_choice
from ..common.seeding import seeded
from ..programs.discrete import are_given
from ..programs.pair import Pair, Values
from ..programs.traces import Batch
from .annealing import Annealing, anneal, tune
from .diagnostics import effective_sample_size
from .proposals import GuideProposal, NormalProposal, Proposal
from .refinement import fitted_from, laplace, modes, moments_of_guide, moments_of_prior
from .resampling import picked, resampled
from .result import METHODS
from .space import Edges, Space, can_be_fitted
from .weighing import (
    PRIOR_SHARE,
    Fitted,
    Weighed,
    draw,
    edge_share,
    knows_density,
    pareto_k_of_mixture,
    shared,
    with_prior,
)

__all__ = ["Ladder"]

_LEAST_SAMPLES = 64
_SAFETY = 1.5  # a pilot underrates heavy tails

_LADDER = ("guide", "refined", "laplace", "modes", "annealed")

_ALIKE = 1 - 1e-4  # share of effective samples above which weights differ by rounding
# Largest k̂ and smallest share of effective samples of a pilot that let a datum stay on a rung.
# From "refined" to "laplace" is one cheap step that gains a lot, so no datum stays on the former.
_GOOD = {"guide": (0.5, 0.2), "laplace": (0.7, 0.01), "modes": (0.7, 0.01)}
# Share of a block that must pass for any to stay. A mode that some data's pilots met by a draw of
# the prior is there for the others, too.
_MOST = {"guide": 0.5, "laplace": 0.8, "modes": 0.5}


@dataclass(frozen=True)
class Ladder:
    """How log weights are made.

    Attributes:
        method: a rung by name, or ``"auto"``.
        samples: draws of each datum's final estimate (the chains are those of ``annealing``).
        chunk: samples that go through the programs at once.
        defensive: share of draws from the prior, mixed into the proposal; by default none with
            the guide alone and a tenth with a fitted proposal. ``"auto"`` gives a tenth to the
            guide, too, if its density of other draws than its own is known, and up to a half to a
            proposal that leaves so much of the posterior to the prior.
        annealing: settings of the last rung.
        pilot: draws that decide whether a proposal will do.
        mean_error: Monte-Carlo error that every datum's estimate may have on (quadratic) average,
            in nats; decides the number of draws of each datum instead of ``samples``.
        datum_error: the same for each datum by itself.
        max_samples: most draws of a datum.
        starts: places from which ``"modes"`` looks for modes.
        lowest: rung that ``"auto"`` begins at.
        keep: draws of the posterior of each datum to keep, resampled by the weights.
    """

    method: Method = "guide"
    samples: int = 1000
    chunk: int = 32
    defensive: float | None = None
    annealing: Annealing = field(default_factory=Annealing)
    pilot: int = 500
    starts: int = 12
    lowest: Method = "guide"
    keep: int = 0
    mean_error: float | None = None
    datum_error: float | None = None
    max_samples: int = 100_000

    def __post_init__(self) -> None:
        for name in ("samples", "chunk", "max_samples"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be at least 1, a whole number; got {value!r}.")
        if self.defensive is not None and not 0 <= self.defensive < 1:
            raise ValueError(f"defensive must be in [0, 1); got {self.defensive}.")
        check_choice("method", self.method, get_args(Method))

    @property
    def adaptive(self) -> bool:
        """Whether a target of the error decides the number of draws."""
        return self.mean_error is not None or self.datum_error is not None

    def weigh(self, pair: Pair, batch: Batch, key: tuple[int, ...]) -> Iterator[Weighed]:
        """Yield the log weights of a block of data, rung by rung; every datum once.

        Args:
            pair: the programs.
            batch: N data.
            key: seeds of the block.

        Raises:
            ValueError: a method other than ``"guide"`` or ``"auto"``, which stays there, with
                discrete latents; ``defensive`` where they are given with the data.
            NonFiniteDensity: a log density of NaN or +infinity.
        """
        fitted = Fitted(pair, batch, torch.arange(len(batch[0])))
        climb = self.method == "auto"
        highest = "annealed" if not climb or can_be_fitted(pair, batch) else "guide"
        if (climb or self.defensive) and not self._given(pair, batch):
            mixes = knows_density(pair, batch)
            share = (PRIOR_SHARE if mixes else 0.0) if self.defensive is None else self.defensive
            fitted = replace(fitted, share=share, mixes=mixes)
        for name in _LADDER:
            if name == "modes" and not climb and self.method != name:
                continue
            rung = METHODS.index(name)
            fitted = self._fit(rung, fitted, key)
            last = name == self.method or (climb and name == highest)
            if last:
                stay = torch.ones_like(fitted.index, dtype=torch.bool)
            elif climb and name in _GOOD and _LADDER.index(name) >= _LADDER.index(self.lowest):
                pilot = draw(fitted, self.pilot, self.chunk, "pilot", (*key, rung))
                fitted = replace(fitted, elbo=pilot.elbo) if fitted.elbo is None else fitted
                stay = self._will_do(name, pilot.log_weights, fitted.share).cpu()
            else:
                continue
            if stay.any():
                reached = fitted.select(stay)
                doubtful = torch.zeros_like(reached.index, dtype=torch.bool)
                for samples, chosen in self._sizes(rung, reached, key):
                    weighed = self._estimate(rung, reached.select(chosen), samples, key)
                    again = torch.zeros_like(weighed.fitted.index, dtype=torch.bool)
                    if climb and not last:
                        again = weighed.hopeless()
                    doubtful[chosen] = again
                    if not again.any():
                        yield weighed
                    elif not again.all():
                        yield weighed.select(~again)
                stay[stay.nonzero().flatten()[doubtful]] = False
            if stay.all():
                return
            fitted = fitted.select(~stay)

    def _given(self, pair: Pair, batch: Batch) -> bool:
        """Whether discrete latents are given with the data, which draws of the prior are not."""
        given = are_given(pair, batch)
        if given and self.defensive:
            raise ValueError(
                "discrete latents of some data are given (the guide draws an argument's value "
                "alone), and draws of the prior would have others: leave defensive out."
            )
        return given

    def again(self, weighed: Weighed, pair: Pair, key: tuple[int, ...]) -> Weighed:
        """Weigh the same draws under the same programs in another precision."""
        proposal = weighed.fitted.proposal
        fitted = replace(
            weighed.fitted, pair=pair, proposal=None if proposal is None else proposal.of(pair)
        )
        return self._estimate(weighed.rung, fitted, len(weighed.log_weights), key)

    def ratio(self, weighed: Weighed, values: Values) -> Tensor:
        """Log ratio of p(x, z) to the proposal at given latents, ``(S, n)``.

        For a guide that does not tell its density there, a normal of its moments stands in.
        """
        fitted = weighed.fitted
        proposal: Proposal = fitted.proposal or GuideProposal(fitted.pair, fitted.batch)
        if fitted.proposal is None and not knows_density(fitted.pair, fitted.batch):
            with seeded("moments", 0):
                space = Space.of(fitted.pair, fitted.batch)
                proposal = moments_of_guide(space, fitted.batch)
        log_prior, log_joint = fitted.pair.log_terms(fitted.batch, values)
        share = 0.0 if METHODS[weighed.rung] == "annealed" else fitted.share
        # a density that is no number there is none
        log_q = proposal.log_density(values).nan_to_num(nan=-math.inf)
        return log_joint - with_prior(log_q, log_prior, share)

    def _fit(self, rung: int, fitted: Fitted, key: tuple[int, ...]) -> Fitted:
        """Fit the rung's proposal to each datum, from that of the rung below."""
        name = METHODS[rung]
        if name == "refined":
            if self.defensive is None:
                fitted = replace(fitted, share=PRIOR_SHARE)
            space = Space.of(fitted.pair, fitted.batch)
            with seeded("fit proposal", *key):
                start = moments_of_guide(space, fitted.batch)
                return replace(fitted, proposal=fitted_from(space, fitted.batch, start))
        if name == "laplace" and isinstance(fitted.proposal, NormalProposal):
            normal = laplace(fitted.proposal.space, fitted.batch, fitted.proposal)
            return self._shared(replace(fitted, proposal=normal.widened()), key)
        if name == "modes" and isinstance(fitted.proposal, NormalProposal):
            with seeded("modes", *key):
                found = modes(fitted.batch, fitted.proposal, self.starts)
            return self._shared(replace(fitted, proposal=found), key)
        return fitted

    def _shared(self, fitted: Fitted, key: tuple[int, ...]) -> Fitted:
        return fitted if self.defensive is not None else shared(fitted, key)

    def _will_do(self, name: str, log_weights: Tensor, prior_share: float) -> Tensor:
        """Which data a pilot finds the proposal good enough for.

        Where it is not for most of a block, those that pass do so by luck.
        """
        most_k, least_share = _GOOD[name]
        k = pareto_k_of_mixture(log_weights, prior_share)
        share = effective_sample_size(log_weights) / self.pilot
        good = (k.isnan() | (k <= most_k) | (share > _ALIKE)) & (share >= least_share)
        return good & (good.double().mean() >= _MOST[name])

    def _sizes(
        self, rung: int, fitted: Fitted, key: tuple[int, ...]
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield numbers of draws, with the data that take so many.

        With cv_n the coefficient of variation of the weights, the errors are cv_n / sqrt(K_n); the
        least total under a bound on their mean square has K_n proportional to cv_n (Neyman).
        """
        if METHODS[rung] == "annealed" or not self.adaptive:
            yield self.samples, torch.ones_like(fitted.index, dtype=torch.bool)
            return
        pilot = draw(fitted, self.pilot, self.chunk, "allocate", (*key, rung)).log_weights.cpu()
        cv2 = (self.pilot / effective_sample_size(pilot) - 1).clamp_min(0).nan_to_num(posinf=1e12)
        size = torch.zeros_like(cv2)
        if self.mean_error is not None:
            size = cv2.sqrt() * cv2.sqrt().mean() / self.mean_error**2
        if self.datum_error is not None:
            size = size.maximum(cv2 / self.datum_error**2)
        size = (_SAFETY * size).clamp(_LEAST_SAMPLES, self.max_samples)
        steps = (size / _LEAST_SAMPLES).log2().ceil().int()
        for step in steps.unique().tolist():
            samples = min(_LEAST_SAMPLES * 2**step, max(self.max_samples, _LEAST_SAMPLES))
            yield samples, steps == step

    def _estimate(self, rung: int, fitted: Fitted, samples: int, key: tuple[int, ...]) -> Weighed:
        """Log weights from fresh draws, which are other ones on every rung."""
        if METHODS[rung] != "annealed" or fitted.proposal is None:
            stream = (*key, rung, samples)
            drawn = draw(fitted, samples, self.chunk, "evidence", stream, keep=self.keep)
            weights = drawn.log_weights
            elbo = drawn.elbo if fitted.elbo is None else fitted.elbo
            given = (rung, fitted, weights, elbo, drawn.edge, weights)
            return Weighed(*given, drawn.strata, drawn.control, drawn.posterior)
        normal = fitted.proposal.centre.of(fitted.pair)
        if self.annealing.start != "laplace":
            moments = {"guide": moments_of_guide, "prior": moments_of_prior}[self.annealing.start]
            with seeded("moments", *key):
                normal = moments(normal.space, fitted.batch)
        share = self.defensive or 0.0
        path = (normal.space, fitted.batch, normal, self.annealing)
        with seeded("tune", *key):
            moves = tune(*path, prior_share=share)
        with seeded("anneal", *key):
            run = anneal(*path, moves, prior_share=share)
        values, _ = normal.space.values(run.ends)
        edge = edge_share(run.log_weights, Edges.of(fitted.pair, fitted.batch).hit(values))
        elbo = run.log_weights.mean(0) if fitted.elbo is None else fitted.elbo
        fitted = replace(fitted, proposal=normal, share=share)
        draws = None
        if self.keep:
            with seeded("resample", *key):
                which = resampled(run.log_weights, self.keep)
            draws = picked([(0, values)], which, fitted.pair.data_axis)
        given = (rung, fitted, run.log_weights, elbo, edge, run.log_ratios)
        return Weighed(*given, run.strata, draws=draws)
