"""What a study found: models, each from one or several trainings, compared by log p(x)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..common.tables import align
from ..evidence import Comparison, SeedComparison
from .usage import Usage

__all__ = ["Study"]


@dataclass(frozen=True)
class Study:
    """Models that differ in some settings, compared on the same test data; prints as a table.

    Attributes:
        setting: field of the config that was varied; of several, their names.
        comparison: paired comparison of every run by log p(x), best first.
        usage: what each run's model does with its latents, by name of the run.
        by_seed: comparison of the models, each from all its seeds, with the errors of seeds, data
            and Monte Carlo apart.
        models: names of the runs of each model, by name.
        figures: paths of the figures.
        failures: why runs failed, by folder.
    """

    setting: str
    comparison: Comparison
    usage: dict[str, Usage]
    by_seed: SeedComparison
    models: dict[str, tuple[str, ...]]
    figures: tuple[Path, ...] = ()
    failures: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the study as plain values."""
        return {
            "setting": self.setting,
            **self.comparison.to_dict(),
            "usage": {name: asdict(usage) for name, usage in self.usage.items()},
            "by_seed": self.by_seed.to_dict(),
            "answer": self.answer(),
            "failures": self.failures,
        }

    def answer(self) -> str:
        """Say in a sentence which value is the best, and which may be as good."""
        of = f"{self.setting} " if "," not in self.setting else ""
        return f"{of}{self.by_seed.sentence()}"

    def __str__(self) -> str:
        table = self.by_seed if any(row.seeds > 1 for row in self.by_seed.rows) else self.comparison
        usage = [("rate", "± s.e.", "active", "training")]
        for row in table.rows:
            own = [self.usage[name] for name in self.models.get(row.name, (row.name,))]
            active = f"{sum(one.active for one in own) / len(own):.1f}".removesuffix(".0")
            seconds = sum(one.seconds for one in own)
            usage.append(
                (
                    f"{sum(one.rate for one in own) / len(own):.2f}",
                    f"{sum(one.rate_error for one in own) / len(own):.2f}",
                    f"{active} of {own[0].latents}",
                    f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s",
                )
            )
        cells = [(*left, *right) for left, right in zip(table.cells(), usage, strict=True)]
        notes = [
            *table.notes(),
            "rate: the KL term of the ELBO, nats per datum. active: latent dimensions whose "
            "posterior mean has a variance above 0.01, a rule for priors of unit scale.",
            *("seed variance is unknown: one training of each.",) * (table is self.comparison),
            *(f"failed: {folder}: {cause}" for folder, cause in self.failures.items()),
        ]
        lines = [line.rstrip() for line in align(cells)]
        return "\n".join([*lines, "", *notes, "", self.answer()])
