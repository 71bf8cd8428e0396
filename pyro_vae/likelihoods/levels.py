"""Likelihoods of values on levels: gray values and class indices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import prod

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import softplus

from ..distributions import masses, pixels
from ..distributions.special import inverse_softplus, solve_increasing
from ..networks import MakesNetwork
from .base import Likelihood, whole_number
from .scale import Scaled, check_floor

__all__ = ["Categorical", "DiscretizedLogistic", "LogisticMixture", "PixelMixture"]

_FLOOR = 5e-4
_UNIT_DEVIATION = math.pi / math.sqrt(3)


class DiscretizedLogistic(Scaled):
    r"""Gray values: independent logistic distributions of location f(z), rounded to levels.

    .. math:: P(x \mid z) = \prod_d \sigma\left(\frac{x_d + h - f_d(z)}{s}\right) -
        \sigma\left(\frac{x_d - h - f_d(z)}{s}\right), \qquad h = \frac{1}{2 (levels - 1)}

    with the tails in the lowest and the highest level. These are probabilities, not densities, so
    log p(x) is at most 0 and comparable in bits per dimension. Data are the numbers
    k / (levels - 1) in [0, 1]: divide images of 0..255 by 255. Other arguments are those of
    :class:`~pyro_vae.likelihoods.scale.Scaled`.

    Args:
        levels: number of levels of each value.

    References:
        Kingma et al. (2016). https://arxiv.org/abs/1606.04934
    """

    def __init__(
        self,
        network: MakesNetwork,
        event_shape: Sequence[int],
        *,
        levels: int = 256,
        scale: float | str = "shared",
        floor: float = _FLOOR,
    ) -> None:
        super().__init__(network, event_shape, scale=scale, floor=floor)
        self.levels = whole_number("levels", levels, least=2)

    @property
    def description(self) -> str:
        """The likelihood in words, with its levels, the scale and its floor."""
        return f"{super().description}, {self.levels} levels"

    def values(self, output: Tensor) -> dist.TorchDistribution:
        """Return the mass functions of single values."""
        return masses.DiscretizedLogistic(*self._split(output), self.levels)

    def starting_output(self, x: Tensor) -> Tensor:
        """Start as other scaled values do.

        Raises:
            ValueError: data off the levels.
        """
        _check_levels(x, self.levels)
        return super().starting_output(x)

    def _unit_deviation(self) -> float:
        return _UNIT_DEVIATION

    def _starting_location(self, mean: Tensor, scale: Tensor) -> Tensor:
        def function(t: Tensor) -> Tensor:
            return masses.DiscretizedLogistic(t, scale, self.levels).mean_before_rounding

        return solve_increasing(function, _inside(mean), low=-20, high=21)


class LogisticMixture(Likelihood):
    r"""Gray values: for each value a mixture of discretized logistic distributions.

    .. math:: P(x \mid z) = \prod_d \sum_j \pi_{dj}(z) P_{dj}(x_d \mid z)

    with :math:`P_{dj}` as in :class:`DiscretizedLogistic`, of the same data; weights, locations
    and scales all come from the network. Other arguments are those of that class.

    Args:
        network: maps z of shape ``(*, latent_dim)`` to ``(*, 3 * components, *event_shape)``: the
            logits of the weights, the locations, the raw scales.
        components: number of components of each value.

    References:
        Salimans et al. (2017), PixelCNN++. https://arxiv.org/abs/1701.05517
    """

    def __init__(
        self,
        network: MakesNetwork,
        event_shape: Sequence[int],
        *,
        components: int = 5,
        levels: int = 256,
        floor: float = _FLOOR,
    ) -> None:
        rows = 3 * whole_number("components", components, least=1)
        super().__init__(network, event_shape, rows=(rows,))
        self.components = components
        self.levels = whole_number("levels", levels, least=2)
        self.floor = check_floor(floor, "scale")

    @property
    def description(self) -> str:
        """The likelihood in words, with components, levels and the floor of the scales."""
        return _described(self)

    def values(self, output: Tensor) -> dist.TorchDistribution:
        """Return the mixtures of single values."""
        rows = output.movedim(-self.event_dim - 1, -1)
        logits, loc, raw = rows.unflatten(-1, (3, self.components)).unbind(-2)
        weights = dist.Categorical(logits=logits)
        parts = masses.DiscretizedLogistic(loc, self.floor + softplus(raw), self.levels)
        return dist.MixtureSameFamily(weights, parts)

    def starting_output(self, x: Tensor) -> Tensor:
        """Equal weights, and locations spread over the data about their mean.

        Raises:
            ValueError: data off the levels.
        """
        loc, raw = _spread_out(x, self.components, self.levels, self.floor)
        return torch.cat([torch.zeros_like(loc), loc, raw])


class PixelMixture(Likelihood):
    r"""Pictures: for each pixel a mixture of discretized logistics for all its channels together.

    .. math:: P(x \mid z) = \prod_{pixels} \sum_j \pi_j(z) \prod_c P_{cj}(x_c \mid x_{<c}, z)

    with :math:`P_{cj}` as in :class:`DiscretizedLogistic`, of location :math:`m_{cj}(z) +
    \sum_{d < c} a_{cdj}(z) (x_d - \tfrac{1}{2})`: the channels of a pixel have their component in
    common, and each depends on those before it. (In :class:`LogisticMixture`, which this is for
    gray pictures, they are independent given z.) Other arguments are those of that class; single
    values of colour pictures cannot be masked.

    Args:
        network: maps z of shape ``(*, latent_dim)`` to ``(*, rows, height, width)``, for C
            channels of ``rows`` = components (1 + 2 C + C (C - 1) / 2): the logits of the weights,
            the locations m, the raw scales, the links a.
        event_shape: shape of a picture, ``(*channels, height, width)``.
        components: number of components of each pixel.

    References:
        Salimans et al. (2017), PixelCNN++ (there, a is between -1 and 1).
        https://arxiv.org/abs/1701.05517
    """

    def __init__(
        self,
        network: MakesNetwork,
        event_shape: Sequence[int],
        *,
        components: int = 5,
        levels: int = 256,
        floor: float = _FLOOR,
    ) -> None:
        if len(event_shape) < 2:
            raise ValueError(
                "'pixel-mixture' is for pictures of shape (*channels, height, width); got "
                f"{tuple(event_shape)}. Use 'logistic-mixture' for vectors."
            )
        channels = prod(event_shape[:-2])
        sizes = (1, channels, channels, channels * (channels - 1) // 2)
        number = whole_number("components", components, least=1)
        super().__init__(network, event_shape[-2:], rows=(number * sum(sizes),))
        self.event_shape = torch.Size(event_shape)
        self.event_dim = len(self.event_shape)
        self.channels, self.components = channels, components
        self._sizes = sizes
        self.levels = whole_number("levels", levels, least=2)
        self.floor = check_floor(floor, "scale")

    @property
    def description(self) -> str:
        """The likelihood in words, with components, levels and the floor of the scales."""
        return _described(self)

    def distribution(self, output: Tensor) -> dist.TorchDistribution:
        """Return p(x|z), batch shape ``(*,)``, event shape ``event_shape``."""
        if self.channels == 1:
            return super().distribution(output)
        logits, loc, raw, links = self._parts(output)
        scale = self.floor + softplus(raw)
        return pixels.PixelMixture(
            logits.squeeze(-2), loc, scale, links, self.event_shape, self.levels
        )

    def values(self, output: Tensor) -> dist.TorchDistribution:
        """Return the mixtures of single values of gray pictures.

        Raises:
            ValueError: pictures of several channels, which depend on each other.
        """
        if self.channels > 1:
            raise ValueError(f"the {self.channels} channels of a pixel depend on each other.")
        output = output.reshape(*output.shape[:-2], *self.event_shape)
        logits, loc, raw, _ = (part.squeeze(-2) for part in self._parts(output, self.event_dim))
        parts = masses.DiscretizedLogistic(loc, self.floor + softplus(raw), self.levels)
        return dist.MixtureSameFamily(dist.Categorical(logits=logits), parts)

    def starting_output(self, x: Tensor) -> Tensor:
        """Equal weights, no links, and locations spread over the data about their mean.

        Raises:
            ValueError: data off the levels.
        """
        loc, raw = _spread_out(x, self.components, self.levels, self.floor)
        size, links = self.event_shape[-2:], self._sizes[-1] * self.components
        rows = [part.movedim(0, -3).reshape(-1, *size) for part in (loc, raw)]
        return torch.cat([x.new_zeros(self.components, *size), *rows, x.new_zeros(links, *size)])

    def _parts(self, output: Tensor, size: int = 2) -> tuple[Tensor, ...]:
        """Logits, locations, raw scales and links, of shapes ``(*, *size, channels, K)``."""
        rows = output.movedim(-size - 1, -1).unflatten(-1, (-1, self.components))
        return rows.split(self._sizes, -2)


class Categorical(Likelihood):
    r"""Class indices :math:`P(x \mid z) = \prod_d \mathrm{softmax}(f_d(z))_{x_d}`.

    Images of 0..255 go in as they are. Indices have no mean: the distribution's ``mean`` is the
    most probable index, which a picture can show. Arguments are those of :class:`Likelihood`
    (``network`` gives logits ``(*, levels, *event_shape)``), and ``levels``, the number of classes
    of each value.
    """

    def __init__(
        self, network: MakesNetwork, event_shape: Sequence[int], *, levels: int = 256
    ) -> None:
        rows = whole_number("levels", levels, least=2)
        super().__init__(network, event_shape, rows=(rows,))
        self.levels = levels

    @property
    def description(self) -> str:
        """The likelihood in words, with the number of classes."""
        return f"Categorical of {self.levels} classes"

    def values(self, output: Tensor) -> dist.TorchDistribution:
        """Return the mass functions of single values."""
        return masses.Categorical(logits=output.movedim(-self.event_dim - 1, -1))

    def starting_output(self, x: Tensor) -> Tensor:
        """Log frequencies of each value's classes, each count raised by one."""
        counts = torch.stack([(x == k).sum(0) for k in range(self.levels)]).to(x.dtype)
        frequencies = (counts + 1 / self.levels) / (len(x) + 1)
        return frequencies.log()


def _described(mixture: LogisticMixture | PixelMixture) -> str:
    return (
        f"{type(mixture).__name__} of {mixture.components} components with scales from the "
        f"network, at least {mixture.floor:.4g}, {mixture.levels} levels"
    )


def _spread_out(x: Tensor, components: int, levels: int, floor: float) -> tuple[Tensor, Tensor]:
    """Locations and raw scales ``(components, *event_shape)``, spread over data about their mean.

    Raises:
        ValueError: data off the levels.
    """
    _check_levels(x, levels)
    mean = x.mean(0)
    deviation = (x - mean).std(correction=0)
    raw = inverse_softplus((deviation / _UNIT_DEVIATION - floor).clamp_min(floor))
    scale = floor + softplus(raw)
    places = torch.arange(components, dtype=x.dtype, device=x.device)
    offsets = (places - places.mean()) / max(components - 1, 1) * 2 * deviation

    def function(t: Tensor) -> Tensor:
        parts = masses.DiscretizedLogistic(t[..., None] + offsets, scale, levels)
        return parts.mean_before_rounding.mean(-1)

    centre = solve_increasing(function, _inside(mean), low=-20, high=21)
    loc = torch.stack([centre + offset for offset in offsets])
    return loc, raw.expand_as(loc)


def _inside(mean: Tensor) -> Tensor:
    """Means kept away from the ends, where a location would lie at infinity."""
    return mean.clamp(5e-3, 1 - 5e-3)


def _check_levels(x: Tensor, levels: int) -> None:
    """Raise a ``ValueError`` for data off the grid of levels, with advice."""
    grid = masses.Grid(levels)
    good = grid.check(x)
    if good.all():
        return
    top = levels - 1
    advice = (
        f"Divide data of levels 0, 1, ..., {top} by {top} (--binarize gray)."
        if x.max() > 1
        else f"Set levels to the number that the data have, or round: (x * {top}).round() / {top}."
    )
    raise ValueError(
        f"data outside the support of the likelihood: it wants {grid.wants}, and the data hold "
        f"values such as {x[~good][0].item():.4g}. {advice}"
    )
