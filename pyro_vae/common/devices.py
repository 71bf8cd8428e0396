"""Where to compute: which device, in what precision, and how much at once."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .memory import check_memory

__all__ = ["bytes_of_one", "exact_convolutions", "own_gpu", "planned", "resolve_device", "sent"]

T = TypeVar("T")

_LARGE = 2**26  # bytes of parameters
_MAKERS = {torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn}


def resolve_device(device: str | torch.device) -> torch.device:
    """Return the device to use; ``"auto"`` is the GPU where there is one, else the CPU.

    Of several processes that ``torchrun`` started each has a GPU of its own, if there are as many,
    where none is named (``"auto"``, ``"cuda"``).

    Raises:
        ValueError: an unknown device, or CUDA where torch sees no GPU.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"unknown device {device!r}; use auto, cpu, cuda or cuda:N.") from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device {device!r} was asked for, but torch sees no GPU; use cpu or auto."
        )
    own = own_gpu() if resolved.type == "cuda" and resolved.index is None else None
    return resolved if own is None else torch.device("cuda", own)


def own_gpu() -> int | None:
    """Return the number of the GPU of this process, if it is one of several that share them."""
    number, started = torch.cuda.device_count(), int(os.environ.get("WORLD_SIZE", "1")) > 1
    return int(os.environ.get("LOCAL_RANK", "0")) % number if started and number else None


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Let a GPU's convolutions keep float32's 24 bits for a while.

    By default torch lets cuDNN round their factors to 11 bits (TF32), though not those of matrix
    products; whoever allows it for these has asked for it, and gets it.
    """
    if not torch.cuda.is_available():
        yield
        return
    cudnn: Any = torch.backends.cudnn
    kinds = (cudnn.conv, cudnn.rnn)
    before = [kind.fp32_precision for kind in kinds]
    try:
        for kind in kinds:
            kind.fp32_precision = "ieee"
        yield
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision


def bytes_of_one(compute: Callable[[int], object], *, number: int = 4) -> int:
    """Return the bytes that one item more adds to the largest tensor of a computation.

    ``compute`` takes a number of items, and is run for ``number`` of them and for twice as many.
    """
    sizes = []
    for items in (number, 2 * number):
        with _Sizes() as seen:
            compute(items)
        sizes.append(seen.bytes)
    few, many = sizes
    return max((b - a for a, b in zip(few, many, strict=False)), default=0) // number


def planned(make: Callable[[], T], what: str, *, cure: str) -> T:
    """Return what ``make`` makes, after a look at its size if that is large.

    The look is on torch's ``meta`` device, where tensors have shapes alone. ``make`` may be called
    three times, and must depend on nothing that it changes.

    Raises:
        NotEnoughMemory: it does not fit; nothing was allocated.
    """
    try:
        with _Made(_LARGE):
            return make()
    except _Large:
        pass
    seen = _Made()
    with contextlib.suppress(Exception), torch.device("meta"), seen:  # values are none there
        make()
    check_memory(seen.bytes, what, cure=cure)
    return make()


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; to a GPU the host sends it without waiting until it is there.

    So from pinned memory; other memory is copied there first.
    """
    return tensor.to(device, non_blocking=device.type == "cuda")


class _Sizes(TorchDispatchMode):
    """Notes the bytes of the result of every operation."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.bytes += [t.nbytes for t in tree_leaves(result) if isinstance(t, Tensor)]
        return result


class _Large(Exception):
    """More than some size was made."""


class _Made(TorchFunctionMode):
    """Adds up the bytes that torch's makers of tensors are asked for, up to some size."""

    def __init__(self, most: float = math.inf) -> None:
        super().__init__()
        self.most, self.bytes = most, 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _MAKERS:
            sizes = kwargs.get("size", args)
            sizes = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], list | tuple) else sizes
            if all(isinstance(size, int) for size in sizes):
                dtype = kwargs.get("dtype") or torch.get_default_dtype()
                self.bytes += math.prod(sizes) * getattr(dtype, "itemsize", 8)  # bool has none
                if self.bytes > self.most:
                    raise _Large
        return func(*args, **kwargs)
