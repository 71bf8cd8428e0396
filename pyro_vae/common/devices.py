"""Where to compute: which device, in what precision, and how much at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["bytes_of_one", "exact_convolutions", "own_gpu", "resolve_device", "sent"]


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
