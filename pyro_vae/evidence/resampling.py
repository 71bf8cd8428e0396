"""Draws of the posterior: draws of a proposal, resampled by their importance weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ..programs.pair import Values

__all__ = ["picked", "resampled", "rows_of"]


def resampled(log_weights: Tensor, number: int) -> Tensor:
    r"""Which of K draws to take, in proportion to their weights, ``(number, n)``.

    Systematic resampling: draw k is taken :math:`\lfloor m \bar w_k \rfloor` times or once more, m
    the number, with expectation :math:`m \bar w_k`; in random order. Equal weights give no draw
    twice while :math:`m \le K`.

    References:
        Kitagawa (1996). https://doi.org/10.1080/10618600.1996.10474692
    """
    n, device = log_weights.shape[1], log_weights.device
    weights = log_weights.softmax(0).nan_to_num(1 / len(log_weights))  # where all vanish
    steps = torch.arange(number, dtype=torch.float64, device=device)
    places = (steps + torch.rand(n, 1, dtype=torch.float64, device=device)) / number
    levels = weights.cumsum(0).T.contiguous()
    which = torch.searchsorted(levels, places * levels[:, -1:]).clamp_max(len(log_weights) - 1)
    return which.gather(1, torch.rand(n, number, device=device).argsort(1)).T


def picked(parts: Iterable[tuple[int, Values]], which: Tensor, data_axis: int) -> Values:
    """Take draws out of parts of them, each with the number of its first draw.

    Args:
        parts: values of the draws, part by part.
        which: numbers of the draws to take of each of n data, ``(m, n)``.
        data_axis: axis of the data in a value.
    """
    taken: Values = {}
    for begin, values in parts:
        for name, value in values.items():
            rows = value.movedim(data_axis, 1)
            if name not in taken:
                taken[name] = rows.new_empty(len(which), *rows.shape[1:])
            draw, datum = ((which >= begin) & (which < begin + len(rows))).nonzero(as_tuple=True)
            taken[name][draw, datum] = rows[which[draw, datum] - begin, datum]
    return {name: rows.movedim(1, data_axis) for name, rows in taken.items()}


def rows_of(values: Values, index: Tensor, data_axis: int) -> Values:
    """Latents of the data at some positions."""
    return {name: value.index_select(data_axis, index) for name, value in values.items()}
