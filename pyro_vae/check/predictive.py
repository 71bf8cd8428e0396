"""Predictive checks: statistics of the data among those of data that the model makes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor

from ..common.options import Latents, Method
from ..common.registry import check_choice
from ..common.seeding import derive, seeded
from ..common.tables import align
from ..common.verbs import verb
from ..data import AnyData
from ..data.missing import completed
from ..evidence.posterior import PosteriorDraws, sample_posterior
from ..programs.evaluation import Block, Evaluation, evaluating
from ..programs.traces import Fn
from .statistics import Kind, Statistic, default_statistics, kind_of, told_apart
from .uniformity import binomial_cdf

if TYPE_CHECKING:
    from ..plots import Figure

__all__ = ["Check", "Predictive", "predictive"]

CLASSIFIER = "told apart by a classifier"
_LEVEL = 0.05
_MOST_VALUES = 2**24  # of replicates, in memory at once


@dataclass(frozen=True, eq=False)
class Check:
    """One statistic of the data and of replicated data.

    Attributes:
        name: name of the statistic.
        observed: its value for the data.
        replicated: its values for replicates of the data, ``(R,)``.
        p_value: probability of a value as extreme under the model, in either direction; of the
            classifier, of as large a share.
    """

    name: str
    observed: float
    replicated: Tensor
    p_value: float


@dataclass(frozen=True, eq=False)
class Predictive:
    """Statistics of data among those of data that the model makes.

    Attributes:
        checks: one for each statistic.
        kind: kind of the data, by the support of the model's observed site.
        latents: whether replicates were drawn at draws of the posterior or of the prior.
        number_of_data: N.
        replicates: number R of replicated data sets.
        share_doubtful: share of the data whose posterior draws are to doubt (0 for the prior).
        seed: seed of the draws.
    """

    checks: tuple[Check, ...]
    kind: Kind
    latents: Latents
    number_of_data: int
    replicates: int
    share_doubtful: float
    seed: int

    def __getitem__(self, name: str) -> Check:
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(f"no statistic {name!r}; there are {[check.name for check in self.checks]}.")

    def misfits(self, level: float = _LEVEL) -> list[str]:
        """Statistics with a p-value below ``level`` over their number (Bonferroni)."""
        limit = level / len(self.checks)
        return [check.name for check in self.checks if check.p_value <= limit]

    @property
    def verdict(self) -> str:
        """``"no misfit seen"``, or ``"misfit: "`` and the statistics that show it."""
        found, least = self.misfits(), math.ceil(2 * len(self.checks) / _LEVEL) - 1
        if not found and self.replicates < least:
            return f"too few replicates to see misfit: take {least} for {len(self.checks)} tests"
        return f"misfit: {', '.join(found)}" if found else "no misfit seen"

    def __str__(self) -> str:
        found = self.misfits()
        rows = [["statistic", "data", "replicates", "p-value", ""]]
        for check in self.checks:
            centre = f"{check.replicated.mean():.4g} ± {check.replicated.std():.2g}"
            mark = "misfit" if check.name in found else ""
            p = f"{check.p_value:.3f}" if check.p_value >= 0.0005 else "< 0.001"
            rows.append([check.name, f"{check.observed:.4g}", centre, p, mark])
        doubts = (
            f"; draws of {self.share_doubtful:.0%} of the data are to doubt"
            if self.share_doubtful
            else ""
        )
        said = (
            f"{self.number_of_data} data, {self.kind}; {self.replicates} replicates at draws of "
            f"the {self.latents}{doubts}"
        )
        return "\n".join([*(line.rstrip() for line in align(rows)), self.verdict, said])

    def summary(self) -> dict[str, Any]:
        """Plain values, for a file."""
        return {
            "verdict": self.verdict,
            "kind": self.kind,
            "latents": self.latents,
            "number_of_data": self.number_of_data,
            "replicates": self.replicates,
            "share_doubtful": self.share_doubtful,
            "seed": self.seed,
            "statistics": {
                check.name: {
                    "data": check.observed,
                    "replicates_mean": check.replicated.mean().item(),
                    "replicates_sd": check.replicated.std().item(),
                    "p_value": check.p_value,
                }
                for check in self.checks
            },
        }

    def plot(self, *, title: str | None = None) -> Figure:
        """Draw each statistic's replicates as a histogram, with the data's value as a line."""
        from ..plots import predictive_checks

        return predictive_checks(
            {check.name: check.replicated for check in self.checks},
            {check.name: check.observed for check in self.checks},
            {check.name: check.p_value for check in self.checks},
            misfits=self.misfits(),
            title=title,
        )


@verb
def predictive(
    model: Fn,
    guide: Fn,
    x: AnyData,
    statistics: Mapping[str, Statistic] | None = None,
    *,
    latents: Latents = "posterior",
    replicates: int = 500,
    classifier: bool = True,
    method: Method = "auto",
    samples: int = 1000,
    seed: int = 0,
    progress: bool | None = None,
) -> Predictive:
    r"""Check a model by data that it makes: are the given ones like those?

    A replicated data set has a datum for each given one, from latents drawn of its posterior (by
    :func:`~pyro_vae.sample_posterior`, so that the guide's errors do not count), or of the prior:

    .. math:: x_n^{rep} \sim p(x \mid z_n), \qquad z_n \sim p(z \mid x_n)
        \quad\text{or}\quad z_n \sim p(z)

    With R replicated sets the two-sided p-value of a statistic T is
    :math:`\min(1, 2 \min(p_-, p_+))`, with :math:`p_\pm` the shares of the R + 1 sets (the data
    among them) with T at least, or at most, that of the data.

    Replicates of the prior test p(x) itself: where the parameters are right (and were not learned
    from these data) their p-values are uniform. p-values at draws of the posterior are
    conservative: the data are used twice, so that under the right model they gather around 1/2 and
    are less often small than uniform ones (Meng 1994; Gelman, Meng and Stern 1996). A small one
    tells of misfit all the more; a large one says that these statistics see none. Uncertainty of
    the model's parameters does not count, so that data never seen in training are the ones to give.
    Cells that are missing are the same in all sets: they repeat values that are there.

    Args:
        model: Pyro program; every site inside one outermost plate over the data.
        guide: Pyro program with the model's latent sites.
        x: N data, as for :func:`~pyro_vae.log_evidence`. The statistics are of the first argument
            that the model observes.
        statistics: functions by name, from a data set ``(N, *event_shape)``, a tensor on the CPU,
            to one number. By default those of :func:`default_statistics` for the kind of data that
            the support of the observed site shows.
        latents: draw replicates at draws of the ``"posterior"`` or of the ``"prior"``.
        replicates: number R of replicated data sets; the least p-value is 2 / (R + 1), and has to
            be below 0.05 over the number of statistics for a verdict.
        classifier: also let a classifier tell the data from their replicates
            (:func:`~pyro_vae.check.statistics.told_apart`).
        method: proposal for draws of the posterior.
        samples: its draws for each datum, at least R.
        seed: seed of the draws.
        progress: show a progress bar; by default if the output is a terminal.

    Returns:
        Each statistic's value, its values for the replicates, and its p-value.

    Raises:
        ValueError: fewer than 20 replicates; fewer than two data; a statistic that is not one
            finite number; a model whose observations are no argument; latents that the model sums
            out (which have no draws of the posterior); all that
            :func:`~pyro_vae.log_evidence` refuses.

    Warns:
        UnreliableEvidence: draws of the posterior are to doubt.

    References:
        Meng (1994), Posterior predictive p-values. https://doi.org/10.1214/aos/1176325622
        Gelman, Meng and Stern (1996), Posterior predictive assessment of model fitness via
        realized discrepancies. Statistica Sinica 6, 733-807.
    """
    check_choice("latents", latents, get_args(Latents))
    if not isinstance(replicates, int) or replicates < 20:
        raise ValueError(
            f"replicates must be at least 20, a whole number; got {replicates!r}. The least "
            "p-value is 2 / (replicates + 1)."
        )
    with evaluating(model, guide, x, narrow=True) as evaluation:
        batch = next(evaluation.blocks()).batch
        number, support = next(iter(evaluation.pair.observed(batch).items()))
        kind, summed = kind_of(support, batch[number]), evaluation.pair.summed
    if latents == "posterior" and summed:
        raise ValueError(
            f"latents {', '.join(map(repr, summed))} are summed out and have no draws of the "
            "posterior; add them to the guide, or use latents='prior'."
        )
    posterior = None
    if latents == "posterior":
        most = max(samples, replicates)
        given = {"method": method, "samples": most, "seed": seed, "progress": progress}
        posterior = sample_posterior(model, guide, x, replicates, **given)  # type: ignore[arg-type]
    with evaluating(model, guide, x, narrow=True) as evaluation:
        data = torch.cat([b.batch[number][: b.count].cpu() for b in evaluation.blocks()])
        data = data[0] if evaluation.data_set else data
        if len(data) < 2:
            raise ValueError(f"statistics need at least 2 data; got {len(data)}.")
        missing, data = data.isnan(), completed(data)
        chosen = statistics or default_statistics(kind, dimensions=data[0].numel())
        observed = {name: _number(name, function(data)) for name, function in chosen.items()}
        values: dict[str, list[float]] = {name: [] for name in chosen}
        told, size = None, max(1, _MOST_VALUES // data.numel())
        for start in range(0, replicates, size):
            part = slice(start, min(start + size, replicates))
            sets = _replicated(evaluation, posterior, part, number, seed)
            sets = torch.where(missing, data, sets) if missing.any() else sets
            for replicated in sets:
                for name, function in chosen.items():
                    values[name].append(_number(name, function(replicated)))
            if classifier and told is None:
                told = told_apart(data, sets[0], seed=derive("classifier", seed) >> 1)
    checks = []
    for name in chosen:
        sample = torch.tensor(values[name], dtype=torch.float64)
        checks.append(Check(name, observed[name], sample, _two_sided(observed[name], sample)))
    if told is not None:
        checks.append(Check(CLASSIFIER, told[0], _of_chance(len(data), replicates), told[1]))
    doubtful = 0.0 if posterior is None else posterior.evidence.share_unreliable()
    return Predictive(tuple(checks), kind, latents, len(data), replicates, doubtful, seed)


def _replicated(
    evaluation: Evaluation, posterior: PosteriorDraws | None, part: slice, number: int, seed: int
) -> Tensor:
    """Some of the replicated data sets, ``(R, N, *event_shape)``."""
    pair = evaluation.pair

    def work(block: Block) -> Tensor:
        rows = torch.arange(len(block.batch[0])).clamp_max(block.count - 1) + block.first
        values = None
        if posterior is not None:
            values = {
                name: (value[part, None] if evaluation.data_set else value[part, rows])
                .movedim(1, pair.data_axis)
                .to(evaluation.device)
                for name, value in posterior.values.items()
            }
        with seeded("replicate", seed, part.start, block.first):
            new = pair.replicate(block.batch, part.stop - part.start, values)
        return new[number][:, : block.count].cpu()

    sets = torch.cat(evaluation.map(work), 1)
    return sets[:, 0] if evaluation.data_set else sets


def _two_sided(observed: float, replicated: Tensor) -> float:
    sides = ((replicated >= observed).sum(), (replicated <= observed).sum())
    return min(1.0, 2 * (1 + int(min(sides))) / (1 + len(replicated)))


def _of_chance(number: int, count: int) -> Tensor:
    """Shares of pairs ranked rightly by chance, at evenly spread probabilities."""
    cdf = binomial_cdf(number, torch.tensor([0.5]))[0]
    levels = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return torch.searchsorted(cdf, levels).double() / number


def _number(name: str, value: Any) -> float:
    found = torch.as_tensor(value)
    if found.numel() != 1 or not found.isfinite().all():
        shown = f"shape {tuple(found.shape)}" if found.numel() != 1 else found.item()
        raise ValueError(
            f"statistic {name!r} must give one finite number for a data set (N, *event_shape); got "
            f"{shown}. Reduce over the data, and handle constant ones."
        )
    return found.double().item()
