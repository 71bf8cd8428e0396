"""Models compared on the same data: paired differences with standard errors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .result import Evidence

__all__ = ["Comparison", "Row", "compare"]


@dataclass(frozen=True)
class Row:
    """One model of a comparison, in nats per datum.

    Attributes:
        name: the model.
        log_px: mean log p(x).
        mc_error: its Monte-Carlo error.
        sampling_error: its sampling error.
        difference: mean of log p(x) minus the best model's, datum by datum; zero for the best.
        difference_error: standard error of ``difference``, sd of the paired differences over √N;
            it holds both the sampling and the Monte-Carlo error.
        difference_mc_error: the Monte-Carlo part of it.
        elbo: mean ELBO.
        share_unreliable: share of the data with k̂ above the threshold.
    """

    name: str
    log_px: float
    mc_error: float
    sampling_error: float
    difference: float
    difference_error: float
    difference_mc_error: float
    elbo: float
    share_unreliable: float


@dataclass(frozen=True)
class Comparison:
    """Rows of a comparison, best first; prints as a table."""

    rows: tuple[Row, ...]
    number_of_data: int
    samples: tuple[int, ...]
    data: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as plain values, fit for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        head = (
            "model",
            "log p(x)",
            "MC err",
            "sampl. err",
            "difference",
            "± s.e.",
            "ELBO",
            "k̂ bad",
        )
        lines = [head]
        for i, row in enumerate(self.rows):
            lines.append(
                (
                    row.name,
                    f"{row.log_px:.2f}",
                    f"{row.mc_error:.3f}",
                    f"{row.sampling_error:.2f}",
                    f"{row.difference:+.2f}" if i else "best",
                    f"{row.difference_error:.2f}" if i else "",
                    f"{row.elbo:.2f}",
                    f"{row.share_unreliable:.0%}",
                )
            )
        widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
        text = [
            "  ".join(
                cell.rjust(width) if column else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        ]
        text.insert(1, "─" * len(text[0]))
        samples = " / ".join(map(str, self.samples))
        text.append("")
        text.append(
            f"nats per datum, {self.number_of_data} data{f' ({self.data})' * bool(self.data)}, "
            f"K = {samples} importance samples each; differences are paired."
        )
        return "\n".join(line.rstrip() for line in text)


def compare(evidences: Mapping[str, Evidence]) -> Comparison:
    """Compare models by log p(x) on the same data, best first.

    Args:
        evidences: results of ``log_evidence`` by name of the model.

    Returns:
        A comparison that prints as a table.

    Raises:
        ValueError: nothing to compare, or results on different data (the hash decides, so another
            binarization is other data too).
    """
    if not evidences:
        raise ValueError("nothing to compare: give at least one result, {name: evidence}.")
    order = sorted(evidences, key=lambda name: _rank(evidences[name]), reverse=True)
    best = evidences[order[0]]
    for name in order[1:]:
        if evidences[name].data_sha256 != best.data_sha256:
            raise ValueError(
                f"{name!r} and {order[0]!r} were evaluated on different data: "
                f"{_describe(evidences[name])} against {_describe(best)}. Evaluate both on the "
                "same data, binarization included."
            )
    return Comparison(
        rows=tuple(_row(name, evidences[name], best) for name in order),
        number_of_data=len(best),
        samples=tuple(sorted({evidences[name].samples for name in order})),
        data=best.data,
    )


def _rank(evidence: Evidence) -> float:
    value = evidence.mean().value
    return -math.inf if math.isnan(value) else value


def _row(name: str, evidence: Evidence, best: Evidence) -> Row:
    mean, n = evidence.mean(), len(evidence)
    difference = evidence.log_px - best.log_px
    same = evidence is best
    variances = evidence.standard_error.square() + best.standard_error.square()
    return Row(
        name=name,
        log_px=mean.value,
        mc_error=mean.mc_error,
        sampling_error=mean.sampling_error,
        difference=0.0 if same else difference.mean().item(),
        difference_error=0.0 if same else difference.std().item() / math.sqrt(n),
        difference_mc_error=0.0 if same else math.sqrt(variances.sum().item()) / n,
        elbo=evidence.elbo.mean().item(),
        share_unreliable=evidence.share_unreliable(),
    )


def _describe(evidence: Evidence) -> str:
    return f"{evidence.data or 'unnamed data'} (sha256 {evidence.data_sha256[:12]})"
