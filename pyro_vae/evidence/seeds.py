"""Models trained from several seeds, compared on the same data, with three errors apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from scipy.special import stdtrit
from torch import Tensor

from ..common.tables import align
from ..common.verbs import verb
from .comparison import check_comparable
from .result import Evidence

__all__ = ["SeedComparison", "SeedRow", "compare_seeds"]

_LEVEL = 0.95


@dataclass(frozen=True)
class SeedRow:
    r"""One model, trained from S seeds, in nats per datum.

    Attributes:
        name: the model.
        seeds: number of trainings S.
        log_px: mean of the bias-corrected log p(x) over seeds and data.
        seed_error: standard error from the finite number of trainings, whose part of the variance
            is :math:`\max(0, s^2 - m / N) / S`: s² is the variance of the seeds' means, m the mean
            square of what neither seed nor datum explains, which holds the Monte-Carlo noise. More
            seeds shrink it. NaN for one seed.
        sampling_error: standard error from the finite number of data, for these trained models:
            that of the mean over data of each datum's mean over seeds, without its Monte-Carlo
            part. More data shrink it. NaN for a single datum.
        mc_error: Monte-Carlo error; more samples shrink it.
        difference: mean log p(x) minus the best model's, datum by datum; zero for the best.
        difference_seed_error: both models' seed errors together, as their trainings are
            independent.
        difference_sampling_error: sampling error of ``difference``, paired over the data.
        difference_mc_error: its Monte-Carlo error.
        difference_error: the three together, of those that are known.
        freedom: degrees of freedom of ``difference_error``, by Welch and Satterthwaite: few seeds
            know little of their own spread.
        distinguishable: whether ``difference`` is more than Student's 97.5 % quantile of errors
            below zero. The best was chosen on these data, and each model is held against it alone.
        share_unreliable: share of the estimates that are to doubt for any reason.
    """

    name: str
    seeds: int
    log_px: float
    seed_error: float
    sampling_error: float
    mc_error: float
    difference: float
    difference_seed_error: float
    difference_sampling_error: float
    difference_mc_error: float
    difference_error: float
    freedom: float
    distinguishable: bool
    share_unreliable: float

    @property
    def error(self) -> float:
        """Standard error of ``log_px`` by all that is known: seeds, data and Monte Carlo."""
        parts = (self.seed_error, self.sampling_error, self.mc_error)
        return math.hypot(*(part for part in parts if not math.isnan(part)))


@dataclass(frozen=True)
class SeedComparison:
    """Models trained from several seeds, best first; prints as a table and a sentence."""

    rows: tuple[SeedRow, ...]
    number_of_data: int
    samples: tuple[int, ...]
    data: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as plain values."""
        return {**asdict(self), "sentence": self.sentence()}

    def __str__(self) -> str:
        lines = [line.rstrip() for line in align(self.cells())]
        return "\n".join([*lines, "", *self.notes(), "", self.sentence()])

    def cells(self) -> list[tuple[str, ...]]:
        """Return the table as text, its head first."""
        head = ("model", "seeds", "log p(x)", "± seeds", "± data", "MC err")
        lines: list[tuple[str, ...]] = [
            (*head, "difference", "± seeds", "± data", "MC err", "doubtful")
        ]
        for i, row in enumerate(self.rows):
            paired = ("best", "", "", "")
            if i:
                paired = (
                    f"{row.difference:+.3f}",
                    _error(row.difference_seed_error),
                    _error(row.difference_sampling_error),
                    f"{row.difference_mc_error:.3f}",
                )
            errors = (_error(row.seed_error), _error(row.sampling_error), f"{row.mc_error:.3f}")
            share = f"{row.share_unreliable:.0%}"
            name = (row.name, str(row.seeds), f"{row.log_px:.2f}")
            lines.append((*name, *errors, *paired, share))
        return lines

    def notes(self) -> list[str]:
        """Return what a reader of the table must know."""
        samples = " / ".join(map(str, self.samples))
        notes = [
            f"nats per datum, {self.number_of_data} data{f' ({self.data})' * bool(self.data)}, "
            f"K = {samples} importance samples each; differences are paired over the data.",
            "± seeds: standard error of the mean over trainings, which more seeds shrink. ± data: "
            "of that over test data, which more data shrink. MC err: of importance sampling.",
        ]
        if single := [row.name for row in self.rows if row.seeds == 1]:
            notes.append(
                f"seed variance is unknown (one training) of {_listed(single)}; more seeds show it."
            )
        return notes

    def sentence(self) -> str:
        """Say which model is the best, which may be as good, and which are worse."""
        best, *others = self.rows
        doubt = "" if all(row.seeds > 1 for row in self.rows) else _ONE_SEED
        text = f"{best.name} has the highest log p(x), {best.log_px:.2f} nats"
        alike = [row.name for row in others if not row.distinguishable]
        worse = [row.name for row in others if row.distinguishable]
        if alike:
            text += f"; not distinguishable from it at {_LEVEL:.0%}: {_listed(alike)}"
        if worse:
            text += f"; worse: {_listed(worse)}"
        return f"{text}{doubt}."


_ONE_SEED = " (as far as one training each can tell)"


@verb
def compare_seeds(evidences: Mapping[str, Sequence[Evidence]]) -> SeedComparison:
    r"""Compare models, each trained from several seeds, by log p(x) on the same data.

    A model's :math:`\log p(x_n)` under seed s is taken as :math:`\mu + a_s + b_n + c_{sn}` and
    Monte-Carlo noise: trainings differ by a, data by b, trainings on single data by c. Errors of
    seeds and of data are then the two parts of a crossed random-effects analysis of variance.

    Args:
        evidences: by model, the results of ``log_evidence`` for its trainings; the number of
            trainings may differ. Give each seed its own ``seed=`` of ``log_evidence`` too, so that
            Monte-Carlo errors are independent.

    Raises:
        ValueError: nothing to compare, or results on different data or of a whole data set.

    References:
        Searle, Casella & McCulloch (1992), Variance Components, chapter 4.
    """
    if not evidences or not all(evidences.values()):
        raise ValueError("nothing to compare: give results for each model, {name: [evidence]}.")
    named = [(name, one) for name, several in evidences.items() for one in several]
    for name, one in named:
        check_comparable((name, one), named[0])
        if one.data_set:
            raise ValueError(f"{name!r} is of a whole data set; compare such with compare(...).")
    found = {name: _Trained.of(several) for name, several in evidences.items()}
    order = sorted(found, key=lambda name: found[name].rank, reverse=True)
    first = named[0][1]
    return SeedComparison(
        rows=tuple(_row(name, found[name], found[order[0]]) for name in order),
        number_of_data=len(first),
        samples=tuple(sorted({one.samples for _, one in named})),
        data=first.data,
    )


@dataclass(frozen=True)
class _Trained:
    """One model's log p(x) as sums of squares."""

    by_datum: Tensor  # mean over seeds, (N,)
    seeds: int
    spread: float  # variance of the seeds' means over S
    seed_variance: float  # the part of it that is the trainings' own
    noise: float  # variance of the mean by Monte-Carlo noise
    bias_left: float
    share_unreliable: float

    @classmethod
    def of(cls, evidences: Sequence[Evidence]) -> _Trained:
        values = torch.stack([one.corrected() for one in evidences])
        seeds, number = values.shape
        by_datum, by_seed = values.mean(0), values.mean(1)
        spread = own = math.nan
        if seeds > 1:
            spread = by_seed.var().item() / seeds
            left = values - by_seed[:, None] - by_datum + values.mean()
            mean_square = left.square().sum().item() / ((seeds - 1) * max(number - 1, 1))
            own = max(0.0, spread - mean_square / number / seeds)
        squares = torch.stack([one.standard_error for one in evidences]).square().sum().item()
        return cls(
            by_datum=by_datum,
            seeds=seeds,
            spread=spread,
            seed_variance=own,
            noise=squares / (seeds * number) ** 2,
            bias_left=sum(one.bias_left() for one in evidences) / seeds,
            share_unreliable=sum(one.share_unreliable() for one in evidences) / seeds,
        )

    @property
    def rank(self) -> float:
        value = self.by_datum.mean().item()
        return -math.inf if math.isnan(value) else value


def _row(name: str, one: _Trained, best: _Trained) -> SeedRow:
    own = _sampling_variance(one.by_datum, one.noise)
    errors = {"seed": 0.0, "sampling": 0.0, "mc": 0.0}
    difference, total, freedom, lower = 0.0, 0.0, math.nan, False
    if one is not best:
        paired = one.by_datum - best.by_datum
        difference = paired.mean().item()
        variances = {
            "seed": one.seed_variance + best.seed_variance,
            "sampling": _sampling_variance(paired, one.noise + best.noise),
            "mc": one.noise + best.noise + one.bias_left**2 + best.bias_left**2,
        }
        errors = {kind: math.sqrt(variance) for kind, variance in variances.items()}
        known = sum(v for v in variances.values() if not math.isnan(v))
        total = math.sqrt(known)
        # Of the seeds' means' whole variance: one that happens to be zero is not known to be.
        parts = [
            (variances["sampling"], len(paired) - 1),
            *((model.spread, model.seeds - 1) for model in (one, best)),
        ]
        doubt = sum(v**2 / n for v, n in parts if n and not math.isnan(v))
        freedom = max(known**2 / doubt, 1.0) if doubt else math.inf
        quantile = float(stdtrit(min(freedom, 1e6), (1 + _LEVEL) / 2))
        lower = difference < -quantile * total
    return SeedRow(
        name=name,
        seeds=one.seeds,
        log_px=one.by_datum.mean().item(),
        seed_error=math.sqrt(one.seed_variance),
        sampling_error=math.sqrt(own),
        mc_error=math.sqrt(one.noise + one.bias_left**2),
        difference=difference,
        difference_seed_error=errors["seed"],
        difference_sampling_error=errors["sampling"],
        difference_mc_error=errors["mc"],
        difference_error=total,
        freedom=freedom,
        distinguishable=lower,
        share_unreliable=one.share_unreliable,
    )


def _sampling_variance(by_datum: Tensor, noise: float) -> float:
    """Variance of a mean over data from their finite number, beside that of the noise in it."""
    if len(by_datum) < 2:
        return math.nan
    return max(0.0, by_datum.var().item() / len(by_datum) - noise)


def _error(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{value:.3f}"


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1])] * (len(names) > 1) + [names[-1]])
