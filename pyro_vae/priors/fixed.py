"""A plain Pyro distribution as a prior."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
from torch import Tensor, nn

__all__ = ["Fixed"]


class Fixed(nn.Module):
    """A given distribution over z, without parameters to learn.

    Its tensors follow the module to another device or type.

    Args:
        distribution: of event shape ``(latent_dim,)`` and no batch shape.

    Raises:
        TypeError: not a distribution.
        ValueError: a distribution of another kind of shape.
    """

    def __init__(self, distribution: dist.TorchDistribution) -> None:
        super().__init__()
        if not hasattr(distribution, "log_prob") or not hasattr(distribution, "event_shape"):
            raise TypeError(
                "a prior is an nn.Module or a Pyro distribution; got "
                f"{type(distribution).__name__}."
            )
        if tuple(distribution.batch_shape) or len(distribution.event_shape) != 1:
            raise ValueError(
                "a prior has event shape (latent_dim,) and no batch shape; got event shape "
                f"{tuple(distribution.event_shape)}, batch shape {tuple(distribution.batch_shape)}."
                " Write .to_event(1)."
            )
        self.distribution = distribution

    def forward(self) -> dist.TorchDistribution:
        """Return p(z)."""
        return self.distribution

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Fixed:
        super()._apply(fn, recurse)
        _move(self.distribution, fn, set())
        return self


def _move(item: Any, fn: Callable[[Tensor], Tensor], seen: set[int]) -> None:
    """Apply ``fn`` to the tensors of a distribution, of its parts and of its transforms."""
    if id(item) in seen:
        return
    seen.add(id(item))
    for name, value in vars(item).items():
        if isinstance(value, Tensor):
            setattr(item, name, fn(value))
        elif isinstance(value, nn.Module):
            value._apply(fn)
        for part in value if isinstance(value, list | tuple) else (value,):
            if hasattr(part, "log_prob") or hasattr(part, "log_abs_det_jacobian"):
                _move(part, fn, seen)
