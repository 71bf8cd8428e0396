"""Likelihoods of real values: normal, Laplace, Student's t."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ..distributions import densities
from ..distributions.special import inverse_softplus
from ..networks import MakesNetwork
from .base import number_or_word
from .scale import Scaled

__all__ = ["Laplace", "Normal", "StudentT"]

_LEAST_DEGREES = 2.01


class Normal(Scaled):
    r"""Independent normals :math:`p(x \mid z) = \prod_d N(x_d; f_d(z), s^2)`, real-valued data.

    Arguments are those of :class:`~pyro_vae.likelihoods.scale.Scaled`; the locations are the means.
    """

    def values(self, output: Tensor) -> dist.TorchDistribution:
        """Return the normals of single values."""
        return dist.Normal(*self._split(output))


class Laplace(Scaled):
    r"""Independent :math:`p(x \mid z) = \prod_d \frac{1}{2s} e^{-|x_d - f_d(z)| / s}`, real data.

    Arguments are those of :class:`Normal`; s is the mean absolute deviation.
    """

    def values(self, output: Tensor) -> dist.TorchDistribution:
        """Return the Laplace densities of single values."""
        return densities.Laplace(*self._split(output))

    def _unit_deviation(self) -> float:
        return math.sqrt(2)


class StudentT(Scaled):
    r"""Independent Student's t densities of location f(z), real-valued data with outliers.

    Other arguments are those of :class:`~pyro_vae.likelihoods.scale.Scaled`; the standard deviation
    is :math:`s \sqrt{\nu / (\nu - 2)}`.

    Args:
        degrees_of_freedom: :math:`\nu` above 2 to fix it, ``"learned"``: one for all of x, or
            ``"value"``: one for each value of x; at least 2.01, starting at 5.
    """

    def __init__(
        self,
        network: MakesNetwork,
        event_shape: Sequence[int],
        *,
        scale: float | str = "shared",
        floor: float = 1e-2,
        degrees_of_freedom: float | str = "learned",
    ) -> None:
        super().__init__(network, event_shape, scale=scale, floor=floor)
        # Above 2, so that values have a variance.
        degrees = number_or_word(
            "degrees_of_freedom", degrees_of_freedom, ["learned", "value"], above=_LEAST_DEGREES
        )
        learned = isinstance(degrees, str)
        raw = inverse_softplus(torch.tensor(5.0 if learned else degrees) - _LEAST_DEGREES)
        raw = raw.repeat(*event_shape) if degrees == "value" else raw
        self.raw_degrees: Tensor
        if learned:
            self.raw_degrees = nn.Parameter(raw)
        else:
            self.register_buffer("raw_degrees", raw)

    @property
    def degrees_of_freedom(self) -> Tensor:
        """Degrees of freedom, a scalar or (for ``"value"``) of shape ``event_shape``."""
        return _LEAST_DEGREES + softplus(self.raw_degrees)

    @property
    def description(self) -> str:
        """The likelihood in words, with the scale, its floor and the degrees of freedom."""
        learned = isinstance(self.raw_degrees, nn.Parameter)
        degrees = "learned" if learned else f"{self.degrees_of_freedom.item():.4g}"
        return f"{super().description}, {degrees} degrees of freedom"

    def values(self, output: Tensor) -> dist.TorchDistribution:
        """Return the t densities of single values."""
        return densities.StudentT(self.degrees_of_freedom, *self._split(output))

    def _unit_deviation(self) -> float:
        degrees = self.degrees_of_freedom.min().item()
        return math.sqrt(degrees / (degrees - 2))
