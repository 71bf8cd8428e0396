"""The optimizer of a run, and the schedule of its learning rate."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..common.settings import TrainingSettings

__all__ = ["adam", "progress_of", "scheduler_of"]


def adam(parameters: list[nn.Parameter], settings: TrainingSettings) -> torch.optim.Optimizer:
    """Adam, fused where torch can."""
    fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
    return torch.optim.Adam(parameters, lr=settings.learning_rate, fused=fused)


def scheduler_of(
    optimizer: torch.optim.Optimizer, settings: TrainingSettings, steps: int
) -> torch.optim.lr_scheduler.LRScheduler | None:
    """Schedule of the learning rate over all epochs of so many steps; ``None`` if constant."""
    total = settings.epochs * steps
    if settings.schedule == "one-cycle":
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=settings.learning_rate, total_steps=total
        )
    if settings.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=total)
    return None


def progress_of(scheduler: torch.optim.lr_scheduler.LRScheduler) -> dict[str, Any]:
    """Progress of a schedule; the rest is rebuilt from the settings."""
    state = scheduler.state_dict()
    return {key: state[key] for key in ("last_epoch", "_step_count", "_last_lr")}
