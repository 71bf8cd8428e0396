"""The ladder of proposals: from the guide to annealing, climbed per datum by k̂ and ESS."""

from __future__ import annotations

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
from .diagnostics import effective_sample_size, pareto_k
from .proposals import GuideProposal, Mixture, NormalProposal, PriorProposal, Proposal
from .refinement import laplace, moments_of_guide, moments_of_prior, refine
from .result import METHODS
from .space import Space

__all__ = ["METHODS", "Fitted", "Ladder", "Weighed"]


_LEAST_SAMPLES = 64
_SAFETY = 1.5  # a pilot underrates heavy tails
_SAMPLE_BLOCK = {"cpu": 64, "cuda": 1024}

# Largest k̂ and smallest share of effective samples of a pilot that let a datum stay on a rung.
# From "refined" to "laplace" is one cheap step that gains a lot, so no datum stays on the former.
_GOOD = {"guide": (0.5, 0.2), "laplace": (0.7, 0.01)}


@dataclass(frozen=True)
class Fitted:
    """Data on one rung, with the proposal fitted to each (none: the guide).

    Attributes:
        pair: the programs.
        batch: the data.
        index: their positions in the block, ``(n,)``.
        normal: the proposal.
        elbo: ELBO of the guide, where the ladder was climbed from it, ``(n,)``.
    """

    pair: Pair
    batch: Batch
    index: Tensor
    normal: NormalProposal | None = None
    elbo: Tensor | None = None

    def select(self, chosen: Tensor) -> Fitted:
        """Return some of the data."""
        normal = self.normal
        if normal is not None:
            normal = replace(normal, mean=normal.mean[chosen], tril=normal.tril[chosen])
        batch = tuple(argument[chosen] for argument in self.batch)
        elbo = None if self.elbo is None else self.elbo[chosen]
        return Fitted(self.pair, batch, self.index[chosen], normal, elbo)


@dataclass(frozen=True)
class Weighed:
    """Log weights of some data of a block.

    Attributes:
        rung: number of the proposal in ``METHODS``.
        fitted: the data and their proposal.
        log_weights: shape ``(K, n)``, float64.
    """

    rung: int
    fitted: Fitted
    log_weights: Tensor

    @property
    def elbo(self) -> Tensor:
        """ELBO of the guide, where the ladder was climbed from it, or of the proposal, ``(n,)``."""
        return self.log_weights.mean(0) if self.fitted.elbo is None else self.fitted.elbo


@dataclass(frozen=True)
class Ladder:
    """How log weights are made.

    Attributes:
        method: a rung by name, or ``"auto"``.
        samples: draws of each datum's final estimate (the chains are those of ``annealing``).
        chunk: samples that go through the programs at once.
        defensive: share of draws from the prior, mixed into the proposal.
        annealing: settings of the last rung.
        pilot: draws that decide whether a proposal will do.
        mean_error: Monte-Carlo error that every datum's estimate may have on (quadratic) average,
            in nats; decides the number of draws of each datum instead of ``samples``.
        datum_error: the same for each datum by itself.
        max_samples: most draws of a datum.
        inflation: factor on the Laplace approximation's scale.
    """

    method: Method = "guide"
    samples: int = 1000
    chunk: int = 32
    defensive: float = 0.0
    annealing: Annealing = field(default_factory=Annealing)
    pilot: int = 500
    inflation: float = 1.1
    mean_error: float | None = None
    datum_error: float | None = None
    max_samples: int = 100_000

    def __post_init__(self) -> None:
        for name in ("samples", "chunk", "max_samples"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be at least 1, a whole number; got {value!r}.")
        if not 0 <= self.defensive < 1:
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
        for rung, name in enumerate(METHODS):
            fitted = self._fit(rung, fitted, key)
            if name in (self.method, METHODS[-1]):
                stay = torch.ones_like(fitted.index, dtype=torch.bool)
            elif self.method == "auto" and name in _GOOD:
                pilot = self._draw(fitted, self.pilot, "pilot", (*key, rung))
                stay = self._will_do(name, pilot)
                fitted = fitted if rung else replace(fitted, elbo=pilot.mean(0))
            else:
                continue
            if stay.any():
                reached = fitted.select(stay)
                for samples, chosen in self._sizes(rung, reached, key):
                    part = reached.select(chosen)
                    yield Weighed(rung, part, self._estimate(rung, part, samples, key))
            if stay.all():
                return
            fitted = fitted.select(~stay)

    def again(self, weighed: Weighed, pair: Pair, key: tuple[int, ...]) -> Tensor:
        """Return log weights of the same draws under the same programs in another precision."""
        fitted = replace(weighed.fitted, pair=pair)
        return self._estimate(weighed.rung, fitted, len(weighed.log_weights), key)

    def _fit(self, rung: int, fitted: Fitted, key: tuple[int, ...]) -> Fitted:
        """Fit the rung's proposal to each datum, from that of the rung below."""
        name = METHODS[rung]
        if name == "refined":
            space = Space.of(fitted.pair, fitted.batch)
            with seeded("fit proposal", *key):
                start = moments_of_guide(space, fitted.batch)
                return replace(fitted, normal=refine(space, fitted.batch, start))
        if name == "laplace" and fitted.normal is not None:
            normal = laplace(fitted.normal.space, fitted.batch, fitted.normal)
            return replace(fitted, normal=replace(normal, tril=normal.tril * self.inflation))
        return fitted

    def _will_do(self, name: str, log_weights: Tensor) -> Tensor:
        """Which data a pilot finds the proposal good enough for."""
        most_k, least_share = _GOOD[name]
        k = pareto_k(log_weights)
        enough = effective_sample_size(log_weights) >= least_share * self.pilot
        return (k.isnan() | (k <= most_k)) & enough

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
        pilot = self._draw(fitted, self.pilot, "allocate", (*key, rung))
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

    def _estimate(self, rung: int, fitted: Fitted, samples: int, key: tuple[int, ...]) -> Tensor:
        """Log weights from fresh draws."""
        if METHODS[rung] != "annealed" or fitted.normal is None:
            return self._draw(fitted, samples, "evidence", (*key, samples))
        space = replace(fitted.normal.space, pair=fitted.pair)
        normal = replace(fitted.normal, space=space)
        if self.annealing.start != "laplace":
            moments = {"guide": moments_of_guide, "prior": moments_of_prior}[self.annealing.start]
            with seeded("moments", *key):
                normal = moments(space, fitted.batch)
        with seeded("tune", *key):
            moves = tune(space, fitted.batch, normal, self.annealing)
        with seeded("anneal", *key):
            return anneal(space, fitted.batch, normal, self.annealing, moves)

    def _draw(self, fitted: Fitted, samples: int, stream: str, key: tuple[int, ...]) -> Tensor:
        """Log weights of draws from a proposal, ``(samples, n)``, float64."""
        pair, batch = fitted.pair, fitted.batch
        proposal: Proposal = fitted.normal or GuideProposal(pair, batch)
        if self.defensive:
            prior = PriorProposal(pair, batch)
            proposal = Mixture([prior, proposal], [self.defensive, 1 - self.defensive])
        device = batch[0].device
        log_weights = torch.empty(samples, len(batch[0]), dtype=torch.float64, device=device)
        size = _SAMPLE_BLOCK.get(device.type, 64)

        def draw(begin: int) -> tuple[Values, Tensor]:
            with seeded(stream, *key, begin):
                return proposal.draw(min(size, samples - begin))

        finite = torch.ones((), dtype=torch.bool, device=device)
        for begin in range(0, samples, size):
            values, log_q = draw(begin)
            finite = finite & (log_q < torch.inf).all()
            for a in range(0, len(log_q), self.chunk):
                piece = {name: value[a : a + self.chunk] for name, value in values.items()}
                log_p = pair.log_joint(batch, piece)
                log_weights[begin + a : begin + a + len(log_p)] = log_p - log_q[a : a + self.chunk]
        if not (finite & (log_weights < torch.inf).all()):
            for begin in range(0, samples, size):  # find the draw, the site and the data
                values, log_q = draw(begin)
                try:
                    pair.check_finite(batch, values, log_q, log_weights[begin : begin + size])
                except NonFiniteDensity as error:
                    rows = fitted.index[error.rows].tolist()
                    raise NonFiniteDensity(error.site, error.role, rows) from None
        return log_weights
