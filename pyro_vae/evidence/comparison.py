"""Models compared on the same data: paired differences with standard errors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..common.tables import align
from ..common.verbs import verb
from .diagnostics import error_of_mean
from .result import Evidence

__all__ = ["Comparison", "Row", "check_comparable", "compare"]

_MOST_UNRELIABLE = 0.2  # share of doubtful data up to which no advice is needed


@dataclass(frozen=True)
class Row:
    r"""One model of a comparison, in nats per datum.

    Attributes:
        name: the model.
        log_px: mean log p(x), bias-corrected.
        mc_error: its Monte-Carlo error.
        sampling_error: its sampling error.
        difference: mean of log p(x) minus the best model's, datum by datum; zero for the best.
        difference_error: standard error of ``difference``: sd of the paired differences over √N,
            which holds both the sampling and the Monte-Carlo error, and what the correction of
            both biases leaves open. NaN for a single datum. Of a whole data set it is the
            Monte-Carlo error: then ``difference`` is a log Bayes factor.
        difference_mc_error: the Monte-Carlo part of it; more samples shrink it.
        difference_sampling_error: the rest, :math:`\sqrt{\max(s^2 - s_{MC}^2, 0)}` of the two
            above; more data shrink it.
        probability_better: probability that the best model predicts better than this one for the
            population, :math:`\Phi(-difference / difference\_error)`: a normal approximation (rough
            for few data), with a flat prior on the population's difference. At an error of zero it
            is 1 if there is a difference and 0.5 if there is none. It is at least 0.5, as the best
            was chosen on these data, and it knows nothing of what the verdicts doubt. NaN
            for the best model itself, and where the error is NaN.
        elbo: mean ELBO.
        share_unreliable: share of the data that are to doubt for any reason.
        verdict: ``"trusted"``, or ``"doubtful: "`` and why.
        method: the method that was asked for, a rung of the ladder or ``"auto"``.
    """

    name: str
    log_px: float
    mc_error: float
    sampling_error: float
    difference: float
    difference_error: float
    difference_mc_error: float
    difference_sampling_error: float
    probability_better: float
    elbo: float
    share_unreliable: float
    method: str = "guide"
    verdict: str = "trusted"


@dataclass(frozen=True)
class Comparison:
    """Rows of a comparison, best first; prints as a table."""

    rows: tuple[Row, ...]
    number_of_data: int
    samples: tuple[int, ...]
    data: str = ""
    data_set: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as plain values; ``write_json`` makes its NaN null."""
        return asdict(self)

    def __str__(self) -> str:
        return "\n".join([*(line.rstrip() for line in align(self.cells())), "", *self.notes()])

    def cells(self) -> list[tuple[str, ...]]:
        """Return the table as text, its head first."""
        one = bool(self.data_set)
        head = (
            "model",
            "log p(x)",
            "MC err",
            *("sampl. err",) * (not one),
            "log BF" if one else "difference",
            "± s.e.",
            "p(model)" if one else "P(best)",
            "ELBO",
            "doubtful",
        )
        lines: list[tuple[str, ...]] = [head]
        for i, row in enumerate(self.rows):
            lines.append(
                (
                    row.name,
                    f"{row.log_px:.2f}",
                    f"{row.mc_error:.3f}",
                    *(f"{row.sampling_error:.2f}",) * (not one),
                    f"{row.difference:+.2f}" if i else "best",
                    f"{row.difference_error:.{2 + one}f}" if i else "",
                    _probability_text(row.probability_better) if i or one else "",
                    f"{row.elbo:.2f}",
                    _share_text(row.share_unreliable),
                )
            )
        return lines

    def notes(self) -> list[str]:
        """Return what a reader of the table must know."""
        samples = " / ".join(map(str, self.samples))
        if self.data_set:
            notes = [
                f"nats of all {self.data_set} data{f' ({self.data})' * bool(self.data)} at once, K "
                f"= {samples} importance samples each. log BF: log Bayes factor against the best; "
                "p(model): probability given the data, if all are as probable beforehand."
            ]
            return [*notes, *self._warnings()]
        notes = [
            f"nats per datum, {self.number_of_data} data{f' ({self.data})' * bool(self.data)}, "
            f"K = {samples} importance samples each; differences are paired."
        ]
        if len(self.rows) > 1:
            notes.append(
                "P(best): probability that the best model predicts better than this one for the "
                "population (normal approximation)."
            )
        return [*notes, *self._warnings()]

    def _warnings(self) -> Iterator[str]:
        for row in self.rows:
            if row.share_unreliable:
                yield f"log p(x) of {row.name} is {row.verdict}{_advice(row)}."


@verb
def compare(evidences: Mapping[str, Evidence]) -> Comparison:
    """Compare models by log p(x) on the same data, best first.

    Where latents belong to the whole data set, by Bayes factors. How much a prior matters is one
    call, for instance of a model with the prior's scale as an argument::

        pv.compare({s: pv.log_evidence(partial(model, s), guide, x, method="auto") for s in scales})

    Args:
        evidences: results of ``log_evidence`` by name of the model.

    Returns:
        A comparison that prints as a table.

    Raises:
        ValueError: nothing to compare; results on different data (the hash decides, so another
            binarization is other data too), or of data of different event sizes.
    """
    if not evidences:
        raise ValueError("nothing to compare: give at least one result, {name: evidence}.")
    order = sorted(evidences, key=lambda name: _rank(evidences[name]), reverse=True)
    best = evidences[order[0]]
    for name in order[1:]:
        check_comparable((name, evidences[name]), (order[0], best))
    rows = [_row(name, evidences[name], best) for name in order]
    shares = [math.nan, *(row.probability_better for row in rows[1:])]
    if best.data_set:
        odds = [math.exp(row.difference) for row in rows]
        shares = [odd / sum(odds) for odd in odds]
    return Comparison(
        rows=tuple(
            replace(row, probability_better=share) for row, share in zip(rows, shares, strict=True)
        ),
        data_set=best.data_set,
        number_of_data=len(best),
        samples=tuple(sorted({evidences[name].samples for name in order})),
        data=best.data,
    )


def check_comparable(one: tuple[str, Evidence], other: tuple[str, Evidence]) -> None:
    """Raise a ``ValueError`` for results on different data, or of different event sizes."""
    (name, a), (best, b) = one, other
    if a.data_sha256 != b.data_sha256:
        raise ValueError(
            f"{name!r} and {best!r} were evaluated on different data: "
            f"{_describe(a)} against {_describe(b)}. Evaluate both on the "
            "same data, binarization included."
        )
    if a.event_size != b.event_size:
        raise ValueError(
            f"{name!r} and {best!r} have data of different event sizes: {a.event_size} against "
            f"{b.event_size} values per datum. Evaluate both on data of one shape."
        )


def _rank(evidence: Evidence) -> float:
    value = evidence.mean().value
    return -math.inf if math.isnan(value) else value


def _row(name: str, evidence: Evidence, best: Evidence) -> Row:
    mean = evidence.mean()
    same = evidence is best
    differences = evidence.corrected() - best.corrected()
    difference, error, mc_error = 0.0, 0.0, 0.0
    if not same:
        difference = differences.mean().item()
        mc_error = math.hypot(mean.mc_error, best.mean().mc_error)
        spread = error_of_mean(differences)
        error = math.hypot(spread, evidence.bias_left(), best.bias_left())
        error = mc_error if evidence.data_set else error
    return Row(
        name=name,
        log_px=mean.value,
        mc_error=mean.mc_error,
        sampling_error=mean.sampling_error,
        difference=difference,
        difference_error=error,
        difference_mc_error=mc_error,
        difference_sampling_error=_rest(error, mc_error),
        probability_better=_probability_better(difference, error),
        elbo=evidence.elbo.mean().item(),
        share_unreliable=evidence.share_unreliable(),
        method=evidence.method,
        verdict=evidence.verdict,
    )


def _rest(error: float, part: float) -> float:
    square = error**2 - part**2
    return square if math.isnan(square) else math.sqrt(max(square, 0.0))


def _probability_better(difference: float, error: float) -> float:
    if math.isnan(difference) or math.isnan(error):
        return math.nan
    if error == 0:
        return 0.5 if difference == 0 else float(difference < 0)
    return 0.5 * math.erfc(difference / error / math.sqrt(2))


def _advice(row: Row) -> str:
    """What to do where too many data are doubtful."""
    if row.share_unreliable <= _MOST_UNRELIABLE:
        return ""
    if "few draws" in row.verdict or (row.method != "guide" and "missed" not in row.verdict):
        return "; take more samples"
    return f"; use method={'auto' if row.method == 'guide' else 'modes'!r}"


def _share_text(share: float) -> str:
    return "<1%" if 0 < share < 0.005 else f"{share:.0%}"


def _probability_text(probability: float) -> str:
    return ">0.999" if probability >= 0.9995 else f"{probability:.3f}"


def _describe(evidence: Evidence) -> str:
    return f"{evidence.data or 'unnamed data'} (sha256 {evidence.data_sha256[:12]})"
