"""Likelihoods whose values have a scale: fixed, learned, or given by the network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ..distributions.special import inverse_softplus
from ..networks import MakesNetwork
from .base import Likelihood, number_or_word

__all__ = ["KINDS", "Dispersed", "Scaled", "check_floor", "register_raw"]

KINDS = {
    "shared": "one learned {} for all values",
    "value": "one learned {} for each value",
    "network": "a {} for each value from the network",
}


class Scaled(Likelihood):
    r"""Values with a location from the network and a scale, :math:`s = floor + softplus(\cdot)`.

    With a learned scale the density is unbounded where the decoder fits a datum exactly, so the
    scale has a floor; it is part of the model, and of every number computed from it.

    Args:
        network: maps z of shape ``(*, latent_dim)`` to locations of shape ``(*, *event_shape)``;
            with ``scale="network"`` to ``(*, 2, *event_shape)``: locations, then raw scales.
        event_shape: shape of one datum.
        scale: s, in units of x: a positive number to fix it, ``"shared"`` to learn one for all of
            x, ``"value"`` to learn one for each value of x, ``"network"`` to let it depend on z.
        floor: least value of a learned s, in units of x.

    Attributes:
        scale_kind: ``"fixed"``, ``"shared"``, ``"value"`` or ``"network"``.
        floor: least value of the scale; 0 if it is fixed.
    """

    quantity: ClassVar[str] = "scale"

    def __init__(
        self,
        network: MakesNetwork,
        event_shape: Sequence[int],
        *,
        scale: float | str = "shared",
        floor: float = 1e-2,
    ) -> None:
        scale = number_or_word(self.quantity, scale, list(KINDS))
        super().__init__(network, event_shape, rows=(2,) if scale == "network" else ())
        self.floor = check_floor(floor, self.quantity)
        self.raw_scale: Tensor | None
        self.scale_kind = register_raw(self, "raw_scale", scale, inverse_softplus)
        if self.scale_kind == "fixed":
            self.floor = 0.0

    @property
    def scale(self) -> Tensor:
        """The scale, a scalar or (for ``"value"``) of shape ``event_shape``.

        Raises:
            ValueError: the scale comes from the network, so it depends on z.
        """
        if self.raw_scale is None:
            raise ValueError(
                f"this likelihood's {self.quantity} depends on z; take it from the distribution, "
                f"likelihood(z).base_dist.{self.quantity}."
            )
        return self.floor + softplus(self.raw_scale)

    @property
    def description(self) -> str:
        """The likelihood in words, with the scale and its floor."""
        kind = type(self).__name__
        if self.scale_kind == "fixed":
            return f"{kind} with {self.quantity} {self.scale.item():.4g}"
        words = KINDS[self.scale_kind].format(self.quantity)
        return f"{kind} with {words}, at least {self.floor:.4g}"

    def starting_output(self, x: Tensor) -> Tensor:
        """Start a learned scale at the data's, and return the output for the data's mean.

        With one scale for each value, each starts at no less than a tenth of the scale of all
        values together, so that values which never vary in the training data do not start as
        certain.
        """
        if self.scale_kind == "fixed":
            return self._starting_location(x.mean(0), self.scale)
        start = self._starting_scale(x).to(x.dtype)
        raw = inverse_softplus((start - self.floor).clamp_min(self.floor))
        location = self._starting_location(x.mean(0), self.floor + softplus(raw))
        if self.raw_scale is None:
            return torch.stack([location, raw.expand_as(location)])
        self.raw_scale.copy_(raw)
        return location

    def _split(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Return location and scale of each value."""
        if self.scale_kind != "network":
            return output, self.scale
        location, raw = output.unbind(-self.event_dim - 1)
        return location, self.floor + softplus(raw)

    def _unit_deviation(self) -> float:
        """Standard deviation of a value of scale one."""
        return 1.0

    def _starting_location(self, mean: Tensor, scale: Tensor) -> Tensor:
        """Location at which a value of the given scale has the given mean."""
        return mean

    def _starting_scale(self, x: Tensor) -> Tensor:
        overall = (x - x.mean(0)).std(correction=0)
        each = x.std(0, correction=0).clamp_min(overall / 10)
        deviation = overall if self.scale_kind == "shared" else each
        return deviation / self._unit_deviation()


class Dispersed(Scaled):
    r"""Values with a mean from the network and a dispersion a, in the place of the scale.

    Args:
        network: maps z of shape ``(*, latent_dim)`` to raw means of shape ``(*, *event_shape)``;
            with ``dispersion="network"`` to ``(*, 2, *event_shape)``: raw means, raw dispersions.
        event_shape: shape of one datum.
        dispersion: a; a positive number or a word, as ``scale`` of :class:`Scaled`.
        floor: least value of a learned a.

    Attributes:
        scale: the dispersion a.
    """

    quantity: ClassVar[str] = "dispersion"

    def __init__(
        self,
        network: MakesNetwork,
        event_shape: Sequence[int],
        *,
        dispersion: float | str = "shared",
        floor: float = 1e-4,
    ) -> None:
        super().__init__(network, event_shape, scale=dispersion, floor=floor)


def register_raw(
    likelihood: Likelihood, name: str, option: float | str, raw: Callable[[Tensor], Tensor]
) -> str:
    """Give a likelihood a quantity before its link function, and return the quantity's kind.

    Args:
        likelihood: gets a buffer (a fixed quantity), a parameter that starts at 0, or ``None``
            where the network gives it.
        name: its attribute.
        option: a number, or a key of ``KINDS``.
        raw: inverse of the link function.
    """
    if not isinstance(option, str):
        likelihood.register_buffer(name, raw(torch.tensor(option)))
        return "fixed"
    shape = likelihood.event_shape if option == "value" else ()
    start = None if option == "network" else nn.Parameter(torch.zeros(shape))
    likelihood.register_parameter(name, start)
    return option


def check_floor(floor: float, quantity: str) -> float:
    """Return the least value of a learned quantity, or raise ``ValueError``."""
    if not (floor > 0 and math.isfinite(floor)):
        raise ValueError(
            f"floor must be a positive number, the least {quantity}: without one the likelihood is "
            f"unbounded; got {floor!r}."
        )
    return float(floor)
