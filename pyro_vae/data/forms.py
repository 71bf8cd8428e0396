"""What the arguments of programs are turned into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .arrays import as_tensor, is_array, to_floating
from .stored import Stored, is_stored

__all__ = ["Form"]


@dataclass(frozen=True)
class Form:
    """What the arguments of programs are turned into.

    Attributes:
        what: their name in messages.
        dtype: type for floating-point arrays that are no tensors; by default their own.
        floating: whether the data, the first argument, get this type if they are integers.
    """

    what: str
    dtype: torch.dtype | None
    floating: bool

    def tensors(self, arguments: Sequence[Any]) -> tuple[Any, ...]:
        """Arrays as tensors; the data, which come first, floating-point if that is asked for.

        Arrays on disk stay there.
        """
        return tuple(self._tensor(argument, place) for place, argument in enumerate(arguments))

    def _tensor(self, argument: Any, place: int) -> Any:
        floating = self.floating and place == 0
        if is_stored(argument):
            if not isinstance(argument, Stored):
                argument = Stored(argument).as_type(self.dtype, integers=False)
            if floating and self.dtype is not None and not argument.dtype.is_floating_point:
                argument = argument.as_type(self.dtype, integers=True)
            return argument
        if is_array(argument):
            argument = as_tensor(argument, what=self.what, dtype=self.dtype)
        if floating and self.dtype is not None and isinstance(argument, Tensor):
            return to_floating(argument, self.dtype, what=self.what)
        return argument
