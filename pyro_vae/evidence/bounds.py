"""Bounds of log p(x) from both sides, on data simulated from the model: what settings achieve."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from scipy import stats
from torch import Tensor

from ..common.options import Method
from ..common.seeding import seeded
from ..common.verbs import verb
from ..data import AnyData
from ..programs.arguments import bound
from ..programs.evaluation import Block, evaluating
from ..programs.layout import NONE
from ..programs.masks import fill
from ..programs.pair import Values
from ..programs.simulation import is_fixed, revealed
from ..programs.traces import Batch, Fn
from .annealing import Annealing, anneal, anneal_reverse, tune
from .diagnostics import error_of_mean, log_mean_exp, standard_error
from .importance import estimate, warn_if_unreliable
from .ladder import Ladder
from .proposals import NormalProposal
from .refinement import fitted_from, laplace, moments_of_guide, moments_of_prior
from .result import Evidence
from .space import Space, made_fit

__all__ = ["Certificate", "certify"]

_DATA, _DATA_SETS = 100, 8

_NO_DISCRETE = "certify follows slopes, whatever the method, so"
_MARGIN = 3.0  # standard errors
_SURE = 0.975  # to one side


@dataclass(frozen=True, eq=False)
class Certificate:
    """How near settings come to log p(x), on data simulated from the model, in nats.

    Attributes:
        lower: stochastic lower bound of each simulated datum, ``(N,)``: forward annealing.
        upper: stochastic upper bound, ``(N,)``: annealing in reverse from the exact posterior draw.
        lower_error: standard error of ``lower``.
        upper_error: standard error of ``upper``.
        evidence: ``log_evidence`` of the simulated data under the settings certified.
        annealing: settings of the bounds.
    """

    lower: Tensor
    upper: Tensor
    lower_error: Tensor
    upper_error: Tensor
    evidence: Evidence
    annealing: Annealing

    def __len__(self) -> int:
        return len(self.lower)

    @property
    def gap(self) -> tuple[float, float]:
        """Mean of ``upper - lower`` and its standard error: what the bounds leave open."""
        return _mean(self.upper - self.lower)

    @property
    def shortfall(self) -> tuple[float, float]:
        """Mean of ``upper - estimate`` and its standard error: how low estimates are at most."""
        return _mean(self.upper - self.evidence.corrected())

    @property
    def excess(self) -> tuple[float, float]:
        """Mean of ``estimate - lower`` and its standard error: how high estimates are at most."""
        return _mean(self.evidence.corrected() - self.lower)

    @property
    def within(self) -> float:
        """How far the mean estimate is from that of log p(x) at most, at 95 % to either side."""
        errors = stats.t.ppf(_SURE, len(self) - 1) if len(self) > 1 else math.nan
        return max(mean + errors * error for mean, error in (self.shortfall, self.excess))

    def summary(self) -> dict[str, Any]:
        """Return the figures that the certificate states, and its settings, as plain values."""
        gap, shortfall, excess = self.gap, self.shortfall, self.excess
        return {
            "number": len(self),
            "lower": self.lower.mean().item(),
            "upper": self.upper.mean().item(),
            "gap": gap[0],
            "gap_error": gap[1],
            "log_px": self.evidence.mean().value,
            "shortfall": shortfall[0],
            "shortfall_error": shortfall[1],
            "excess": excess[0],
            "excess_error": excess[1],
            "within": self.within,
            "method": self.evidence.method,
            "samples": self.evidence.samples,
            "temperatures": self.annealing.temperatures,
            "chains": self.annealing.chains,
            "seed": self.evidence.seed,
        }

    def interval(self) -> tuple[Tensor, Tensor]:
        """Bounds of each datum with a margin of three standard errors for their own noise."""
        lower = self.lower - _MARGIN * self.lower_error
        return lower, self.upper + _MARGIN * self.upper_error

    def __str__(self) -> str:
        gap = self.gap
        a = self.annealing
        return (
            f"{len(self)} data simulated from the model: log p(x) is bounded by "
            f"{self.lower.mean():.3f} from below and {self.upper.mean():.3f} from above on "
            f"average, a gap of {gap[0]:.3f} ± {gap[1]:.3f} nats\n"
            f"(bidirectional annealing, {a.temperatures} temperatures, {a.chains} chains). "
            f"log_evidence(method={self.evidence.method!r}, samples={self.evidence.samples}) gives "
            f"{self.evidence.mean().value:.3f}:\n"
            "with these settings, on this model's own data, the mean is within "
            f"{self.within:.3f} nats of log p(x), at 95 %."
        )


@verb
def certify(
    model: Fn,
    guide: Fn,
    x: AnyData,
    *,
    number: int | None = None,
    samples: int = 1000,
    method: Method = "auto",
    annealing: Annealing | None = None,
    mask: Tensor | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Certificate:
    r"""Bound log p(x) from both sides on the model's own data, and hold an estimate against it.

    Latents and data are simulated from the model, so that an exact draw of each posterior is known.
    Annealed importance sampling bounds log p(x) from below and, run in reverse from that draw, from
    above (both in expectation; :math:`P(L > \log p + b) \le e^{-b}`, likewise above). Their gap
    certifies the settings; the distance of ``log_evidence`` from the upper bound certifies it. What
    holds on simulated data carries over to real ones as far as the model fits them.

    Observations that are no arguments (data in a closure, under ``poutine.condition``) are replaced
    inside the model. A guide that does not look at the simulated data (an automatic one, with
    parameters for each of the given data) is left out: proposals are then fitted from the prior,
    which certifies no more than they reach from there. Where no latent is left, log p(x) is exact.

    Args:
        model: Pyro program whose observed sites take arguments as they are (``obs=x``), or values
            that the guide does not see.
        guide: Pyro program.
        x: data, as for ``log_evidence``; only their number and shape are used, and the values of
            arguments that are not observed (conditions).
        number: data to simulate, by default 100, or 8 whole data sets where latents belong to all
            the data; arguments are repeated if there are fewer.
        samples: importance samples of the estimate to certify.
        method: its proposal.
        annealing: settings of the bounds.
        mask: True where a value is observed, as for ``log_evidence``: bounds of log p(x_obs).
        seed: seed of the simulation and all draws.
        progress: show a progress bar; by default if the output is a terminal.

    Raises:
        ValueError: discrete latents that cannot be summed out; a likelihood without slopes;
            observations that depend on others which the model reads from its arguments;
            ``method="guide"`` with a guide that does not look at simulated data.

    References:
        Grosse et al. (2015). https://arxiv.org/abs/1511.02543
        Wu et al. (2017). https://arxiv.org/abs/1611.04273
    """
    if number is not None and number < 1:
        raise ValueError(f"number of data to simulate must be at least 1; got {number}.")
    settings = annealing or Annealing()
    simulated: list[Batch] = []
    drawn: list[Values] = []
    x, (model, guide) = bound(x, model, guide)
    with evaluating(model, guide, x, mask=mask, checked=False, narrow=True) as evaluation:
        rows = evaluation.rows
        if number is None:
            number = _DATA_SETS if evaluation.data_set else _DATA
        number += -number % (evaluation.pair.fixed_rows or 1)
        index = torch.arange(number) % len(evaluation)
        (given,) = evaluation.source.select(torch.arange(min(number, len(evaluation))), number)
        template = tuple(a[index.to(a.device)].to(evaluation.device) for a in given)
        pair, seen, aware = evaluation.pair, None, evaluation.amortized
        if mask is not None:  # data are simulated as a whole, and bounded as far as observed
            *plain, seen = template
            template = tuple(plain)
            pair = type(pair).inspect(model, guide, tuple(a[:rows] for a in template))
        for first in range(0, number, rows):
            part = tuple(argument[first : first + rows] for argument in template)
            whole, sees = pair, True
            if mask is None:
                whole, part, sees = revealed(pair, part)
            with seeded("simulate", seed, first):
                batch, values = whole.simulate(part)
            aware = aware and sees
            aware = aware and not (evaluation.data_set and is_fixed(whole, part, batch))
            simulated.append(batch)
            drawn.append(values)
        if mask is None:
            evaluation = replace(evaluation, pair=whole)
        if not aware:
            if method == "guide":
                evaluation.refuse_fixed("certify")
            evaluation = replace(evaluation, pair=replace(evaluation.pair, blind=True))
        data = tuple(torch.cat(parts) for parts in zip(*simulated, strict=True))
        evaluation = evaluation.on(data if seen is None else fill(data, seen))
        bounded = made_fit(evaluation, exact=True)

        def work(block: Block) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            space = Space.of(bounded.pair, block.batch, cure=_NO_DISCRETE)
            u = space.vector(drawn[block.first // rows])[0]
            space.check_slopes(block.batch, u, cure="both bounds follow its slopes")
            # the guide of a whole data set is mostly made for the given one
            start = moments_of_prior if evaluation.data_set else moments_of_guide
            return _both_bounds(space, block.batch, u, start, settings, (seed, block.first))

        ladder = Ladder(method=method, samples=samples, annealing=settings)
        if NONE in bounded.pair.latents:  # every weight is p(x)
            value = estimate(bounded, Ladder(samples=2), search=False, progress=False)[0].log_px
            zero = torch.zeros_like(value)
            parts = [(value, zero, value, zero)]
        else:
            parts = bounded.map(work, rows=rows, desc="bounds", progress=progress)
        evidence, _ = estimate(
            evaluation, ladder, search=not evaluation.data_set, seed=seed, progress=progress
        )
        lower, lower_error, upper, upper_error = (torch.cat(c) for c in zip(*parts, strict=True))
    warn_if_unreliable(evidence)
    return Certificate(lower, upper, lower_error, upper_error, evidence, settings)


def _both_bounds(
    space: Space,
    batch: Batch,
    u: Tensor,
    start: Callable[[Space, Batch], NormalProposal],
    settings: Annealing,
    key: tuple[int, int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Lower bound, its error, upper bound, its error, each ``(n,)``, on the CPU."""
    with seeded("bounds: fit", *key):
        base = laplace(space, batch, fitted_from(space, batch, start(space, batch)))
        moves = tune(space, batch, base, settings)
    with seeded("bounds: forward", *key):
        forward = anneal(space, batch, base, settings, moves).log_weights.cpu()
    with seeded("bounds: reverse", *key):
        backward = -anneal_reverse(space, batch, base, settings, moves, u).cpu()
    return (
        log_mean_exp(forward),
        standard_error(forward),
        -log_mean_exp(backward),
        standard_error(backward),
    )


def _mean(values: Tensor) -> tuple[float, float]:
    return values.mean().item(), error_of_mean(values)
