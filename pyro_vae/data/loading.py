"""Loading a data set: read, split, binarized with a seed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from ..common.options import Binarize, Layout
from ..common.registry import check_choice, suggestion
from ..common.schema import Schema
from ..common.seeding import derive
from ..common.verbs import verb
from .arrays import to_single
from .columns import infer
from .exposure import check_splits
from .files import READERS, reader_of
from .frames import as_frame, as_written, is_frame
from .named import DATASETS
from .pictures import channels_first
from .sets import Data, Splits, draw
from .stored import LARGE, Stored, check_rows
from .tables import coded

__all__ = ["load", "load_rows", "load_table"]

Columns = Mapping[str, str] | Schema | None


@verb
def load(
    name: str | Path | Any,
    *,
    columns: Columns = None,
    binarize: Binarize | None = None,
    layout: Layout | None = None,
    seed: int = 0,
    validation: int | None = None,
    root: str | Path | None = None,
    download: bool = True,
) -> Splits:
    r"""Load a data set as training, validation and test data.

    - ``digits``: scikit-learn's 1,797 handwritten digits of 8x8 pixels (1,257 + 180 + 360), no
      download.
    - ``mnist``, ``fashion-mnist``: through torchvision, images of 28x28 (50,000 + 10,000 + 10,000).
    - a path: ``.npy`` with an array ``(N, *event_shape)``, or ``.npz`` with ``x``
      (shuffled) or ``train``, and perhaps ``valid`` and ``test`` (labels as ``y`` or ``train_y``,
      ..., exposures of counts as ``exposure`` or ``train_exposure``, ...); a matrix of
      ``scipy.sparse.save_npz``; ``.h5ad``, see :func:`~pyro_vae.data.cells.read_h5ad`. A split
      that the file lacks is a tenth of its training data, always the same.
    - a table: a path, ``.csv`` or ``.parquet``, or a frame of pandas or polars. Its columns get a
      likelihood each (``train.schema``; see :func:`~pyro_vae.data.columns.infer`), and missing
      cells are NaN.
    - a folder of pictures, see :func:`~pyro_vae.data.pictures.read_pictures`: gray ``(N, H, W)``
      or colours ``(N, C, H, W)``. Folders in it are classes, whose numbers are the labels; or
      ``train`` and perhaps ``valid`` and ``test``.

    Data of more than a gigabyte (as float32) stay on disk, and are read as they are used.

    For binarization, integer images are first divided by 255, or by their largest value if they
    are not 8-bit.

    - ``dynamic``: pixels are drawn with their gray value as probability, for training anew at every
      epoch, for validation and test once. ``static``: all are drawn once.
    - ``threshold``: 1 above one half, else 0. ``gray``: gray values in [0, 1]. ``none``: values as
      they are.
    - ``dequantized``: :math:`(k + u) / L` for level k of L and uniform noise u, drawn as often as
      ``dynamic``. A density of it bounds the probability of the levels from below (add
      :math:`\log_2 L` to its bits/dim; Theis et al. 2016, https://arxiv.org/abs/1511.01844).

    Numbers under different binarizations are not comparable.

    Args:
        name: name, path or frame.
        columns: of a table, likelihoods by column in place of those chosen from the values
            (``{"age": "student-t", "id": "ignore"}``), or the schema of another table, by which
            this one is read.
        binarize: by default ``dynamic`` for named data sets, ``gray`` for folders of pictures and
            ``none`` for files.
        layout: where the channels of pictures in a file are, ``"channels-first"`` or
            ``"channels-last"``: these are moved to the front. By default that is found from the
            shape, and said.
        seed: seed of the binarization.
        validation: number of training data set aside for validation, from their end.
        root: folder of downloaded data; by default the environment variable ``PYRO_VAE_DATA``, else
            ``~/.cache/pyro_vae``.
        download: whether missing data may be downloaded.

    Raises:
        ValueError: an unknown name; gray values outside [0, 1] to binarize; NaN or empty data; as
            many validation as training data, or more.
        FileNotFoundError: a path or data set that is not there.
        ImportError: tables without pandas.
    """
    if binarize is not None:
        check_choice("binarization", binarize, get_args(Binarize))
    frame = is_frame(name)
    reader = None if frame else DATASETS.get(str(name))
    if reader is None:
        title = "table" if frame else Path(name).name
        found = _split(_read(name, columns, layout), str("table" if frame else name))
    else:
        title, found = str(name), reader(root, download)
    if found["train"].schema is None:
        _refuse_columns(columns, title)
    elif binarize not in (None, "none"):
        raise ValueError(f"{title!r} is a table; binarization is for gray values.")
    binarize = binarize or _usual(name)
    if validation is not None or "valid" not in found:
        found = _set_aside(found, "valid", validation)
    shapes = {split: tuple(data.event_shape) for split, data in found.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"the splits of {title!r} hold data of different shapes: {shapes}.")
    for split, data in found.items():
        _check_labels(data, f"{split} split of {title!r}")
    check_splits(found, repr(title))
    largest = _largest([data.x for data in found.values()])
    splits = {}
    for index, split in enumerate(("train", "valid", "test")):
        data = found[split]
        what = f"{split} split of {title!r}"
        if split == "valid" and len(data) == 0:
            pass  # validation=0 was asked for
        else:
            check_rows(data.x, what=what, finite=data.schema is None)
        exposure = None if data.exposure is None else data.exposure.float()
        data = replace(
            data,
            name=title,
            split=split,
            binarization=binarize,
            seed=seed,
            exposure=exposure,
        )
        splits[split] = _binarized(data, index, what, largest)
    return Splits(**splits)


@verb
def load_rows(
    name: str | Path | Any,
    *,
    like: str | Path | None = None,
    columns: Columns = None,
    layout: Layout | None = None,
    binarize: Binarize | None = None,
    seed: int = 0,
    root: str | Path | None = None,
    download: bool = True,
) -> Data:
    """Load all rows of a data set in their order, none set aside, prepared like others.

    Splits follow one another: training, validation, test. What :func:`load` draws is drawn once.

    Args:
        name: name, path or frame, as for :func:`load`.
        like: data set that the rows are prepared like, by default this one: its usual binarization,
            and the value that its integers are divided by.
        columns: of a table, see :func:`load`.
        layout: of pictures, see :func:`load`.
        binarize: binarization.
        seed: seed of the binarization.
        root: folder of downloaded data.
        download: whether missing data may be downloaded.

    Raises:
        ValueError: what :func:`load` refuses.
        FileNotFoundError: a path that is not there; or ``like``, where its largest value counts.
    """
    like = name if like is None else like
    found = _parts(name, columns, layout, root, download)
    named = str(name) in DATASETS
    title = "table" if is_frame(name) else str(name) if named else Path(name).name
    parts = [found[split] for split in ("x", "train", "valid", "test") if split in found]
    data = parts[0]
    for part in parts[1:]:
        if part.event_shape != data.event_shape:
            raise ValueError(f"the splits of {title!r} hold data of different shapes.")
        data = data.joined(part)
    _check_labels(data, repr(title))
    check_splits(found, repr(title))
    check_rows(data.x, what=repr(title) if named else str(name), finite=data.schema is None)
    binarize = binarize or _usual(like)
    largest = 1.0
    if binarize == "none" or data.x.dtype.is_floating_point or data.x.dtype == torch.bool:
        pass
    elif _usual(like) == "gray":  # of pictures, which are bytes
        largest = 255.0
    else:
        try:
            others = found if like == name else _parts(like, None, layout, root, download)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{error} Integers are divided by the largest value of the data that the model was "
                f"trained on, {like}; give gray values in [0, 1], or put that file there."
            ) from error
        largest = _largest([part.x for part in others.values()])
    exposure = None if data.exposure is None else data.exposure.float()
    data = replace(data, name=title, split="all rows", binarization=binarize, seed=seed)
    return _binarized(replace(data, exposure=exposure), 3, repr(title), largest, like=like)


def _usual(name: Any) -> Binarize:
    """Binarization of a data set, if none is asked for; of a folder that is gone, too."""
    if is_frame(name):
        return "none"
    if str(name) in DATASETS:
        return "dynamic"
    return "none" if Path(name).suffix in READERS and not Path(name).is_dir() else "gray"


def _parts(
    name: Any,
    columns: Columns,
    layout: Layout | None,
    root: str | Path | None,
    download: bool,
) -> dict[str, Data]:
    """A data set as it is: what its file holds, or its usual splits."""
    if not is_frame(name) and str(name) in DATASETS:
        return DATASETS[str(name)](root, download)
    return _read(name, columns, layout)


def _check_labels(data: Data, what: str) -> None:
    if data.y is not None and data.y.shape != data.x.shape[:1]:
        raise ValueError(f"{what} has {len(data)} data, but labels of shape {tuple(data.y.shape)}.")


@verb
def load_table(table: str | Path | Any, columns: Columns = None) -> Data:
    """Load all rows of a table, in their order.

    Args:
        table: a path, ``.csv`` or ``.parquet``, or a frame of pandas or polars.
        columns: see :func:`load`.

    Raises:
        ValueError: no table, or values that its columns do not take.
        FileNotFoundError: a path that is not there.
    """
    data = _read(table, columns, None).get("x")
    if data is None or data.schema is None:
        raise ValueError(f"{table} is no table, .csv or .parquet.")
    return data


def _read(name: Any, columns: Columns, layout: Layout | None) -> dict[str, Data]:
    """Data of a file or frame, under their names in it."""
    if is_frame(name):
        found, title = name, "the table"
    else:
        path, title = Path(name), str(name)
        if not title:
            raise ValueError(f"data has no name; give {', '.join(DATASETS)}, or a path.")
        reader = reader_of(path)
        if reader is None:
            raise ValueError(
                f"unknown data set {title!r}; there are {', '.join(DATASETS)}, or the path of a "
                f"file ({', '.join(READERS)}) or of a folder of pictures."
                f"{suggestion(title, DATASETS)}"
            )
        if not path.exists():
            raise FileNotFoundError(f"no file {path}.")
        found = reader(path)
    if not is_frame(found):
        known: Layout | None = "channels-first" if path.is_dir() else layout
        return {key: _placed(data, known, f"{title}:{key}") for key, data in found.items()}
    schema = columns if isinstance(columns, Schema) else infer(found, columns, what=title)
    x, table = coded(found, schema, what=title), as_frame(found, what=title)
    if title.endswith(".csv") and not is_frame(name):
        table = as_written(table, Path(name), schema)
    name = "table" if is_frame(name) else Path(name).name
    return {"x": Data(x, name=name, schema=schema, table=table)}


def _placed(data: Data, layout: Layout | None, what: str) -> Data:
    """Data with the channels of pictures first, in memory unless they are large."""
    x = channels_first(data.x, layout, what)
    small = isinstance(x, Stored) and 4 * math.prod(x.shape) <= LARGE
    return replace(data, x=x[:] if small else x)


def _split(found: dict[str, Data], title: str) -> dict[str, Data]:
    """Training data and test data, of which a file may hold only the one."""
    for key in {"x", "train"} & set(found):  # before shuffling, so that rows are the file's
        check_rows(found[key].x, what=f"{title}:{key}", finite=found[key].schema is None)
    check_splits(found, title)
    if "x" in found:
        data = found.pop("x")
        _check_labels(data, title)
        order = np.random.default_rng(0).permutation(len(data))
        found = {**found, "train": data.take(torch.from_numpy(order))}
    return found if "test" in found else _set_aside(found, "test", None)


def _refuse_columns(columns: Columns, title: str) -> None:
    if columns:
        raise ValueError(f"columns are those of a table, .csv or .parquet; {title!r} is none.")


def _binarized(data: Data, index: int, what: str, largest: float, *, like: Any = None) -> Data:
    x, binarize = data.x, data.binarization
    if isinstance(x, Stored):
        return replace(data, x=_read_later(x, binarize, what, largest, like))
    if binarize == "none":
        return replace(data, x=to_single(x, what=what))
    gray = x.float() / largest
    if len(gray):
        _check_gray(gray, what, like)
    if binarize == "gray":
        return replace(data, x=gray)
    if binarize == "threshold":
        return replace(data, x=(gray > 0.5).float())
    if binarize == "dequantized" and x.is_floating_point():
        raise ValueError(f"{what} is not of integers; dequantization needs their levels.")
    levels = int(largest) + 1
    generator = torch.Generator().manual_seed(derive("binarize", data.seed, index))
    drawn = draw(gray, torch.rand(gray.shape, generator=generator), binarize, levels)
    again = gray if binarize in ("dynamic", "dequantized") and data.split == "train" else None
    return replace(data, x=drawn, intensities=again, levels=levels)


def _read_later(x: Stored, binarize: Binarize, what: str, largest: float, like: Any) -> Stored:
    """Data on disk as they are used: as they are, or gray."""
    if binarize not in ("none", "gray"):
        raise ValueError(
            f"{what} is larger than a gigabyte and stays on disk, where binarization is none or "
            f"gray; got {binarize!r}. Binarize the file, or take fewer data."
        )
    if binarize == "none":
        return x.as_type(torch.float32, integers=True)
    gray = x.as_type(torch.float32, integers=True, divisor=largest)
    if x.dtype != torch.uint8:
        for block in gray.split(1000):
            _check_gray(block, what, like)
    return gray


def _check_gray(gray: Tensor, what: str, like: Any) -> None:
    if gray.min() < 0 or gray.max() > 1:
        cure = (
            "scale the data, or use --binarize none with a likelihood for real values."
            if like is None
            else f"scale the data as those of {like}, which the model was trained on."
        )
        raise ValueError(
            f"{what} has values in [{gray.min():.4g}, {gray.max():.4g}], but binarization needs "
            f"gray values in [0, 1]; {cure}"
        )


def _largest(splits: list[Tensor | Stored]) -> float:
    """Integer that stands for white: 255 for 8-bit data, else the largest of all splits."""
    if splits[0].dtype.is_floating_point:
        return 1.0
    if splits[0].dtype == torch.uint8:
        return 255.0
    return max([1.0, *(float(some.max()) for x in splits for some in x.split(1000) if len(some))])


def _set_aside(found: dict[str, Data], split: str, number: int | None) -> dict[str, Data]:
    """Take a split from the end of the training data, to which an old split is joined first."""
    train = found["train"]
    if split in found:
        train = train.joined(found[split])
    number = max(1, len(train) // 10) if number is None else number
    if split == "test" and len(train) < 2:
        raise ValueError(
            "there is 1 datum, of which none can be set aside for test; give two or more, or a "
            "test split."
        )
    if not 0 <= number < len(train):
        raise ValueError(
            f"cannot set {number} data aside for {split}: there are {len(train)} to train on. "
            f"Ask for fewer, e.g. --validation {len(train) // 10}."
        )
    keep = len(train) - number
    return {**found, "train": train.head(keep), split: train.take(slice(keep, None))}
