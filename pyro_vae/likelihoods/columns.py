"""The likelihood of a table: one for each column, of the cells that are there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import prod
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..common.schema import Column, Schema
from ..data.missing import completed
from ..distributions.stacked import Stacked
from ..networks import MakesNetwork
from .base import Likelihood
from .binary import Bernoulli
from .counts import NegativeBinomial, Poisson
from .levels import Categorical
from .real import Laplace, Normal, StudentT
from .unit import Beta, TruncatedNormal

__all__ = ["Columns"]

_FAMILIES: dict[str, type[Likelihood]] = {
    "normal": Normal,
    "student-t": StudentT,
    "laplace": Laplace,
    "poisson": Poisson,
    "negative-binomial": NegativeBinomial,
    "categorical": Categorical,
    "bernoulli": Bernoulli,
    "beta": Beta,
    "truncated-normal": TruncatedNormal,
}
_SCALED = ("normal", "student-t", "laplace", "truncated-normal")
_DISPERSED = ("negative-binomial", "beta")


class Columns(Likelihood):
    r"""Rows of a table: :math:`p(v_{obs} \mid z) = \prod_{d \in obs} p_d(v_d \mid f_d(z))`.

    Each column has the likelihood that the schema names, with a scale, dispersion or degrees of
    freedom of its own. Cells that are missing (NaN) are left out, which is right if they are
    missing at random: whether one is missing may depend on the observed cells alone. Data are the
    numbers x of :class:`~pyro_vae.common.schema.Column`, but a density is that of the values v in
    the table's own units: :math:`\log p(v) = \log p(x) - \log s`, s the column's scale.

    Args:
        network: maps z of shape ``(*, latent_dim)`` to ``(*, P)``, the outputs of all columns'
            likelihoods side by side; or a function that makes such a network.
        event_shape: ``(D,)``, the number of columns.
        schema: the columns.
        scale: of real and truncated values, in standard deviations of the column: a number,
            ``"shared"``, ``"value"`` (one for each column) or ``"network"``; dispersions of
            negative-binomial and beta are ``"network"`` if it is, else one for each column.
        floor: least value of a learned scale, in standard deviations of the column.

    Raises:
        ValueError: another number of columns than the schema has.

    References:
        Nazábal et al. (2020), Handling incomplete heterogeneous data using VAEs.
        https://arxiv.org/abs/1807.03653
        Mattei and Frellsen (2019), MIWAE. https://arxiv.org/abs/1812.02633
    """

    takes_missing = True
    order: Tensor
    log_scale: Tensor

    def __init__(
        self,
        network: MakesNetwork,
        event_shape: Sequence[int],
        *,
        schema: Schema,
        scale: float | str = "value",
        floor: float = 1e-2,
    ) -> None:
        if tuple(event_shape) != (len(schema),):
            raise ValueError(
                f"the schema has {len(schema)} columns, so a row has shape ({len(schema)},); got "
                f"{tuple(event_shape)}."
            )
        groups: dict[tuple[str, int], list[int]] = {}
        for place, column in enumerate(schema):
            levels = len(column.categories) if column.kind == "category" else 0
            groups.setdefault((column.likelihood, levels), []).append(place)
        parts = [
            _FAMILIES[name](nn.Identity(), (len(places),), **_options(name, levels, scale, floor))
            for (name, levels), places in groups.items()
        ]
        size = sum(prod(part.output_shape) for part in parts)
        super().__init__(network, event_shape, output_shape=(size,))
        self.schema, self.parts = schema, nn.ModuleList(parts)
        columns = list(schema)
        for number, (places, part) in enumerate(zip(groups.values(), parts, strict=True)):
            self.register_buffer(f"place{number}", torch.tensor(places), persistent=False)
            units = _units([columns[p] for p in places], part.output_shape)
            self.register_buffer(f"units{number}", units, persistent=False)
        joined = torch.tensor([place for places in groups.values() for place in places])
        self.register_buffer("order", joined.argsort(), persistent=False)
        logs = torch.tensor([c.scale if c.is_density else 1.0 for c in columns]).log()
        self.register_buffer("log_scale", logs, persistent=False)

    @property
    def description(self) -> str:
        """The likelihood in words: how many columns have which."""
        counts = Counter(column.likelihood for column in self.schema)
        return "Columns: " + ", ".join(f"{number} {name}" for name, number in counts.items())

    def values(self, output: Tensor) -> dist.TorchDistribution:
        """Return the distributions of single cells, batch shape ``(*, D)``."""
        sizes = [prod(part.output_shape) for part in self._parts]
        distributions = [
            part.values(piece.unflatten(-1, part.output_shape) * self._buffer("units", number))
            for number, (part, piece) in enumerate(
                zip(self._parts, output.split(sizes, -1), strict=True)
            )
        ]
        return Stacked(distributions, self._places, self.order, self.log_scale)

    def starting_output(self, x: Tensor) -> Tensor:
        """Outputs at which each column's likelihood starts, for the cells that are there."""
        x, starts = completed(x), []
        for number, (part, place) in enumerate(zip(self._parts, self._places, strict=True)):
            start: Any = part.starting_output(x.index_select(-1, place))
            start = start.expand(part.output_shape) / self._buffer("units", number)
            starts.append(start.flatten())
        return torch.cat(starts)

    @property
    def _parts(self) -> list[Likelihood]:
        parts: Any = self.parts
        return list(parts)

    @property
    def _places(self) -> list[Tensor]:
        return [self._buffer("place", number) for number in range(len(self.parts))]

    def _buffer(self, name: str, number: int) -> Tensor:
        return self.get_buffer(f"{name}{number}")


def _options(name: str, levels: int, scale: float | str, floor: float) -> dict[str, Any]:
    """Options of one likelihood for several columns."""
    if name in _SCALED:
        more = {"degrees_of_freedom": "value"} if name == "student-t" else {}
        return {"scale": scale, "floor": floor, **more}
    if name in _DISPERSED:
        return {"dispersion": "network" if scale == "network" else "value"}
    return {"levels": levels} if name == "categorical" else {}


def _units(columns: Sequence[Column], shape: Sequence[int]) -> Tensor:
    """Units of a network's outputs: standard deviations of counts, whose means may be large."""
    units = torch.tensor([column.scale if column.kind == "count" else 1.0 for column in columns])
    if len(shape) == 1:
        return units
    return torch.stack([units, *[torch.ones_like(units)] * (shape[0] - 1)])
