"""A search for posterior mass that a proposal misses, which its own weights cannot show."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from ..common.devices import sent
from ..common.seeding import seeded
from ..programs.discrete import are_given
from ..programs.evaluation import Evaluation
from ..programs.pair import Values, pad
from ..programs.simulation import is_fixed
from ..programs.traces import Batch
from .annealing import Annealing, anneal
from .diagnostics import log_mean_exp
from .ladder import Ladder
from .refinement import moments_of_prior
from .result import METHODS, Search
from .space import Space
from .weighing import Weighed

__all__ = ["search"]

_SIMULATED, _ANNEALED = 16, 12  # data looked at, at least
_SIMULATED_SETS = 4  # where a data set is one datum
_MOST_DATA = 64  # at once
_SHARE = 0.1  # of all evaluations of log p(x, z)
_STEPS = 15  # evaluations of log p(x, z) that a move takes, in time
_MARGIN = 6.0  # nats above the largest log weight of all draws
_LEAST_MISSED = 0.02  # of p(x)
_HEAVY = 0.1  # of the sum of the weights of all draws
_AGREEING, _ERRORS = 3, 3.0  # chains that end there; errors of the estimate that they would add
_MOST_SAMPLES = 1000
_ANNEALING = Annealing(temperatures=60, chains=16)
_OF_DATA_SET = Annealing(temperatures=120, chains=64)


def search(evaluation: Evaluation, ladder: Ladder, seed: int) -> Search:
    r"""Look for posterior mass that the proposals of a ladder miss.

    A draw of the posterior that knows nothing of the proposal q should be an ordinary draw of q,
    too. It is a miss where :math:`p(x, z) / q(z)` is more than :math:`e^6` times the largest of
    the proposal's own draws. Such draws are, on data simulated from the model, the latents that
    they were simulated from; on the given data, ends of chains annealed from the prior, whose
    weights w estimate how much mass is missed (but for a bias of steps that adapt as they go, which
    is nothing against what is looked for: two hundredths of p(x) and more):

    .. math:: E\Big[\frac{1}{C} \sum_c w_c \, 1[\text{miss}_c]\Big] = \int_{\text{miss}} p(x, z) dz

    so that chains which got stuck where there is little mass raise no alarm.

    Where three chains agree, less is a miss: each of their ends would have a tenth of the sum of
    all weights. For where none of K draws met a part s of the mass, a draw of it has some s K times
    the mean weight, which is far from :math:`e^6` times the largest if the draws are few, or if a
    defensive share of the prior is spread thinly over everything. (Annealed chains that missed a
    mode have no such weights; there it is a fifth of the mass beyond all of their ends.)

    Args:
        evaluation: programs and data; 16 simulated data are looked at, and so many of the given
            ones, between 12 and 64, as take a tenth of the whole work.
        ladder: how their log weights are made.
        seed: seed of the draws.

    Returns:
        What was found. A program that cannot be simulated, or whose latents cannot be annealed
        (discrete ones), is looked at in the other way only.

    References:
        Neal (2001). https://arxiv.org/abs/physics/9803008
        Talts et al. (2018), Validating Bayesian inference algorithms with simulation-based
        calibration. https://arxiv.org/abs/1804.06788
    """
    chains = _ANNEALING.chains * _ANNEALING.temperatures * _STEPS
    allowed = int(_SHARE * len(evaluation) * ladder.samples / chains)
    given = min(max(allowed, _ANNEALED), _MOST_DATA)
    few = replace(
        ladder, mean_error=None, datum_error=None, samples=min(ladder.samples, _MOST_SAMPLES)
    )
    found, reasons = Search(), []
    for look, number in ((_look_at_simulated, _SIMULATED), (_look_at_given, given)):
        try:
            found = look(found, evaluation, few, number, (seed, 0, 0, 0, 1))
        except Exception as error:  # the user's program, run in a way that it need not support
            reasons.append(str(error).split(". ")[0])
    return replace(found, skipped="; ".join(reasons))


def _look_at_simulated(
    found: Search, evaluation: Evaluation, ladder: Ladder, number: int, key: tuple[int, ...]
) -> Search:
    again = _SIMULATED_SETS if evaluation.data_set else 0
    template = _some(evaluation, number, key, again=again)
    if are_given(evaluation.pair, template):
        raise ValueError("discrete latents of some data are given, and simulated data have others")
    with seeded("search: simulate", *key):
        batch, values = evaluation.pair.simulate(template)
    fixed = evaluation.data_set or evaluation.pair.fixed_rows or not evaluation.amortized
    if fixed and is_fixed(evaluation.pair, template, batch):
        raise ValueError("the guide does not look at the data")
    count = missed = 0
    for weighed in ladder.weigh(evaluation.pair, batch, key):
        trusted = ~weighed.doubtful()
        misses = _misses(ladder, weighed, _select(evaluation, values, weighed))[0].cpu()
        count += int(trusted.sum())
        missed += int((misses & trusted).sum())
    shortfall = -math.log1p(-missed / count) if 0 < missed < count else 0.0
    return replace(found, simulated=count, simulated_missed=missed, shortfall=shortfall)


def _look_at_given(
    found: Search, evaluation: Evaluation, ladder: Ladder, number: int, key: tuple[int, ...]
) -> Search:
    if ladder.method == "annealed" and ladder.annealing.start == "prior":
        return found  # the same chains
    batch = _some(evaluation, number, key)
    if evaluation.data_set:
        key = key[:2]  # the estimate itself is looked at, not another one
    space = Space.of(evaluation.pair, batch)
    with seeded("search: anneal", *key):
        base = moments_of_prior(space, batch, samples=200)
        settings = _OF_DATA_SET if evaluation.data_set else _ANNEALING
        chains = anneal(space, batch, base, settings, None, prior_share=0.5, last_moves=2)
    values, _ = space.values(chains.ends)
    count, missed, shortfall = 0, 0, 0.0
    for weighed in ladder.weigh(evaluation.pair, batch, key):
        misses, heavy = _misses(ladder, weighed, _select(evaluation, values, weighed))
        rows = sent(weighed.fitted.index, chains.log_weights.device)
        log_weights = chains.log_weights[:, rows] - log_mean_exp(weighed.log_weights)
        alone, together = (
            log_mean_exp(log_weights.masked_fill(~which, -math.inf)).exp().cpu()
            for which in (misses, heavy & (heavy.sum(0) >= _AGREEING))
        )
        error = weighed.columns["standard_error"].nan_to_num(0.0)
        # few chains: the shares are mostly too low
        far = alone > error.clamp_min(_LEAST_MISSED)
        far |= together > (_ERRORS * error).clamp_min(_least_together(weighed, len(log_weights)))
        count += len(far)
        missed += int(far.sum())
        shortfall += torch.maximum(alone, together).log1p().where(far, 0.0).sum().item()
    return replace(
        found,
        annealed=count,
        annealed_missed=missed,
        shortfall=max(found.shortfall, shortfall / count),
    )


def _some(evaluation: Evaluation, number: int, key: tuple[int, ...], *, again: int = 0) -> Batch:
    """Data drawn at random, on the device."""
    with seeded("search: data", *key):
        index = torch.randperm(len(evaluation))[:number].sort().values
    (rows,) = evaluation.source.select(index, len(index))
    batch = tuple(sent(argument, evaluation.device) for argument in rows)
    if again:  # a data set of which there is one
        batch = tuple(argument.expand(again, *argument.shape[1:]) for argument in batch)
    return pad(batch, evaluation.pair.fixed_rows or 0)


def _select(evaluation: Evaluation, values: Values, weighed: Weighed) -> Values:
    """Latent values of the data that were weighed."""
    axis, index = evaluation.pair.data_axis, sent(weighed.fitted.index, evaluation.device)
    return {name: value.index_select(axis, index) for name, value in values.items()}


def _misses(ladder: Ladder, weighed: Weighed, values: Values) -> tuple[Tensor, Tensor]:
    """Which latents are far from every draw of the proposal, ``(S, n)``; which would decide."""
    ratio, own = ladder.ratio(weighed, values), weighed.ends
    most = own.amax(0)
    heavy = most if _ends_in_posterior(weighed) else own.logsumexp(0) + math.log(_HEAVY)
    return ratio > most + _MARGIN, ratio > torch.maximum(most, heavy)


def _least_together(weighed: Weighed, chains: int) -> float:
    """The least share of p(x) that is none of chance where several chains agree.

    Of draws of the posterior, such as the ends of annealed chains, a fifth of 64 lies beyond the
    largest of as many others next to never; of 16 it does at one datum of a hundred.
    """
    if not _ends_in_posterior(weighed):
        return _LEAST_MISSED
    return 0.2 if chains >= _OF_DATA_SET.chains else math.inf


def _ends_in_posterior(weighed: Weighed) -> bool:
    return METHODS[weighed.rung] == "annealed"
