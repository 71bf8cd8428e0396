"""Where samples and data lie in the values and log densities of a traced program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .checks import check_shape
from .traces import Batch

__all__ = ["NONE", "Layout", "Values", "pad"]

Values = dict[str, Tensor]
"""Latent values by site: shape ``(samples, *batch dims of the plates, *event_shape)``."""

NONE = "_pyro_vae_none"
"""Stands for the latents of programs without any: zeros, of which there is one for each sample."""


@dataclass(frozen=True)
class Layout:
    """Dimensions of the plates of a pair of programs, and of the samples.

    Args:
        plate_dims: number of batch dimensions that the programs' plates use.
        data_dim: batch dimension of the data plate (negative).
        latents: number of event dimensions of each latent site.
        vectorized: whether samples go through the programs in a dimension of their own. Otherwise
            each sample is given to them as one more row of data, which suits every program but
            runs the guide's network on each sample.
    """

    plate_dims: int
    data_dim: int
    latents: Mapping[str, int]
    vectorized: bool

    @property
    def data_axis(self) -> int:
        """Axis of the data in a latent's value."""
        return 1 + self.plate_dims + self.data_dim

    def fold(self, value: Tensor, event_dim: int) -> Tensor:
        """From ``(samples, ..., data, ..., event)`` to ``(..., samples * data, ..., event)``."""
        axis = value.dim() - event_dim + self.data_dim
        return value.movedim(0, axis - 1).flatten(axis - 1, axis)

    def unfold(self, value: Tensor, event_dim: int, samples: int) -> Tensor:
        """Undo :meth:`fold`."""
        missing = self.plate_dims + event_dim - value.dim()
        value = value.reshape((1,) * missing + value.shape)
        axis = value.dim() - event_dim + self.data_dim
        return value.unflatten(axis, (samples, -1)).movedim(axis, 0)

    def matrix(self, name: str, site: Any, density: Tensor, samples: int, n: int) -> Tensor:
        """Check a log density, of a site or in its plates; shape ``(samples, data)``, float64."""
        check_shape(name, site, density, n if self.vectorized else n * samples, self.data_dim)
        return self.to_matrix(density, samples, n)

    def to_matrix(self, density: Tensor, samples: int, n: int) -> Tensor:
        """Sum a site's log density to shape ``(samples, data)``, float64."""
        density = density.movedim(self.data_dim, -1)
        if not self.vectorized:
            return density.reshape(-1, samples, n).sum(0, dtype=torch.float64)
        depends_on_sample = density.dim() == self.plate_dims + 1
        lead = len(density) if depends_on_sample else 1
        return density.reshape(lead, -1, n).sum(1, dtype=torch.float64)


def pad(batch: Batch, rows: int) -> Batch:
    """Repeat the last datum until the batch has so many rows."""
    missing = rows - len(batch[0])
    if missing <= 0:
        return batch
    return tuple(torch.cat([a, a[-1:].expand(missing, *a.shape[1:])]) for a in batch)
