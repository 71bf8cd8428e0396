"""Class labels: as inputs of networks, as latent variables, and known for only some data."""

from __future__ import annotations

from dataclasses import replace
from typing import overload

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..common.checks import may_read
from ..common.seeding import derive
from ..data.sets import Data

__all__ = ["UNKNOWN", "Classifier", "LabelPrior", "check_labels", "one_hot", "partially_labelled"]

UNKNOWN = -1
"""Label of a datum whose class is not known."""

_LABELLED_SHARE = 0.1


class LabelPrior(nn.Module):
    """Categorical :math:`p(y)` over C ``classes``, equally probable unless ``learned``.

    Learned probabilities start out equal.
    """

    logits: Tensor

    def __init__(self, classes: int, *, learned: bool = False) -> None:
        super().__init__()
        zero = torch.zeros(classes)
        if learned:
            self.logits = nn.Parameter(zero)
        else:
            self.register_buffer("logits", zero, persistent=False)

    def forward(self) -> dist.TorchDistribution:
        """Return p(y), over the integers from 0 to C - 1."""
        return dist.Categorical(logits=self.logits)


class Classifier(nn.Module):
    r"""Categorical :math:`q(y \mid x)` with the logits of a network.

    ``network`` maps x of shape ``(*, *event_shape)`` to logits of shape ``(*, classes)``.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> dist.TorchDistribution:
        """Return q(y|x), batch shape ``(*,)``, over the integers from 0 to C - 1."""
        return dist.Categorical(logits=self.network(x))


def check_labels(labels: Tensor, classes: int, *, least: int = 0) -> None:
    """Check that labels are integers from ``least`` to ``classes - 1``.

    Values are not looked at while a program is compiled, nor on a GPU but where ``fit`` and
    ``log_evidence`` check their data: the host would wait for them at every step.

    Raises:
        TypeError: labels that are not integers.
        ValueError: a label out of range; the message names the first.
    """
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(
            f"labels must be integers from {least} to {classes - 1}; got {labels.dtype}. Convert "
            "them with y.long(), or give condition_shape instead of classes for other conditions."
        )
    if not may_read(labels):
        return
    wrong = (labels < least) | (labels >= classes)
    if wrong.any():
        place = wrong.nonzero()[0]
        raise ValueError(
            f"labels must be integers from {least} to {classes - 1}; got "
            f"{int(labels[tuple(place)])} in row {int(place[-1])}."
        )


def one_hot(labels: Tensor, classes: int, *, dtype: torch.dtype) -> Tensor:
    """Return labels ``(*)``, integers from 0, as floating-point vectors ``(*, classes)``.

    Raises:
        ValueError: a label out of range. Where values are not looked at, its vector is NaN, which
            training and evidence report.
    """
    check_labels(labels, classes)
    labels = labels.unsqueeze(-1)
    hot = (labels == torch.arange(classes, device=labels.device)).to(dtype)
    return hot.masked_fill((labels < 0) | (labels >= classes), torch.nan)


@overload
def partially_labelled(
    x: Data, *, labels: int = 100, repeats: int | None = None, seed: int = 0
) -> Data: ...


@overload
def partially_labelled(
    x: Tensor, y: Tensor, *, labels: int = 100, repeats: int | None = None, seed: int = 0
) -> tuple[Tensor, Tensor]: ...


def partially_labelled(
    x: Tensor | Data,
    y: Tensor | None = None,
    *,
    labels: int = 100,
    repeats: int | None = None,
    seed: int = 0,
) -> tuple[Tensor, Tensor] | Data:
    """Keep the labels of a few data, equally many of each class, and hide the others.

    Labelled data are repeated, so that batches hold some: they are at their own place and again
    at the end.

    Args:
        x: data of shape ``(N, *event_shape)``, or ``Data`` with labels.
        y: labels of shape ``(N,)``, integers from 0; not given with ``Data``.
        labels: number of data that keep theirs. Numbers by class differ by at most one.
        repeats: how often each labelled datum occurs; by default often enough that a tenth of all
            rows are labelled.
        seed: seed of the choice.

    Returns:
        Data ``(M, *event_shape)`` and labels ``(M,)``, -1 where unknown, where x lies; M is N plus
        the repeats. For ``Data``, such ``Data``.

    Raises:
        ValueError: fewer labels than classes, or more than a class has data; labels of another
            shape; fewer than one repeat.
    """
    data, y = (x, x.y) if isinstance(x, Data) else (Data(x, y), y)
    if y is None or y.shape != data.x.shape[:1]:
        shape = None if y is None else tuple(y.shape)
        raise ValueError(f"y must have one label for each of {len(x)} data; got {shape}.")
    y = y.to(data.x.device)
    data = replace(data, y=y)
    if repeats is not None and repeats < 1:
        raise ValueError(f"repeats must be at least 1; got {repeats}.")
    classes = int(y.max()) + 1
    check_labels(y.cpu(), classes)
    if not classes <= labels <= len(y):
        raise ValueError(
            f"labels must be from {classes}, one of each class, to {len(y)}; got {labels}."
        )
    generator = torch.Generator().manual_seed(derive("labels", seed))
    order = torch.randperm(len(y), generator=generator)
    extra = set(torch.randperm(classes, generator=generator)[: labels % classes].tolist())
    kept = []
    for label in range(classes):
        number = labels // classes + (label in extra)
        rows = order[y.cpu()[order] == label]
        if len(rows) < number:
            raise ValueError(f"class {label} has {len(rows)} data, but {number} are to be labelled")
        kept.append(rows[:number])
    chosen = torch.cat(kept).sort().values.to(y.device)
    if repeats is None:
        share = _LABELLED_SHARE / (1 - _LABELLED_SHARE)
        repeats = max(1, round(share * (len(y) - labels) / labels))
    partial = torch.full_like(y, UNKNOWN)
    partial[chosen] = y[chosen]
    again = chosen.repeat(repeats - 1)
    rows = torch.cat([torch.arange(len(y), device=y.device), again])
    partial = torch.cat([partial, y[again]])
    some = replace(data.take(rows), y=partial)
    return some if isinstance(x, Data) else (some.x, partial)
