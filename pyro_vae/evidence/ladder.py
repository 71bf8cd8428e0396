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
from ..programs.checks import NonFiniteDensity
from ..programs.pair import Pair, Values
from ..programs.traces import Batch
from .annealing import Annealing, anneal, tune
from .diagnostics import (
    controlled,
    effective_sample_size,
    jackknife,
    log_mean_exp,
    pareto_k,
    standard_error,
)
from .proposals import GuideProposal, MixtureProposal, NormalProposal, Proposal
from .refinement import laplace, modes, moments_of_guide, moments_of_prior, refine
from .result import METHODS, doubts_of
from .space import Edges, Space

__all__ = ["METHODS", "Fitted", "Ladder", "Weighed"]


_LEAST_SAMPLES = 64
_SAFETY = 1.5  # a pilot underrates heavy tails
_SAMPLE_BLOCK = {"cpu": 64, "cuda": 1024}
# Share of draws from the prior, since some posteriors have heavier tails than any normal.
_PRIOR_SHARE, _MOST_PRIOR = 0.1, 0.5
_SHARE_DRAWS = 128

_LADDER = ("guide", "refined", "laplace", "modes", "annealed")

# Largest k̂ and smallest share of effective samples of a pilot that let a datum stay on a rung.
# From "refined" to "laplace" is one cheap step that gains a lot, so no datum stays on the former.
_HOPELESS = 0.7  # k̂
_DOUBTED = ("pareto_k", "ess", "draws", "standard_error", "edge")
_FAR = 0.25  # of the weights' tail
_ALIKE = 1 - 1e-4  # share of effective samples above which weights differ by rounding
_MOST = 0.5  # share of a block that must pass for any to stay
_GOOD = {"guide": (0.5, 0.2), "laplace": (0.7, 0.01), "modes": (0.7, 0.01)}


@dataclass(frozen=True)
class Fitted:
    """Data on one rung, with the proposal fitted to each (none: the guide).

    Attributes:
        pair: the programs.
        batch: the data.
        index: their positions in the block, ``(n,)``.
        proposal: the proposal.
        elbo: ELBO of the guide, where the ladder was climbed from it, ``(n,)``.
        share: share of draws from the prior, mixed into the proposal.
    """

    pair: Pair
    batch: Batch
    index: Tensor
    proposal: NormalProposal | MixtureProposal | None = None
    elbo: Tensor | None = None
    share: float = 0.0

    def select(self, chosen: Tensor) -> Fitted:
        """Return some of the data."""
        proposal = None if self.proposal is None else self.proposal.select(chosen)
        batch = tuple(argument[chosen] for argument in self.batch)
        elbo = None if self.elbo is None else self.elbo[chosen]
        return replace(self, batch=batch, index=self.index[chosen], proposal=proposal, elbo=elbo)


@dataclass(frozen=True)
class Weighed:
    """Log weights of some data of a block.

    Attributes:
        rung: number of the proposal in ``METHODS``.
        fitted: the data and their proposal.
        log_weights: shape ``(K, n)``, float64.
        elbo: ELBO of the guide, where the ladder was climbed from it, or of the proposal, ``(n,)``.
        edge: share of the weight that lies on draws at the edge of a latent's support, ``(n,)``.
        ends: of annealed chains, the log ratios of p(x, z) to the proposal where they end,
            ``(K, n)``; else the log weights, which are just these.
        strata: True for draws of the prior, ``(K,)``; none if it has no share.
        control: control variate of the mixture with the prior, ``(K, n)``; none likewise, and for
            annealed chains.
    """

    rung: int
    fitted: Fitted
    log_weights: Tensor
    elbo: Tensor
    edge: Tensor
    ends: Tensor
    strata: Tensor | None = None
    control: Tensor | None = None

    def columns(self) -> dict[str, Tensor]:
        """Columns of a result, each ``(n,)``."""
        log_weights = self.log_weights
        log_px = log_mean_exp(log_weights)
        error = standard_error(log_weights, strata=self.strata)
        corrected = jackknife(log_weights, strata=self.strata)
        if self.control is not None and self.strata is not None:
            log_px, error = controlled(log_weights, self.control, self.strata)
            corrected = log_px + error.square() / 2
        return {
            "log_px": log_px,
            "standard_error": error,
            "ess": effective_sample_size(log_weights),
            "pareto_k": _pareto_k(log_weights, self.fitted.share),
            "jackknife": corrected,
            "elbo": self.elbo,
            "draws": torch.full_like(log_weights[0], len(log_weights)),
            "rung": torch.full_like(log_weights[0], self.rung),
            "edge": self.edge,
        }

    def hopeless(self) -> Tensor:
        """Which weights have no mean to trust at any number of draws, ``(n,)``.

        To climb on where few draws are merely in doubt would keep those data that were lucky.
        """
        found = self.columns()
        alone = doubts_of(**{name: found[name] for name in _DOUBTED})["one weight"]
        return (found["pareto_k"] > _HOPELESS) | alone

    def doubtful(self) -> Tensor:
        """Which estimates are to doubt, ``(n,)``."""
        found = self.columns()
        return torch.stack([*doubts_of(**{name: found[name] for name in _DOUBTED}).values()]).any(0)

    def select(self, chosen: Tensor) -> Weighed:
        """Return some of the data."""
        return Weighed(
            self.rung,
            self.fitted.select(chosen),
            self.log_weights[:, chosen],
            self.elbo[chosen],
            self.edge[chosen],
            self.ends[:, chosen],
            self.strata,
            None if self.control is None else self.control[:, chosen],
        )


@dataclass(frozen=True)
class _Drawn:
    """Draws of a proposal mixed with the prior.

    Attributes:
        log_weights: shape ``(K, n)``, float64.
        elbo: mean of log p(x, z) - log q(z) over the draws of the proposal q, ``(n,)``.
        edge: share of the weight on draws at the edge of a latent's support, ``(n,)``.
        strata: True for draws of the prior, ``(K,)``; none if it has no share.
        control: control variate of the mixture, ``(K, n)``; none likewise.
    """

    log_weights: Tensor
    elbo: Tensor
    edge: Tensor
    strata: Tensor | None
    control: Tensor | None


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
    """

    method: Method = "guide"
    samples: int = 1000
    chunk: int = 32
    defensive: float | None = None
    annealing: Annealing = field(default_factory=Annealing)
    pilot: int = 500
    starts: int = 12
    lowest: Method = "guide"
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
            ValueError: a method other than ``"guide"`` with discrete latents.
            NonFiniteDensity: a log density of NaN or +infinity.
        """
        fitted = Fitted(pair, batch, torch.arange(len(batch[0]), device=batch[0].device))
        climb = self.method == "auto"
        if self.defensive is not None:
            fitted = replace(fitted, share=self.defensive)
        elif climb and _knows_density(pair, batch):
            fitted = replace(fitted, share=_PRIOR_SHARE)
        rungs = list(_LADDER)
        for name in rungs:
            if name == "modes" and not climb and self.method != name:
                continue
            rung = METHODS.index(name)
            fitted = self._fit(rung, fitted, key)
            last = name == self.method or (climb and name == "annealed")
            if last:
                stay = torch.ones_like(fitted.index, dtype=torch.bool)
            elif climb and name in _GOOD and rungs.index(name) >= rungs.index(self.lowest):
                pilot = self._draw(fitted, self.pilot, "pilot", (*key, rung))
                fitted = replace(fitted, elbo=pilot.elbo) if fitted.elbo is None else fitted
                stay = self._will_do(name, pilot.log_weights, fitted.share)
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
                    if not again.all():
                        yield weighed.select(~again)
                stay[stay.nonzero().flatten()[doubtful]] = False
            if stay.all():
                return
            fitted = fitted.select(~stay)

    def again(self, weighed: Weighed, pair: Pair, key: tuple[int, ...]) -> Weighed:
        """Weigh the same draws under the same programs in another precision."""
        proposal = weighed.fitted.proposal
        fitted = replace(
            weighed.fitted, pair=pair, proposal=None if proposal is None else proposal.of(pair)
        )
        return self._estimate(weighed.rung, fitted, len(weighed.log_weights), key)

    def ratio(self, weighed: Weighed, values: Values) -> Tensor:
        """Log ratio of p(x, z) to the proposal at given latents, ``(S, n)``."""
        fitted = weighed.fitted
        proposal: Proposal = fitted.proposal or GuideProposal(fitted.pair, fitted.batch)
        log_prior, log_joint = fitted.pair.log_terms(fitted.batch, values)
        share = 0.0 if METHODS[weighed.rung] == "annealed" else fitted.share
        return log_joint - _with_prior(proposal.log_density(values), log_prior, share)

    def _fit(self, rung: int, fitted: Fitted, key: tuple[int, ...]) -> Fitted:
        """Fit the rung's proposal to each datum, from that of the rung below."""
        name = METHODS[rung]
        if name == "refined":
            if self.defensive is None:
                fitted = replace(fitted, share=_PRIOR_SHARE)
            space = Space.of(fitted.pair, fitted.batch)
            with seeded("fit proposal", *key):
                start = moments_of_guide(space, fitted.batch)
                return replace(fitted, proposal=refine(space, fitted.batch, start))
        if name == "laplace" and isinstance(fitted.proposal, NormalProposal):
            normal = laplace(fitted.proposal.space, fitted.batch, fitted.proposal)
            return self._shared(replace(fitted, proposal=normal.widened()), key)
        if name == "modes" and isinstance(fitted.proposal, NormalProposal):
            with seeded("modes", *key):
                found = modes(fitted.batch, fitted.proposal, self.starts)
            return self._shared(replace(fitted, proposal=found), key)
        return fitted

    def _shared(self, fitted: Fitted, key: tuple[int, ...]) -> Fitted:
        """Give the prior the share that suits the data, unless one was asked for.

        The one for which the mixture c p(z) + (1 - c) q(z) is nearest to the posterior, in the
        divergence KL(p(z|x) || mixture), by expectation maximization over a few draws of both.
        """
        if self.defensive is not None or fitted.proposal is None:
            return fitted
        pair, batch = fitted.pair, fitted.batch
        with seeded("share", *key):
            prior, _ = pair.propose_prior(batch, _SHARE_DRAWS // 2)
            values, _ = fitted.proposal.draw(_SHARE_DRAWS // 2)
        both = {name: torch.cat([prior[name], value]) for name, value in values.items()}
        log_q = fitted.proposal.log_density(both)
        log_prior, log_joint = pair.log_terms(batch, both)
        weights = (log_joint - torch.logaddexp(log_q, log_prior)).nan_to_num(-math.inf).softmax(0)
        share = torch.full_like(log_joint[0], _MOST_PRIOR)
        for _ in range(20):
            log_odds = (log_prior - log_q).nan_to_num(0.0) + torch.logit(share)
            share = (weights * log_odds.sigmoid()).sum(0).nan_to_num(_PRIOR_SHARE)
        return replace(fitted, share=share.mean().clamp(_PRIOR_SHARE, _MOST_PRIOR).item())

    def _will_do(self, name: str, log_weights: Tensor, prior_share: float) -> Tensor:
        """Which data a pilot finds the proposal good enough for.

        Where it is not for most of a block, those that pass do so by luck.
        """
        most_k, least_share = _GOOD[name]
        k = _pareto_k(log_weights, prior_share)
        share = effective_sample_size(log_weights) / self.pilot
        good = (k.isnan() | (k <= most_k) | (share > _ALIKE)) & (share >= least_share)
        return good & (good.double().mean() >= _MOST)

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
        pilot = self._draw(fitted, self.pilot, "allocate", (*key, rung)).log_weights
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
            stream = (*key, rung, samples) if rung else (*key, samples)
            drawn = self._draw(fitted, samples, "evidence", stream)
            weights = drawn.log_weights
            elbo = drawn.elbo if fitted.elbo is None else fitted.elbo
            return Weighed(
                rung, fitted, weights, elbo, drawn.edge, weights, drawn.strata, drawn.control
            )
        normal = fitted.proposal.centre.of(fitted.pair)
        if self.annealing.start != "laplace":
            moments = {"guide": moments_of_guide, "prior": moments_of_prior}[self.annealing.start]
            with seeded("moments", *key):
                normal = moments(normal.space, fitted.batch)
        share = self.defensive or 0.0
        given = (normal.space, fitted.batch, normal, self.annealing)
        with seeded("tune", *key):
            moves = tune(*given, prior_share=share)
        with seeded("anneal", *key):
            run = anneal(*given, moves, prior_share=share)
        values, _ = normal.space.values(run.ends)
        edge = _edge_share(run.log_weights, Edges.of(fitted.pair, fitted.batch).hit(values))
        elbo = run.log_weights.mean(0) if fitted.elbo is None else fitted.elbo
        fitted = replace(fitted, proposal=normal, share=share)
        return Weighed(rung, fitted, run.log_weights, elbo, edge, run.log_ratios, run.strata)

    def _draw(self, fitted: Fitted, samples: int, stream: str, key: tuple[int, ...]) -> _Drawn:
        """Weigh draws from a proposal.

        Draws from the prior are spread evenly over the others, and every draw is weighted by the
        mixture of both (Owen and Zhou, 2000, https://doi.org/10.1080/01621459.2000.10473909).
        """
        pair, batch = fitted.pair, fitted.batch
        proposal: Proposal = fitted.proposal or GuideProposal(pair, batch)
        share = fitted.share
        defensive = min(max(1, round(samples * share)), samples - 1) if share else 0
        device = batch[0].device
        log_weights = torch.empty(samples, len(batch[0]), dtype=torch.float64, device=device)
        on_edge = torch.zeros_like(log_weights, dtype=torch.bool)
        of_prior = torch.zeros(samples, dtype=torch.bool, device=device)
        control = torch.zeros_like(log_weights) if defensive else None
        elbo = torch.zeros_like(log_weights[0])
        size = _SAMPLE_BLOCK.get(device.type, 64)
        edges = Edges.of(pair, batch)

        def draw(begin: int) -> tuple[Values, Tensor]:
            end = min(begin + size, samples)
            from_prior = end * defensive // samples - begin * defensive // samples
            with seeded(stream, *key, begin):
                if not from_prior:
                    return proposal.draw(end - begin)
                prior, _ = pair.propose_prior(batch, from_prior)
                log_q = proposal.log_density(prior)
                if from_prior == end - begin:
                    return prior, log_q
                values, log_density = proposal.draw(end - begin - from_prior)
            both = {name: torch.cat([prior[name], value]) for name, value in values.items()}
            return both, torch.cat([log_q, log_density])

        finite = torch.ones((), dtype=torch.bool, device=device)
        for begin in range(0, samples, size):
            values, log_q = draw(begin)
            end = begin + len(log_q)
            from_prior = end * defensive // samples - begin * defensive // samples
            of_prior[begin : begin + from_prior] = True
            finite = finite & (log_q < torch.inf).all()
            if edges.bounds:
                on_edge[begin : begin + len(log_q)] = edges.hit(values)
            for a in range(0, len(log_q), self.chunk):
                piece = {name: value[a : a + self.chunk] for name, value in values.items()}
                log_prior, log_p = pair.log_terms(batch, piece)
                log_density = log_q[a : a + self.chunk]
                mixed = _with_prior(log_density, log_prior, defensive / samples)
                place = slice(begin + a, begin + a + len(log_p))
                log_weights[place] = log_p - mixed
                if control is not None:
                    control[place] = (log_density - mixed).exp()
                elbo += (log_p - log_density)[max(from_prior - a, 0) :].sum(0)
        if not (finite & (log_weights < torch.inf).all()):
            for begin in range(0, samples, size):  # find the draw, the site and the data
                values, log_q = draw(begin)
                try:
                    pair.check_finite(batch, values, log_q, log_weights[begin : begin + size])
                except NonFiniteDensity as error:
                    rows = fitted.index[error.rows].tolist()
                    raise NonFiniteDensity(error.site, error.role, rows) from None
        return _Drawn(
            log_weights,
            elbo / (samples - defensive),
            _edge_share(log_weights, on_edge),
            of_prior if defensive else None,
            control,
        )


def _knows_density(pair: Pair, batch: Batch) -> bool:
    """Whether the guide tells the density of draws that are not its own."""
    try:
        with seeded("probe", 0):
            values, _ = pair.propose_prior(batch, 1)
            pair.log_guide(batch, values)
    except Exception:  # the user's program, run in a way that it need not support
        return False
    return True


def _pareto_k(log_weights: Tensor, prior_share: float) -> Tensor:
    """Pareto k̂; of proposals mixed with the prior the lesser of the tail's and its far end's.

    A share of prior draws bounds the weights. Those near the bound make a tail look heavy that
    begins below them, but not its far end.
    """
    k = pareto_k(log_weights)
    if not prior_share:
        return k
    far = pareto_k(log_weights, tail=_FAR)
    return torch.where(far.isnan(), k, k.minimum(far))


def _with_prior(log_q: Tensor, log_prior: Tensor, share: float) -> Tensor:
    """Log density of a proposal mixed with a share of the prior."""
    if not share:
        return log_q
    return torch.logaddexp(log_q + math.log1p(-share), log_prior + math.log(share))


def _edge_share(log_weights: Tensor, on_edge: Tensor) -> Tensor:
    """Share of the weight that lies on marked draws, ``(n,)``."""
    if not on_edge.any():
        return torch.zeros_like(log_weights[0])
    marked = log_weights.masked_fill(~on_edge, -math.inf).logsumexp(0)
    return (marked - log_weights.logsumexp(0)).exp().nan_to_num(0.0)
