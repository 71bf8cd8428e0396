"""Reasons to doubt an estimate, seen in its importance weights."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from .diagnostics import pareto_k_threshold

__all__ = ["DOUBTS", "doubts_of"]

_FEW, _ALONE = 5, 1.2
_LEAST, _CONSTANT, _ROUNDING = 25, 1e-4, 1e-8
_MANY, _ALIKE = 225, 0.25
_EDGE = 1e-3

DOUBTS = {
    "heavy tail": "Pareto k̂ is too high: log p(x) can be off by more than its error says",
    "one weight": "one importance weight outweighs all others: log p(x) hangs on a single draw",
    "few draws": "fewer than 25 draws, which show nothing of the weights' tail",
    "rounding": "draws lie where rounding ends the support, so that log p(x) is off in either "
    "direction",
    "missed": "a search found posterior mass that the proposal misses: it is missing from log "
    "p(x), and no error shows it",
}
"""Reasons to doubt an estimate, with what they mean."""


def doubts_of(columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Which estimates are to doubt, by reason, from columns of ``Evidence`` of shape ``(N,)``."""
    pareto_k, ess, draws = columns["pareto_k"], columns["ess"], columns["draws"]
    standard_error, edge = columns["standard_error"], columns["edge"]
    limits = {int(k): pareto_k_threshold(int(k)) for k in draws.unique()}
    limit = torch.tensor([limits[int(k)] for k in draws.tolist()]).to(pareto_k)
    spread = (draws / ess - 1).nan_to_num(posinf=math.inf)  # squared coefficient of variation
    # A tail of few draws says little; that the weights are alike says more.
    enough = torch.where(draws >= _MANY, _CONSTANT, _ALIKE)
    heavy = (pareto_k > limit) & (spread > enough)
    return {
        "heavy tail": heavy,
        "one weight": (draws >= _FEW) & ~((ess >= _ALONE) & standard_error.isfinite()),
        "few draws": (draws < _LEAST) & ~((spread < _ROUNDING) & (draws > 1)),
        "rounding": edge > (standard_error / 2).clamp_min(_EDGE),
    }
