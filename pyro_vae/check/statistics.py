"""Statistics of data sets, by kind of data, and a classifier that tells two sets apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from ..common.registry import check_choice
from ..programs.supports import bounds, is_discrete
from .uniformity import binomial_cdf

__all__ = ["Kind", "Statistic", "default_statistics", "kind_of", "told_apart"]

Kind = Literal["binary", "counts", "positive", "real"]
Statistic = Callable[[Tensor], Tensor | float]
"""From a data set ``(N, *event_shape)`` to one number."""

_MOST_DIMENSIONS = 256  # whose correlations are looked at
_FOLDS = 5


def kind_of(support: Any | None, x: Tensor) -> Kind:
    """Kind of data, from the support of the site that observes them."""
    found = None if support is None else bounds(support, x)
    if found is None:  # vectors, bounds that differ, or nothing known
        return "binary" if _is_boolean(support) else "real"
    low, high = found[0].amin().item(), found[1].amax().item()
    if is_discrete(support) and low >= 0:
        return "binary" if high <= 1 else "counts"
    return "positive" if low >= 0 and high == float("inf") else "real"


def default_statistics(kind: Kind, *, dimensions: int = 2) -> dict[str, Statistic]:
    """Return the statistics that suit a kind of data.

    The mean; the variance and the greatest value (all but binary data, whose mean says both); the
    least value (real and positive data); the share of zeros (counts). Of several dimensions also
    the variance of a datum's mean, which correlations change, the mean absolute correlation of two
    dimensions, and, for binary data, the standard deviation of the dimensions' means.

    Args:
        kind: ``"binary"``, ``"counts"``, ``"positive"`` or ``"real"``.
        dimensions: number of values of a datum.

    Returns:
        Functions by name, each from a data set ``(N, *event_shape)`` to one number.

    Raises:
        ValueError: an unknown kind.
    """
    check_choice("kind", kind, ("binary", "counts", "positive", "real"))
    chosen: dict[str, Statistic] = {"mean": lambda x: x.double().mean()}
    if kind != "binary":
        chosen["variance"] = lambda x: _rows(x).var(0).mean()
    if kind == "counts":
        chosen["share of zeros"] = lambda x: (x == 0).double().mean()
    if kind in ("positive", "real"):
        chosen["least value"] = lambda x: x.min()
    if kind != "binary":
        chosen["greatest value"] = lambda x: x.max()
    if dimensions > 1:
        if kind == "binary":
            chosen["sd of dimensions' means"] = lambda x: _rows(x).mean(0).std()
        chosen["variance of datum means"] = lambda x: _rows(x).mean(1).var()
        chosen["mean |correlation|"] = _mean_correlation
    return chosen


def told_apart(x: Tensor, replicated: Tensor, *, seed: int = 0) -> tuple[float, float]:
    """Share of the data that a classifier tells from their replicates, and its p-value.

    A logistic regression of the values, their squares, and the datum's mean and its square is
    trained on four fifths of the pairs (datum, replicate), and ranks the two of each other pair.
    Where model and data agree, datum and replicate are exchangeable, and the number of pairs ranked
    rightly is Binomial(N, 1/2), but for a slight dependence of the five parts.

    Args:
        x: data, ``(N, *event_shape)``.
        replicated: one replicate of each, of the same shape.
        seed: seed of the parts.

    Returns:
        The share, 0.5 for sets that are alike, and P(Binomial(N, 1/2) / N >= share).

    References:
        Lopez-Paz and Oquab (2017), Revisiting classifier two-sample tests.
        https://arxiv.org/abs/1610.06545
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    n = len(x)
    pair = _features(torch.cat([x, replicated])).unflatten(0, (2, n)).numpy()  # (2, N, F)
    generator = torch.Generator().manual_seed(seed)
    fold = (torch.arange(n) % min(_FOLDS, n))[torch.randperm(n, generator=generator)].numpy()
    right = torch.empty(n, dtype=torch.bool)
    for part in range(min(_FOLDS, n)):
        rest = pair[:, fold != part]
        labels = [1] * rest.shape[1] + [0] * rest.shape[1]
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
        classifier.fit(rest.reshape(-1, rest.shape[-1]), labels)
        one, other = (torch.from_numpy(classifier.decision_function(p[fold == part])) for p in pair)
        coin = torch.rand(len(one), generator=generator) < 0.5
        right[torch.from_numpy(fold == part)] = torch.where(one == other, coin, one > other)
    count = int(right.sum())
    cdf = binomial_cdf(n, torch.tensor([0.5]))[0]
    return count / n, 1 - (cdf[count - 1].item() if count else 0.0)


def _features(x: Tensor) -> Tensor:
    rows = _rows(x)
    parts = [rows]
    if rows.shape[1] > 1:
        parts += [rows.mean(1, keepdim=True), rows.mean(1, keepdim=True).square()]
    if (rows != rows.square()).any():
        parts.append(rows.square())
    return torch.cat(parts, 1)


def _mean_correlation(x: Tensor) -> Tensor:
    """Mean absolute correlation of two dimensions, of those that vary, at most 256 of them."""
    rows = _rows(x)
    step = -(-rows.shape[1] // _MOST_DIMENSIONS)
    rows = rows[:, ::step]
    rows = rows - rows.mean(0)
    scale = rows.norm(dim=0)
    unit = rows / scale.where(scale > 0, 1.0)
    total = (unit.T @ unit).abs().sum() - (scale > 0).sum()
    number = rows.shape[1] * (rows.shape[1] - 1)
    return total / number


def _rows(x: Tensor) -> Tensor:
    """Data as a matrix ``(N, D)`` in float64."""
    return x.double().reshape(len(x), -1)


def _is_boolean(support: Any) -> bool:
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support is torch.distributions.constraints.boolean
