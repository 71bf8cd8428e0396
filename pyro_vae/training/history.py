"""What happened in training: one row per epoch."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

__all__ = ["COLUMNS", "Epoch", "History"]


_CLEARLY = 0.1  # of the ELBO at the start, which is one batch's: less may be that batch


@dataclass(frozen=True)
class Epoch:
    """One pass over the training data.

    Attributes:
        epoch: number of the epoch, from 1.
        train_elbo: mean ELBO over the epoch's steps at KL weight 1, in nats per datum.
        valid_elbo: ELBO of the validation data after the epoch, likewise; NaN without them.
        kl_weight: weight of the KL term in the last step.
        learning_rate: learning rate of the last step.
        seconds: time since the start of the run, without pauses.
        more: further columns: what the callables of ``fit(..., on_epoch=...)`` returned.
    """

    epoch: int
    train_elbo: float
    valid_elbo: float
    kl_weight: float
    learning_rate: float
    seconds: float
    more: dict[str, float] = field(default_factory=dict, hash=False)

    def to_dict(self) -> dict[str, float]:
        """Return the row by column, with those of ``more``, as trackers take it."""
        return {**{name: getattr(self, name) for name in COLUMNS}, **self.more}

    def __str__(self) -> str:
        valid = "" if math.isnan(self.valid_elbo) else f", validation {self.valid_elbo:.2f}"
        return f"ELBO {self.train_elbo:.2f}{valid}"


@dataclass
class History:
    """Epochs of a run, in order.

    Attributes:
        epochs: the rows.
        stopped_early: whether early stopping ended the run.
        restored_epoch: epoch whose parameters the model has, if not the last.
        start: ELBO of the first step, before any update, in nats per datum; NaN if not known.
        baseline: log p(x) of the training data without latents, their values independent, in nats
            per datum; NaN for programs of which nobody knows it.
    """

    epochs: list[Epoch] = field(default_factory=list)
    stopped_early: bool = False
    restored_epoch: int | None = None
    start: float = math.nan
    baseline: float = math.nan

    def __len__(self) -> int:
        return len(self.epochs)

    def columns(self) -> dict[str, list[float]]:
        """Return the rows as columns by name; NaN where an epoch lacks a further column."""
        rows = [row.to_dict() for row in self.epochs]
        names = {name: None for row in rows for name in row} or dict.fromkeys(COLUMNS)
        return {name: [row.get(name, math.nan) for row in rows] for name in names}

    def best(self, *, after: int = 0) -> Epoch | None:
        """Return the epoch with the highest validation ELBO among those after epoch ``after``."""
        rows = [e for e in self.epochs if e.epoch > after and not math.isnan(e.valid_elbo)]
        return max(rows, key=lambda row: row.valid_elbo, default=None)

    def failure(self) -> str | None:
        """Say in a sentence how a run failed that ended worse than it began, or than no model.

        That is judged of the ELBO whose parameters the model has, if it was what was maximized.
        """
        if not self.epochs:
            return None
        last = self.epochs[(self.restored_epoch or 0) - 1]
        elbo, lost = last.train_elbo, self.start - last.train_elbo
        cure = "Try a smaller learning rate, or a KL warm-up."
        if lost > 1 + abs(self.start):
            return (
                f"training ended far worse than it started: the ELBO is {elbo:.4g} nats per datum, "
                f"and was {self.start:.4g} before the first step. {cure}"
            )
        if elbo < self.baseline and lost > 1 + _CLEARLY * abs(self.start):
            return (
                f"training made the model worse than none: the ELBO is {elbo:.4g} nats per datum, "
                f"and was {self.start:.4g} before the first step; independent values without "
                f"latents have {self.baseline:.4g}. {cure}"
            )
        return None

    def to_state(self) -> dict[str, Any]:
        """Return the history as plain values, as a checkpoint keeps it."""
        state = asdict(self)
        return {"history": state.pop("epochs"), **state}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> History:
        """Build a history from the values of :meth:`to_state`, among others."""
        rows = [Epoch(**row) for row in state["history"]]
        rest = {name: state[name] for name in ("start", "baseline") if name in state}
        return cls(rows, state["stopped_early"], state["restored_epoch"], **rest)

    def to_csv(self) -> str:
        """Return the rows as CSV with a header."""
        text = io.StringIO()
        columns = self.columns()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
        return text.getvalue()


COLUMNS = tuple(field.name for field in fields(Epoch) if field.name != "more")
"""Columns that every history has."""
