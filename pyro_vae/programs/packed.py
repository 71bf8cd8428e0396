"""Packed sequences as data: their rows, and how a program gets some of them, packed again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import register_pytree_node, tree_leaves

__all__ = ["as_long_as", "is_packed", "padded"]


@dataclass(frozen=True)
class _Padded:
    """Sequences of a packed one, told apart; as a tree it has two leaves.

    Built again from its leaves, or from the same rows of both, it is a packed sequence.

    Args:
        values: ``(N, T, ...)``, zero beyond a sequence's length.
        lengths: ``(N,)``, in the order in which the sequences were given.
    """

    values: Tensor
    lengths: Tensor


def is_packed(value: Any) -> bool:
    """Whether a value is a packed sequence, which is a tuple, too."""
    return isinstance(value, PackedSequence)


def padded(value: Any) -> Any:
    """Tell the sequences of a packed one apart; any other value is returned as it is."""
    return _Padded(*pad_packed_sequence(value, batch_first=True)) if is_packed(value) else value


def as_long_as(call: Any) -> AbstractContextManager[Any]:
    """Pad packed sequences to the longest one of a call, as :func:`padded` left it, at least.

    So a program finds as many steps in some of the data as in all of them, whichever they are.
    """
    lengths = [item.values.shape[1] for item in tree_leaves(call, _is_padded) if _is_padded(item)]
    return _PaddedTo(max(lengths)) if lengths else nullcontext()


def _is_padded(value: Any) -> bool:
    return isinstance(value, _Padded)


def _packed(leaves: Any, _: None) -> PackedSequence:
    values, lengths = leaves
    return pack_padded_sequence(values, lengths.cpu(), batch_first=True, enforce_sorted=False)


register_pytree_node(_Padded, lambda it: ([it.values, it.lengths], None), _packed)


class _PaddedTo(TorchFunctionMode):
    """Within it, packed sequences are padded to a length at least."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__name__", "") == "_pad_packed_sequence":
            *others, length = args
            args = (*others, max(length, self.length))
        return func(*args, **(kwargs or {}))
