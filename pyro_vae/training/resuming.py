"""Which settings a run may be resumed with: its own, or such that change nothing it has done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["check_resumable", "is_complete"]

_LENGTH = {"epochs", "patience"}
"""Settings that only say when a run ends."""


def check_resumable(stored: Mapping[str, Any], now: Mapping[str, Any], source: str) -> None:
    """Check that a run with other settings would have begun as this one did.

    So the settings are the same, or there are more epochs, under a constant learning rate (the
    other schedules spread over all epochs), or more patience, under any schedule. Then the run that
    is made longer equals, bit for bit, one that was as long from the start.

    Args:
        stored: settings of the run; one that it does not hold did not exist then.
        now: settings to go on with.
        source: the run's folder.

    Raises:
        ValueError: other settings; says which, and what to do.
    """
    differ = {key: (stored[key], new) for key, new in now.items() if stored.get(key, new) != new}
    words = ", ".join(f"{key} {old!r} (now {new!r})" for key, (old, new) in differ.items())
    if differ.keys() - _LENGTH:
        raise ValueError(
            f"the run in {source} has {words}; leave these options out to resume it, or start a "
            "new run."
        )
    if "epochs" in differ and stored.get("schedule") != "constant":
        raise ValueError(
            f"the run in {source} has {words}, and schedule {stored.get('schedule')!r} spreads "
            "over all epochs: a longer run would have had other learning rates from the start. "
            "Only a run with schedule 'constant' can be made longer; start a new one (--config "
            f"{source} --epochs {now['epochs']} --out RUN)."
        )
    if any(_least(old) > _least(new) for old, new in differ.values()):
        raise ValueError(
            f"the run in {source} has {words}; it can be given more epochs or more patience, not "
            "less."
        )


def is_complete(state: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's run has nothing left to train under these settings.

    Early stopping ends a run whatever the number of epochs, until it has more patience.
    """
    over = state["stopped_early"] and state["settings"]["patience"] == settings["patience"]
    return state["finished"] and (over or state["epoch"] >= settings["epochs"])


def _least(value: int | None) -> float:
    """A length as a number: no patience set is patience without end."""
    return float("inf") if value is None else value
