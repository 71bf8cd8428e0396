"""What the program of a config is given: data, labels, exposures, and what follows from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..common.errors import warn
from ..common.options import check_taken, takes
from ..common.verbs import verb
from ..config import Config
from ..data import Data, Splits, fingerprint, load
from ..data.classes import as_in
from ..data.exposure import with_exposure
from ..models import partially_labelled
from ..models.labels import UNKNOWN, check_labels
from .folder import Run
from .tables import columns_of, with_schema

__all__ = [
    "SOME",
    "arguments",
    "complete",
    "data_of",
    "hidden",
    "identity",
    "load_data",
    "partly_labelled",
    "some_of",
]

SOME = 10_000
"""Data that are in memory at once, of those on disk."""


@verb
def load_data(config: Config, *, root: str | Path | None = None) -> Splits:
    """Load the data that a config names, with the exposures that its program takes.

    Labels are numbered by the config's classes, if it names them.
    """
    splits = load(
        config.data,
        columns=columns_of(config),
        binarize=config.binarize,
        layout=config.layout,
        seed=config.data_seed,
        validation=config.validation,
        root=root,
    )
    if takes(config, "exposure"):
        splits = Splits(*(with_exposure(data, config.exposure) for data in splits))
    return Splits(*(as_in(config.class_names, data, repr(data.name)) for data in splits))


@verb
def data_of(run: Run, *, root: str | Path | None = None) -> Splits:
    """Load the data of a run.

    Raises:
        ValueError: they have another shape than those that it was trained on.

    Warns:
        PyroVAEWarning: their training split is another one. (Data on disk are not compared.)
    """
    splits = load_data(run.config, root=root)
    train, name = splits.train, run.config.data
    if tuple(train.event_shape) != run.event_shape:
        raise ValueError(
            f"{name} has changed since the run in {run.folder} was trained on it: it holds data of "
            f"shape {tuple(train.event_shape)}, and held some of shape {run.event_shape}. Put the "
            "old data back, or train a new run."
        )
    if takes(run.config, "labels"):
        train = partly_labelled(train, run.config)
    known = run.train_data if isinstance(train.x, Tensor) else None
    if known is not None and train.sha256 != known:
        warn(
            f"{name} has changed since the run in {run.folder} was trained on it: results are of "
            "the data that are there now, of which it may have seen some."
        )
    return splits


def some_of(train: Data) -> Data:
    """Training data in memory, to start a model from: all, or ten thousand of those on disk."""
    return train if isinstance(train.x, Tensor) else train.head(SOME).in_memory()


def complete(config: Config, splits: Splits) -> Config:
    """Fill in what depends on the data, so that the model can be rebuilt without them.

    Raises:
        TypeError: labels that are not integers.
        ValueError: an option that the program does not take; data without the labels that it
            needs, or with labels out of range; a table without the likelihood of tables.
    """
    check_taken(config, "program")
    config = with_schema(config, splits)
    exposure = splits.train.exposure
    if exposure is not None and (exposure != 1).any() and not takes(config, "exposure"):
        warn(
            f"{splits.train.name!r} has exposures, which program {config.program!r} leaves unused; "
            "--program counts uses them.",
        )
    if not takes(config, "classes"):
        return config
    for data in splits:
        if data.y is None:
            raise ValueError(
                f"program {config.program!r} needs labels, which the {data.split} split of "
                f"{data.name!r} has not; give them as y (or {data.split}_y) in a .npz file."
            )
    labels = torch.cat([data.y for data in splits if data.y is not None])
    classes = config.classes or int(labels[: len(splits.train)].max()) + 1
    check_labels(labels, classes, least=UNKNOWN if takes(config, "labels") else 0)
    names = splits.train.class_names
    return replace(config, classes=classes, class_names=names and names[:classes])


def arguments(config: Config, data: Data) -> tuple[Tensor, ...]:
    """Arguments on which a config's program is evaluated: data, with labels or exposures if any."""
    if takes(config, "exposure"):
        assert data.exposure is not None  # load_data sees to it
        return data.x, data.exposure
    labels = (hidden(data) if takes(config, "labels") else data).y
    return (data.x,) if labels is None or not takes(config, "classes") else (data.x, labels)


def identity(config: Config, data: Data) -> tuple[str, str]:
    """Hash and description of the data whose log p(x), log p(x|y) or log p(x|e) is estimated."""
    if config.program == "conditional":
        return fingerprint(*arguments(config, data)), f"{data.description}, given labels"
    if data.exposure is not None and takes(config, "exposure") and (data.exposure != 1).any():
        return fingerprint(*arguments(config, data)), f"{data.description}, given exposures"
    return data.sha256, data.description


def partly_labelled(train: Data, config: Config) -> Data:
    """Training data with the labels hidden that a config hides."""
    if config.labels is None:
        return train
    return partially_labelled(train, labels=config.labels, seed=config.data_seed)


def hidden(data: Data) -> Data:
    """Data with their labels hidden."""
    return replace(data, y=torch.full((len(data),), UNKNOWN))
