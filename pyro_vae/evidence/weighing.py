"""Log weights of draws from a proposal that is mixed with the prior."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..common.devices import sent
from ..common.progress import part_done
from ..common.seeding import seeded
from ..programs.checks import NonFiniteDensity
from ..programs.pair import Pair, Values
from ..programs.traces import Batch
from .diagnostics import (
    controlled,
    effective_sample_size,
    jackknife,
    log_mean_exp,
    pareto_k,
    standard_error,
)
from .doubts import doubts_of
from .proposals import GuideProposal, MixtureProposal, NormalProposal, Proposal
from .resampling import picked, resampled, rows_of
from .sizes import draws_for
from .space import Edges

__all__ = [
    "PRIOR_SHARE",
    "Drawn",
    "Fitted",
    "Weighed",
    "draw",
    "edge_share",
    "knows_density",
    "pareto_k_of_mixture",
    "seconds_for",
    "shared",
    "with_prior",
]

PRIOR_SHARE = 0.1
"""Share of draws from the prior, since some posteriors have heavier tails than any normal."""

_MOST_PRIOR = 0.5
_SHARE_DRAWS = 128
_HOPELESS = 0.7  # k̂
_FAR = 0.25  # of the weights' tail
_TIMED = 512  # draws


@dataclass(frozen=True)
class Fitted:
    """Data on one rung, with the proposal fitted to each (none: the guide).

    Attributes:
        pair: the programs.
        batch: the data.
        index: their positions in the block, ``(n,)``, on the CPU.
        proposal: the proposal.
        elbo: ELBO of the guide, where the ladder was climbed from it, ``(n,)``.
        share: share of draws from the prior, mixed into the proposal.
        mixes: whether the guide tells its density at these draws, so that they can be weighed by
            the mixture of both.
    """

    pair: Pair
    batch: Batch
    index: Tensor
    proposal: NormalProposal | MixtureProposal | None = None
    elbo: Tensor | None = None
    share: float = 0.0
    mixes: bool = True

    def select(self, chosen: Tensor) -> Fitted:
        """Return some of the data, by a mask on the CPU."""
        if chosen.all():
            return self
        rows = sent(chosen.nonzero().flatten(), self.batch[0].device)
        proposal = None if self.proposal is None else self.proposal.select(rows)
        batch = tuple(argument[rows] for argument in self.batch)
        elbo = None if self.elbo is None else self.elbo[rows]
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
        strata: True for draws of the prior, ``(K,)``, on the CPU; none if it has no share.
        control: control variate of the mixture with the prior, ``(K, n)``; none likewise, and for
            annealed chains.
        draws: draws of the posterior, resampled by the weights; none unless asked for.
    """

    rung: int
    fitted: Fitted
    log_weights: Tensor
    elbo: Tensor
    edge: Tensor
    ends: Tensor
    strata: Tensor | None = None
    control: Tensor | None = None
    draws: Values | None = None

    @cached_property
    def columns(self) -> dict[str, Tensor]:
        """Columns of a result, each ``(n,)``, float64, on the CPU."""
        log_weights = self.log_weights
        if self.control is not None and self.strata is not None:
            log_px, error = controlled(log_weights, self.control, self.strata)
            corrected = log_px + error.square() / 2
        else:
            log_px = log_mean_exp(log_weights)
            error = standard_error(log_weights, strata=self.strata)
            corrected = jackknife(log_weights, strata=self.strata)
        columns = {
            "log_px": log_px,
            "standard_error": error,
            "ess": effective_sample_size(log_weights),
            "pareto_k": pareto_k_of_mixture(log_weights, self.fitted.share),
            "jackknife": corrected,
            "elbo": self.elbo,
            "draws": torch.full_like(log_weights[0], len(log_weights)),
            "rung": torch.full_like(log_weights[0], self.rung),
            "edge": self.edge,
        }
        table = torch.stack([*columns.values()]).cpu()  # one copy, for which the host waits
        return dict(zip(columns, table, strict=True))

    def hopeless(self) -> Tensor:
        """Which weights have no mean to trust at any number of draws, ``(n,)``, on the CPU.

        To climb on where few draws are merely in doubt would keep those data that were lucky.
        """
        return (self.columns["pareto_k"] > _HOPELESS) | doubts_of(self.columns)["one weight"]

    def doubtful(self) -> Tensor:
        """Which estimates are to doubt, ``(n,)``, on the CPU."""
        return torch.stack([*doubts_of(self.columns).values()]).any(0)

    def select(self, chosen: Tensor) -> Weighed:
        """Return some of the data, by a mask on the CPU."""
        rows = sent(chosen.nonzero().flatten(), self.log_weights.device)
        return Weighed(
            self.rung,
            self.fitted.select(chosen),
            self.log_weights[:, rows],
            self.elbo[rows],
            self.edge[rows],
            self.ends[:, rows],
            self.strata,
            None if self.control is None else self.control[:, rows],
            None if self.draws is None else rows_of(self.draws, rows, self.fitted.pair.data_axis),
        )


@dataclass(frozen=True)
class Drawn:
    """Draws of a proposal mixed with the prior.

    Attributes:
        log_weights: shape ``(K, n)``, float64.
        elbo: mean of log p(x, z) - log q(z) over the draws of the proposal q, ``(n,)``.
        edge: share of the weight on draws at the edge of a latent's support, ``(n,)``.
        strata: True for draws of the prior, ``(K,)``; none if it has no share.
        control: control variate of the mixture, ``(K, n)``; none likewise.
        posterior: draws of the posterior, resampled by the weights; none unless asked for.
    """

    log_weights: Tensor
    elbo: Tensor
    edge: Tensor
    strata: Tensor | None
    control: Tensor | None
    posterior: Values | None = None


def draw(
    fitted: Fitted, samples: int, chunk: int, stream: str, key: tuple[int, ...], *, keep: int = 0
) -> Drawn:
    """Weigh draws from a proposal.

    Draws from the prior are spread evenly over the others, and every draw is weighted by the
    mixture of both (Owen and Zhou, 2000, https://doi.org/10.1080/01621459.2000.10473909). Where the
    guide does not tell its density at draws that are not its own, each draw is weighted by what it
    was drawn from, which is unbiased, too, but bounds no weight.

    So many draws as ``keep`` are resampled by their weights. They are drawn again by their seeds,
    so that those of one part are in memory at a time.
    """
    pair, batch = fitted.pair, fitted.batch
    proposal: Proposal = fitted.proposal or GuideProposal(pair, batch)
    share = fitted.share
    defensive = min(max(1, round(samples * share)), samples - 1) if share else 0
    device = batch[0].device
    log_weights = torch.empty(samples, len(batch[0]), dtype=torch.float64, device=device)
    edges = Edges.of(pair, batch)
    on_edge = torch.zeros_like(log_weights, dtype=torch.bool) if edges.bounds else None
    of_prior = torch.zeros(samples, dtype=torch.bool)
    mix = bool(defensive) and (fitted.mixes or fitted.proposal is not None)
    control = torch.zeros_like(log_weights) if mix else None
    elbo = torch.zeros_like(log_weights[0])
    size = draws_for(device, len(batch[0]))

    def part(begin: int) -> tuple[Values, Tensor]:
        end = min(begin + size, samples)
        from_prior = end * defensive // samples - begin * defensive // samples
        with seeded(stream, *key, begin):
            if not from_prior:
                return proposal.draw(end - begin)
            prior, log_q = pair.propose_prior(batch, from_prior)
            log_q = proposal.log_density(prior) if mix else log_q
            if from_prior == end - begin:
                return prior, log_q
            values, log_density = proposal.draw(end - begin - from_prior)
        both = {name: torch.cat([prior[name], value]) for name, value in values.items()}
        return both, torch.cat([log_q, log_density])

    finite = torch.ones((), dtype=torch.bool, device=device)
    for begin in range(0, samples, size):
        values, log_q = part(begin)
        end = begin + len(log_q)
        from_prior = end * defensive // samples - begin * defensive // samples
        of_prior[begin : begin + from_prior] = True
        finite = finite & (log_q < torch.inf).all()
        hits = edges.hit(values)
        if on_edge is not None and hits is not None:
            on_edge[begin : begin + len(log_q)] = hits
        if not begin:
            coarse = _is_coarse({k: v[from_prior:] for k, v in values.items()}, pair.data_axis)
        for a in range(0, len(log_q), chunk):
            piece = {name: value[a : a + chunk] for name, value in values.items()}
            log_prior, log_p = pair.log_terms(batch, piece)
            log_density = log_q[a : a + chunk]
            mixed = with_prior(log_density, log_prior, defensive / samples if mix else 0.0)
            place = slice(begin + a, begin + a + len(log_p))
            log_weights[place] = log_p - mixed
            if control is not None:
                control[place] = (log_density - mixed).exp()
            elbo += (log_p - log_density)[max(from_prior - a, 0) :].sum(0)
        part_done(end / samples, len(batch[0]), "data")
    if not (finite & (log_weights < torch.inf).all()):
        for begin in range(0, samples, size):  # find the draw, the site and the data
            values, log_q = part(begin)
            try:
                pair.check_finite(batch, values, log_q, log_weights[begin : begin + size])
            except NonFiniteDensity as error:
                rows = fitted.index[error.rows].tolist()
                raise NonFiniteDensity(error.site, error.role, rows) from None
    posterior = None
    if keep:
        with seeded("resample", *key):
            which = resampled(log_weights, keep)
        parts = ((begin, part(begin)[0]) for begin in range(0, samples, size))
        posterior = picked(parts, which, pair.data_axis)
    return Drawn(
        log_weights,
        elbo / (samples - defensive),
        edge_share(log_weights, on_edge).masked_fill(coarse, 1.0),
        of_prior if defensive else None,
        control,
        posterior,
    )


def seconds_for(pair: Pair, batch: Batch, samples: int, chunk: int) -> float:
    """Estimate how long so many draws of the guide take to weigh, from the speed of a few."""
    few = min(samples, _TIMED)
    fitted = Fitted(pair, batch, torch.arange(len(batch[0])))
    for number in (min(chunk, few), few):  # the first warms up
        started = time.perf_counter()
        draw(fitted, number, chunk, "time", (0,))
        spent = time.perf_counter() - started
    return spent * samples / few


def _is_coarse(values: Values, data_axis: int) -> Tensor:
    """Data of which a latent varies by less than a hundred floating-point numbers, ``(n,)``."""
    found = []
    for value in (value for value in values.values() if value.is_floating_point()):
        value = value.movedim(data_axis, 1).reshape(len(value), value.shape[data_axis], -1)
        spread = value.double().std(0, unbiased=False)
        size = value.double().abs().mean(0)
        few = (spread > 0) & (spread < 100 * torch.finfo(value.dtype).eps * size)
        found.append(few.any(-1))
    if not found:
        value = next(iter(values.values()))
        return torch.zeros(value.shape[data_axis], dtype=torch.bool, device=value.device)
    return torch.stack(found).any(0)


def shared(fitted: Fitted, key: tuple[int, ...]) -> Fitted:
    """Give the prior the share that suits the data.

    The one for which the mixture c p(z) + (1 - c) q(z) is nearest to the posterior, in the
    divergence KL(p(z|x) || mixture), by expectation maximization over a few draws of both.
    """
    if fitted.proposal is None:
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
        share = (weights * log_odds.sigmoid()).sum(0).nan_to_num(PRIOR_SHARE)
    return replace(fitted, share=share.mean().clamp(PRIOR_SHARE, _MOST_PRIOR).item())


def knows_density(pair: Pair, batch: Batch) -> bool:
    """Whether the guide tells the density of draws that are not its own."""
    try:
        with seeded("probe", 0):
            values, _ = pair.propose_prior(batch, 1)
            pair.log_guide(batch, values)
    except Exception:  # the user's program, run in a way that it need not support
        return False
    return True


def pareto_k_of_mixture(log_weights: Tensor, prior_share: float) -> Tensor:
    """Pareto k̂; of proposals mixed with the prior the lesser of the tail's and its far end's.

    A share of prior draws bounds the weights. Those near the bound make a tail look heavy that
    begins below them, but not its far end.
    """
    k = pareto_k(log_weights)
    if not prior_share:
        return k
    far = pareto_k(log_weights, tail=_FAR)
    return torch.where(far.isnan(), k, k.minimum(far))


def with_prior(log_q: Tensor, log_prior: Tensor, share: float) -> Tensor:
    """Log density of a proposal mixed with a share of the prior."""
    if not share:
        return log_q
    return torch.logaddexp(log_q + math.log1p(-share), log_prior + math.log(share))


def edge_share(log_weights: Tensor, on_edge: Tensor | None) -> Tensor:
    """Share of the weight that lies on marked draws, ``(n,)``."""
    if on_edge is None:
        return torch.zeros_like(log_weights[0])
    marked = log_weights.masked_fill(~on_edge, -math.inf).logsumexp(0)
    return (marked - log_weights.logsumexp(0)).exp().nan_to_num(0.0)
