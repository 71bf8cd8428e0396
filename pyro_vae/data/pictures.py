"""Pictures: folders of image files, and their arrays with channels first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

__all__ = ["collated", "to_tensor"]


def is_picture(value: Any) -> bool:
    """Whether a value is an image of Pillow."""
    return hasattr(value, "getbands") and hasattr(value, "convert")


def to_tensor(picture: Any) -> Tensor:
    """Return an image of Pillow as numbers in [0, 1], shape ``(channels, height, width)``.

    They are those of torchvision's ``ToTensor``.
    """
    levels = torch.from_numpy(np.array(picture))
    image = levels[None] if levels.dim() == 2 else levels.movedim(-1, 0)
    return image / 255 if levels.dtype == torch.uint8 else image.float()


def collated(items: Sequence[Any]) -> Any:
    """Put data of a data set into one batch; those of Pillow become numbers in [0, 1].

    Raises:
        ValueError: data of different shapes.
    """
    rows = [item if isinstance(item, list | tuple) else (item,) for item in items]
    first = [to_tensor(row[0]) if is_picture(row[0]) else row[0] for row in rows]
    shapes = [tuple(getattr(x, "shape", ())) for x in first]
    other = next((n for n, shape in enumerate(shapes) if shape != shapes[0]), None)
    if other is not None:
        raise ValueError(
            f"the data set holds data of different shapes, {shapes[0]} and {shapes[other]}; "
            "give all the same, for instance by a transform."
        )
    if not isinstance(items[0], list | tuple):
        return default_collate(first)
    return default_collate([(x, *row[1:]) for x, row in zip(first, rows, strict=True)])
