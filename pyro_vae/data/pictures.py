"""Pictures: folders of image files, items of data sets of pictures, where their channels are."""

from __future__ import annotations

from collections.abc import Sequence
from mimetypes import guess_type
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from ..common.errors import warn
from ..common.options import Layout
from .sets import Data
from .stored import Stored

__all__ = ["channels_first", "collated", "read_pictures"]

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
# Whatever a file is called, no other decoder of Pillow's sees it.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")
# Names of the splits, in any case.
_SPLITS = {"train": "train", "valid": "valid", "val": "valid", "validation": "valid"}
_SPLITS |= {"test": "test", "training": "train", "testing": "test"}
_CHANNELS = (1, 3, 4)
# Kinds of Pillow's pictures that are kept, and what some others become.
_KINDS = {"L": "gray", "RGB": "of 3 colours", "RGBA": "of 3 colours and transparency"}
_BECOME = {"1": "L", "P": "RGB", "LA": "RGBA", "PA": "RGBA", "CMYK": "RGB", "YCbCr": "RGB"}


def read_pictures(folder: Path) -> dict[str, Data]:
    """Read a folder of pictures as gray values (N, H, W) or colours (N, C, H, W).

    They are PNG, JPEG, BMP, GIF, TIFF or WebP; how many files of other formats are left out is said
    in a warning. Folders in it are classes, in the order of their names; or ``train`` and perhaps
    ``valid`` (``val``, ``validation``) and ``test``, in upper or lower case, each with pictures or
    classes. Pictures are read when they are asked for.

    Raises:
        ValueError: no pictures; pictures of several sizes or numbers of channels, or of more than
            8 bits, or that are animated; pictures beside folders of them; a class without a picture
            for training; other folders beside those of splits.
    """
    inside = _classes(folder)
    splits = {split: name for name in inside if (split := _SPLITS.get(name.lower()))}
    if not splits:
        return {"x": _read(folder, inside)}
    if "train" not in splits or len(splits) < len(inside):
        raise ValueError(
            f"{folder} holds the folders {', '.join(inside)}; expected train, and perhaps valid "
            "and test, one of each, or classes of other names than these."
        )
    if loose := _pictures(folder):
        raise ValueError(
            f"{folder} holds pictures ({loose[0].name}, ...) beside the folders of splits; put "
            "every picture in one."
        )
    classes = _classes(folder / splits["train"])
    return {split: _read(folder / name, classes) for split, name in splits.items()}


class _Files:
    """Picture files as an array of bytes, of which rows are read."""

    def __init__(self, paths: list[Path]) -> None:
        kind, size = _header(paths[0])
        for path in paths[1:]:
            if (other := _header(path)) != (kind, size):
                raise ValueError(
                    f"{paths[0]} is {_described(kind, size)}, and {path} is {_described(*other)}; "
                    "all pictures need one size and one number of channels."
                )
        self.paths, self.kind = paths, kind
        channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[kind]
        self.shape = (len(paths), *channels, size[1], size[0])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: Any) -> np.ndarray[Any, Any]:
        which = np.arange(len(self.paths))[rows]
        found = np.empty((len(which), *self.shape[1:]), dtype=np.uint8)
        for place, number in enumerate(which):
            levels = np.asarray(_opened(self.paths[number]).convert(self.kind))
            found[place] = levels if levels.ndim == 2 else np.moveaxis(levels, -1, 0)
        return found


def _classes(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _read(folder: Path, classes: list[str]) -> Data:
    loose = _pictures(folder)
    by_class = {name: _pictures(folder / name) for name in classes if (folder / name).is_dir()}
    paths = [path for name in by_class for path in by_class[name]]
    if loose and paths:
        raise ValueError(
            f"{folder} holds pictures ({loose[0].name}, ...) beside folders of pictures "
            f"({paths[0].parent.name}, ...); a folder is a class, so put every picture in one."
        )
    if unknown := sorted(set(_classes(folder)) - set(classes)):
        raise ValueError(f"{folder / unknown[0]} is a class that the training data do not have.")
    if not loose and not paths:
        raise ValueError(
            f"{folder} holds no pictures ({', '.join(_SUFFIXES)}), nor folders of them."
        )
    labels = [classes.index(path.parent.name) for path in paths]
    y, names = (torch.tensor(labels), tuple(classes)) if paths else (None, None)
    return Data(Stored(_Files(loose or paths)), y, class_names=names)


def _pictures(folder: Path) -> list[Path]:
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    found = [path for path in files if path.suffix.lower() in _SUFFIXES]
    kinds = {path.name: guess_type(path.name)[0] or "" for path in {*files}.difference(found)}
    others = sorted(name for name in kinds if kinds[name].startswith("image/"))
    if others:
        warn(
            f"{folder} holds {len(others)} pictures of other formats ({others[0]}, ...), which are "
            f"left out; convert them to one of {', '.join(_SUFFIXES)}."
        )
    return found


def _opened(path: Path, *, whole: bool = True) -> Any:
    """A picture of Pillow; whatever is wrong with the file is said with its name."""
    from PIL import Image

    try:
        with Image.open(path, formats=_FORMATS) as picture:
            if getattr(picture, "is_animated", False) and picture.format != "MPO":
                raise ValueError("it has several frames; give each as a file of its own")
            if whole:
                picture.load()
            return picture
    except Exception as error:  # a damaged file brings up anything
        words = str(error).rstrip(".") or type(error).__name__
        raise ValueError(f"{path} cannot be read as a picture: {words}.") from error


def _header(path: Path) -> tuple[str, tuple[int, int]]:
    """Kind and size of a picture, without its values."""
    picture = _opened(path, whole=False)
    kind = _BECOME.get(picture.mode, picture.mode)
    if picture.mode == "P" and "transparency" in picture.info:
        kind = "RGBA"
    if kind not in _KINDS:
        raise ValueError(
            f"{path} is a picture of kind {picture.mode}; expected 8 bits for each value, gray or "
            "colours. Convert it, or give an array (.npy)."
        )
    return kind, picture.size


def _described(kind: str, size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]} and {_KINDS[kind]}"


def channels_first(x: Any, layout: Layout | None, what: str) -> Any:
    """Return data with their channels first, if they are pictures with 1, 3 or 4 of them last.

    Args:
        x: data, of which those with four dimensions are pictures.
        layout: where the channels are, if that is known; else it is said where they were found.
        what: name of the data in messages.

    Raises:
        ValueError: channels that may be first or last.
    """
    shape = tuple(x.shape)
    if len(shape) != 4 or layout == "channels-first":
        return x
    first, last = shape[1] in _CHANNELS, shape[3] in _CHANNELS
    if layout is None and first and last and shape[1:].count(1) < 2:
        raise ValueError(
            f"{what} has shape {shape}, whose channels may be first or last; say where they are: "
            "layout='channels-first' or 'channels-last' (--layout)."
        )
    if layout is None and (first or not last):
        return x
    moved = x.channels_first() if isinstance(x, Stored) else x.movedim(-1, 1)
    if layout is None:
        warn(
            f"{what} has shape {shape}, pictures with their channels last, and is read as "
            f"{tuple(moved.shape)}; layout='channels-first' (--layout) leaves it as it is.",
        )
    return moved


def collated(items: Sequence[Any]) -> Any:
    """Put data of a data set into one batch; pictures of Pillow become numbers in [0, 1].

    Raises:
        ValueError: data of different shapes.
    """
    rows = [item if isinstance(item, list | tuple) else (item,) for item in items]
    first = [_to_tensor(row[0]) if _is_picture(row[0]) else row[0] for row in rows]
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


def _is_picture(value: Any) -> bool:
    return hasattr(value, "getbands") and hasattr(value, "convert")


def _to_tensor(picture: Any) -> Tensor:
    """A picture of Pillow, ``(channels, height, width)``: what torchvision's ToTensor gives."""
    levels = torch.from_numpy(np.array(picture))
    image = levels[None] if levels.dim() == 2 else levels.movedim(-1, 0)
    return image / 255 if levels.dtype == torch.uint8 else image.float()
