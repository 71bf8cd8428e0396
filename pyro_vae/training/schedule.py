"""Learning rate over a run."""

from __future__ import annotations

from typing import Any

import torch

from ..common.settings import TrainingSettings

__all__ = ["progress_of", "scheduler"]


def scheduler(optimizer: torch.optim.Optimizer, settings: TrainingSettings, steps: int) -> Any:
    """Return torch's scheduler of the learning rate, for so many steps per epoch, or ``None``."""
    total = settings.epochs * steps
    if settings.schedule == "one-cycle":
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=settings.learning_rate, total_steps=total
        )
    if settings.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=total)
    return None


def progress_of(scheduler: torch.optim.lr_scheduler.LRScheduler) -> dict[str, Any]:
    """Return how far a scheduler is; the rest of its state is rebuilt from the settings."""
    state = scheduler.state_dict()
    return {key: state[key] for key in ("last_epoch", "_step_count", "_last_lr")}
