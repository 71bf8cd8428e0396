"""Numbers as text: tensors in one base64 string, found again by their place in it."""

from __future__ import annotations

import base64
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

__all__ = ["Pack", "Weights", "packed_data"]

Weights = Literal["float32", "float16"]
_LARGEST_HALF = 65504.0


class Pack:
    """Tensors one after another, in little-endian float32 or float16.

    Args:
        kind: ``"float32"`` or ``"float16"``, half the size and three digits.
    """

    def __init__(self, kind: Weights = "float32") -> None:
        self.kind = kind
        self._parts: list[np.ndarray[Any, Any]] = []
        self._size = 0

    def add(self, tensor: Tensor) -> list[int]:
        """Append a tensor, in row-major order; return its first place and its number of values.

        Raises:
            ValueError: values that float16 cannot hold.
        """
        values = tensor.detach().cpu().double().numpy().reshape(-1)
        if self.kind == "float16" and np.abs(values).max(initial=0) > _LARGEST_HALF:
            raise ValueError(
                f"weights of {np.abs(values).max():.3g} do not fit into float16, which ends at "
                f"{_LARGEST_HALF:.0f}; write the report with weights='float32' (--weights float32)."
            )
        self._parts.append(values.astype("<f4" if self.kind == "float32" else "<f2"))
        place = self._size
        self._size += values.size
        return [place, values.size]

    def content(self) -> dict[str, Any]:
        """Return the pack as plain values."""
        joined = np.concatenate(self._parts) if self._parts else np.zeros(0, "<f4")
        return {"kind": self.kind, "base64": _text(joined)}


def packed_data(x: Tensor) -> dict[str, Any]:
    """Pack data as bits, as bytes or in float32: the smallest that holds their values exactly.

    ``x`` has any shape; the values are ``byte / over``, in row-major order.
    """
    values = x.detach().cpu().float().reshape(-1)
    if ((values == 0) | (values == 1)).all():
        bits = np.packbits(values.numpy().astype(np.uint8), bitorder="little")
        return {"kind": "bits", "size": values.numel(), "base64": _text(bits)}
    for over in (1, 255):
        levels = (values * over).round().clamp(0, 255)
        if torch.equal(levels / over, values):
            return {"kind": "bytes", "over": over, "base64": _text(levels.numpy().astype(np.uint8))}
    return {"kind": "float32", "base64": _text(values.numpy().astype("<f4"))}


def _text(array: np.ndarray[Any, Any]) -> str:
    return base64.b64encode(array.tobytes()).decode()
