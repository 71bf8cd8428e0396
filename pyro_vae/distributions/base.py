"""What distributions share: copies with another batch shape, a remembered draw, bound modules."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.func import functional_call

__all__ = ["LastDraw", "bound", "expanded"]

D = TypeVar("D", bound=Distribution)


def expanded(distribution: D, batch_shape: Any, *names: str) -> D:
    """Return a copy with another batch shape; the parts named are expanded, too."""
    new = copy.copy(distribution)
    new._batch_shape = torch.Size(batch_shape)
    for name in names:
        setattr(new, name, getattr(distribution, name).expand(new._batch_shape))
    return new


class LastDraw:
    """What a distribution computed for its last draw and needs again to score it.

    Programs score what they have just drawn, so one draw is remembered, for as long as the
    distribution lives.
    """

    def __init__(self) -> None:
        self._value: Tensor | None = None
        self._mark: tuple[bool, int] = (False, 0)
        self._found: Any = None

    def keep(self, value: Tensor, found: Any) -> None:
        """Remember what was computed along with a draw."""
        self._value, self._found = value, found
        self._mark = (torch.is_grad_enabled(), _version(value))

    def recall(self, value: Tensor) -> Any:
        """Return what was kept, or ``None`` unless ``value`` is that very draw, unchanged.

        What was computed without gradients is not returned where gradients are needed.
        """
        differentiable, version = self._mark
        same = value is self._value and _version(value) == version
        return self._found if same and (differentiable or not torch.is_grad_enabled()) else None


def bound(module: nn.Module) -> Callable[..., Any]:
    """Return the module as a function with its present parameters.

    A distribution that calls a network when it is scored must use the parameters it was made with;
    by then ``torch.func.functional_call`` has put others in their place.
    """
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}

    def call(*args: Any) -> Any:
        return functional_call(module, tensors, args)

    return call


def _version(value: Tensor) -> int:
    return 0 if value.is_inference() else value._version
