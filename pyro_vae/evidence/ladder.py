"""The ladder of proposals: from the guide to annealing, climbed per datum by k̂ and ESS."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..common.options import Method
from ..common.seeding import seeded
from ..programs.pair import Batch, Program
from .annealing import Annealing, anneal, tune
from .diagnostics import effective_sample_size, pareto_k
from .proposals import GuideProposal, Mixture, NormalProposal, PriorProposal, Proposal
from .refinement import laplace, moments_of_guide, moments_of_prior, refine
from .result import METHODS
from .space import Space

__all__ = ["METHODS", "Ladder", "Weighed"]


_LEAST_SAMPLES = 64
_SAFETY = 1.5  # a pilot underrates heavy tails
_SAMPLE_BLOCK = {"cpu": 64, "cuda": 1024}

# Largest k̂ and smallest share of effective samples of a pilot that let a datum stay on a rung.
# From "refined" to "laplace" is one cheap step that gains a lot, so no datum stays on the former.
_GOOD = {"guide": (0.5, 0.2), "laplace": (0.7, 0.01)}


@dataclass(frozen=True)
class Weighed:
    """Log weights of some data of a block.

    Attributes:
        rung: number of the proposal in ``METHODS``.
        index: positions of the data in the block, ``(n,)``.
        log_weights: shape ``(K, n)``, float64.
        elbo: ELBO of the proposal, or of the guide where the ladder was climbed from it, ``(n,)``.
    """

    rung: int
    index: Tensor
    log_weights: Tensor
    elbo: Tensor


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

    def weigh(self, program: Program, batch: Batch, key: tuple[int, ...]) -> Iterator[Weighed]:
        """Yield the log weights of a block of data, rung by rung; every datum once.

        Args:
            program: the programs.
            batch: N data.
            key: seeds of the block.

        Raises:
            ValueError: a method other than ``"guide"`` with discrete latents.
        """
        stand = _Stand(program, batch, torch.arange(len(batch[0]), device=batch[0].device))
        for rung, name in enumerate(METHODS):
            stand = self._fit(rung, stand, key)
            if name in (self.method, METHODS[-1]):
                here = torch.ones_like(stand.index, dtype=torch.bool)
            elif self.method == "auto" and name in _GOOD:
                pilot = self._draw(stand, self.pilot, "pilot", (*key, rung))
                here = self._will_do(name, pilot)
                stand = stand if rung else replace(stand, elbo=pilot.mean(0))
            else:
                continue
            if here.any():
                reached = stand.select(here)
                for samples, some in self._sizes(rung, reached, key):
                    part = reached.select(some)
                    log_weights = self._estimate(rung, part, samples, key)
                    elbo = log_weights.mean(0) if part.elbo is None else part.elbo
                    yield Weighed(rung, part.index, log_weights, elbo)
            if here.all():
                return
            stand = stand.select(~here)

    def _fit(self, rung: int, stand: _Stand, key: tuple[int, ...]) -> _Stand:
        """Fit the rung's proposal to each datum, from that of the rung below."""
        name = METHODS[rung]
        if name == "refined":
            space = Space.of(stand.program, stand.batch)
            with seeded("fit proposal", *key):
                start = moments_of_guide(space, stand.batch)
                return replace(stand, normal=refine(space, stand.batch, start))
        if name == "laplace" and stand.normal is not None:
            normal = laplace(stand.normal.space, stand.batch, stand.normal)
            return replace(stand, normal=replace(normal, tril=normal.tril * self.inflation))
        return stand

    def _will_do(self, name: str, log_weights: Tensor) -> Tensor:
        """Which data a pilot finds the proposal good enough for."""
        most_k, least_share = _GOOD[name]
        k = pareto_k(log_weights)
        enough = effective_sample_size(log_weights) >= least_share * self.pilot
        return (k.isnan() | (k <= most_k)) & enough

    def _sizes(
        self, rung: int, stand: _Stand, key: tuple[int, ...]
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield numbers of draws, with the data that take so many.

        With cv_n the coefficient of variation of the weights, the errors are cv_n / sqrt(K_n); the
        least total under a bound on their mean square has K_n proportional to cv_n (Neyman).
        """
        if METHODS[rung] == "annealed" or (self.mean_error is None and self.datum_error is None):
            yield self.samples, torch.ones_like(stand.index, dtype=torch.bool)
            return
        pilot = self._draw(stand, self.pilot, "allocate", (*key, rung))
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

    def _estimate(self, rung: int, stand: _Stand, samples: int, key: tuple[int, ...]) -> Tensor:
        """Log weights from fresh draws."""
        if METHODS[rung] != "annealed" or stand.normal is None:
            return self._draw(stand, samples, "evidence", (*key, samples))
        normal = stand.normal
        if self.annealing.start != "laplace":
            moments = {"guide": moments_of_guide, "prior": moments_of_prior}[self.annealing.start]
            with seeded("moments", *key):
                normal = moments(normal.space, stand.batch)
        with seeded("tune", *key):
            moves = tune(normal.space, stand.batch, normal, self.annealing)
        with seeded("anneal", *key):
            return anneal(normal.space, stand.batch, normal, self.annealing, moves)

    def _draw(
        self,
        stand: _Stand,
        samples: int,
        stream: str,
        key: tuple[int, ...],
        *,
        check: bool = False,
    ) -> Tensor:
        """Log weights of draws from a proposal, ``(samples, n)``, float64."""
        program, batch = stand.program, stand.batch
        proposal: Proposal = stand.normal or GuideProposal(program, batch)
        if self.defensive:
            prior = PriorProposal(program, batch)
            proposal = Mixture([prior, proposal], [self.defensive, 1 - self.defensive])
        device = batch[0].device
        log_weights = torch.empty(samples, len(batch[0]), dtype=torch.float64, device=device)
        size = _SAMPLE_BLOCK.get(device.type, 64)
        for begin in range(0, samples, size):
            count = min(size, samples - begin)
            with seeded(stream, *key, begin):
                values, log_q = proposal.draw(count)
            for a in range(0, count, self.chunk):
                piece = {name: value[a : a + self.chunk] for name, value in values.items()}
                log_p = program.log_joint(batch, piece, check=check)
                log_weights[begin + a : begin + a + len(log_p)] = log_p - log_q[a : a + self.chunk]
        if check or (log_weights < torch.inf).all():
            return log_weights
        return self._draw(stand, samples, stream, key, check=True)  # names the site and the data


@dataclass(frozen=True)
class _Stand:
    """Data on one rung, with the proposal fitted to each (none: the guide)."""

    program: Program
    batch: Batch
    index: Tensor
    normal: NormalProposal | None = None
    elbo: Tensor | None = None

    def select(self, here: Tensor) -> _Stand:
        """Return some of the data."""
        normal = self.normal
        if normal is not None:
            normal = replace(normal, mean=normal.mean[here], tril=normal.tril[here])
        batch = tuple(argument[here] for argument in self.batch)
        elbo = None if self.elbo is None else self.elbo[here]
        return _Stand(self.program, batch, self.index[here], normal, elbo)
