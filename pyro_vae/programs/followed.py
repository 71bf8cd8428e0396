"""Masks that go where the data go: what is missing in a function of the data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = ["Followed"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_MOVING = _words(
    """
    T H mT mH __getitem__ adjoint as_strided atleast_1d atleast_2d atleast_3d broadcast_to cat
    chunk column_stack concat concatenate diagonal dsplit dstack expand expand_as flatten flip
    fliplr flipud gather hsplit hstack index_select movedim moveaxis narrow permute ravel
    repeat repeat_interleave reshape reshape_as roll rot90 row_stack select split
    split_with_sizes squeeze stack swapaxes swapdims t take_along_dim tensor_split tile
    transpose unbind unflatten unfold unsqueeze view view_as vsplit vstack
    """
)
"""Functions whose results are values of their first argument, moved, repeated or left out."""

_ALONE = _words(
    """
    absolute alias bernoulli bfloat16 bool byte char clone contiguous cpu cuda data detach
    divide double expit float floor_divide __floordiv__ half int __invert__ long multiply
    negative poisson __rdiv__ real requires_grad __rfloordiv__ __rpow__ short subtract to type
    type_as _to_copy
    """
)
"""Functions of values one by one that PyTorch does not tag as such."""

_SECOND_FOR_ITS_FORM = {"expand_as", "reshape_as", "type_as", "view_as"}
"""Functions that only look at the shape or the type of their second argument."""


class Followed(TorchFunctionMode):
    """Carry a mask along while a program computes with the data.

    Inside this context every tensor that is made of the data has a mask of its own shape, if each
    of its values is one value of the data, wherever it was moved to and whatever was made of it
    alone (casts, affine maps, logarithms).

    Args:
        data: the tensor that the program is given.
        mask: True where a value counts, shape of the data.
    """

    def __init__(self, data: Tensor, mask: Tensor) -> None:
        super().__init__()
        self._masks = WeakTensorKeyDictionary()
        self._masks[data] = mask

    def mask_of(self, value: Any) -> Tensor | str | None:
        """Return the mask of a tensor, or ``None`` if it is not made of the data.

        Where one of its values depends on several of the data, or by an unknown function, there is
        no mask: the name of the function is returned.
        """
        found: Tensor | str | None = None
        if isinstance(value, Tensor):
            found = self._masks.get(value)
        return found

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Call a function of torch, and find the masks of its results."""
        kwargs = kwargs or {}
        sources = [*_tensors(args), *_tensors(kwargs.values())]
        masks = [mask for mask in map(self._masks.get, sources) if mask is not None]
        result = func(*args, **kwargs)
        if masks:
            self._follow(func, args, kwargs, result, masks)
        return result

    def _follow(
        self, func: Any, args: Any, kwargs: Any, result: Any, masks: list[Tensor | str]
    ) -> None:
        name = _name(func)
        if name.endswith("_like") or name.startswith("new_"):
            return
        if name == "__setitem__":  # its result is its first argument
            result = args[0]
        results = list(_tensors([result]))
        if name in _SECOND_FOR_ITS_FORM:
            masks = [mask for mask in map(self._masks.get, args[:1]) if mask is not None]
            if not masks:
                return
        unknown = next((mask for mask in masks if isinstance(mask, str)), None)
        found: Iterable[Any]
        if unknown is not None:
            found = [unknown] * len(results)
        elif name in _MOVING:
            found = self._moved(func, args, kwargs, len(masks)) or [name] * len(results)
        elif _is_alone(name) and all(mask is masks[0] for mask in masks):
            found = [_as_wide(masks[0], value, name) for value in results]
        else:
            found = [name.strip("_")] * len(results)
        for value, mask in zip(results, found, strict=True):
            self._masks[value] = mask
            if value._is_view() and _in_place(name):  # what it is a view of has changed, too
                self._masks[value._base] = name.strip("_")

    def _moved(self, func: Any, args: Any, kwargs: Any, number: int) -> list[Tensor] | None:
        """Move masks as their tensors were, unless the data also say where to."""
        key = next((key for key in ("input", "tensors", "self") if key in kwargs), None)
        first = args[0] if args else kwargs.get(key)
        if sum(self.mask_of(value) is not None for value in _tensors([first])) != number:
            return None
        masks = self._mask(first) if isinstance(first, Tensor) else [self._mask(t) for t in first]
        moved = func(masks, *args[1:], **kwargs) if args else func(**{**kwargs, str(key): masks})
        return list(_tensors([moved]))

    def _mask(self, value: Tensor) -> Tensor:
        mask = self.mask_of(value)
        if isinstance(mask, Tensor):
            return mask
        return torch.ones(value.shape, dtype=torch.bool, device=value.device)


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Tensors among values and in lists of them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _name(func: Any) -> str:
    name = getattr(func, "__name__", type(func).__name__)
    if name == "__get__":
        name = getattr(func.__self__, "__name__", name)
    return str(name)


def _in_place(name: str) -> bool:
    return name == "__setitem__" or (name.endswith("_") and not name.startswith("__"))


@cache
def _is_alone(name: str) -> bool:
    """Whether a function, in place or not, treats values one by one."""
    plain = name if name.startswith("__") else name.removesuffix("_")
    if name in _ALONE or plain in _ALONE:
        return True
    words = (plain, plain.strip("_"), plain.removeprefix("special_"))
    packets: Any = (getattr(torch.ops.aten, word, None) for word in words)
    return any(
        torch.Tag.pointwise in getattr(packet, overload).tags
        for packet in packets
        if hasattr(packet, "overloads")  # not a method of every object, such as __eq__
        for overload in packet.overloads()
    )


def _as_wide(mask: Tensor | str, value: Tensor, name: str) -> Tensor | str:
    """The mask of values one by one; the function's name if it has made fewer of them."""
    if isinstance(mask, str) or mask.shape == value.shape:
        return mask
    if value.dim() < mask.dim() or value.numel() < mask.numel():
        return name.strip("_")  # the greatest of all, not of each and another
    return mask.expand(value.shape)
