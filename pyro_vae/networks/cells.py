"""What a network sees of a table's row: its cells as numbers, and which of them are missing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..common.schema import Column, Schema
from .base import initialize_output

__all__ = ["CellFeatures", "Featured"]


class CellFeatures(nn.Module):
    r"""Features of a row, ``(*, D)`` to ``(*, size)``: values near 0, categories one-hot, gaps.

    Real values are in standard deviations from the mean, counts :math:`\log(1 + v / s)` with their
    standard deviation s, bounded values in [-1, 1], binary ones -1 and 1, each category 0 or 1. A
    missing cell is zero in all of these, and has a feature of its own, of a learned size that
    starts at zero: where no cell is missing in training, it stays so.

    Attributes:
        size: number of features.
    """

    takes_missing = True

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        columns = list(schema)
        for kind in ("real", "count", "bounded", "binary"):
            self._place(kind, columns)
        pairs = [
            (place, level)
            for place, column in enumerate(columns)
            if column.kind == "category"
            for level in range(len(column.categories))
        ]
        table = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
        self.register_buffer("category", table[:, 0].clone(), persistent=False)
        self.register_buffer("level", table[:, 1].float(), persistent=False)
        counts = torch.tensor([c.scale for c in columns if c.kind == "count"])
        self.register_buffer("count_scale", counts, persistent=False)
        self.gaps = nn.Parameter(torch.zeros(len(columns)))
        numbers = sum(column.kind != "category" for column in columns)
        self.size = numbers + len(pairs) + len(columns)

    def _place(self, kind: str, columns: Sequence[Column]) -> None:
        found = [place for place, column in enumerate(columns) if column.kind == kind]
        self.register_buffer(kind, torch.tensor(found, dtype=torch.int64), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of rows of shape ``(*, D)``, NaN where a cell is missing."""
        missing = x.isnan()
        x = x.masked_fill(missing, 0.0)
        seen = (~missing).to(x.dtype)

        def at(values: Tensor, kind: str) -> Tensor:
            return values.index_select(-1, self.get_buffer(kind))

        return torch.cat(
            [
                at(x, "real"),
                torch.log1p(at(x, "count").clamp_min(0) / self.get_buffer("count_scale")),
                (2 * at(x, "bounded") - 1) * at(seen, "bounded"),
                (2 * at(x, "binary") - 1) * at(seen, "binary"),
                (at(x, "category") == self.get_buffer("level")).to(x.dtype) * at(seen, "category"),
                (1 - seen) * self.gaps,
            ],
            -1,
        )


class Featured(nn.Module):
    """A network of a row's features, and of whatever else it takes.

    Args:
        features: maps data ``(*, *event_shape)`` to ``(*, size)``.
        network: takes these first.
    """

    def __init__(self, features: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.features, self.network = features, network

    def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
        """Return the network's output for data and its other inputs."""
        return self.network(self.features(x), *rest)

    def initialize_output(self, value: Tensor) -> None:
        """Start the network's output at ``value``, if the network knows how."""
        initialize_output(self.network, value)
