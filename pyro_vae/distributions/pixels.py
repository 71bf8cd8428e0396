"""Colour pictures: mixtures of discretized logistics for whole pixels."""

from __future__ import annotations

from itertools import combinations
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from .masses import DiscretizedLogistic, Grid

__all__ = ["PixelMixture"]


class PixelMixture(dist.TorchDistribution):
    r"""Independent pixels, each a mixture of discretized logistics for all its channels together.

    .. math:: P(x) = \prod_{pixels} \sum_j \pi_j \prod_c P_{\mu_{cj}, s_{cj}}(x_c), \qquad
        \mu_{cj} = m_{cj} + \sum_{d < c} a_{cdj} \, (x_d - \tfrac{1}{2})

    with :math:`P` as in :class:`~pyro_vae.distributions.masses.DiscretizedLogistic`: a component
    is one of the whole pixel, and within it a channel's location is linear in the channels before.
    Each conditional sums to one over its levels, so the whole does, too.

    Args:
        logits: of the weights, shape ``(*batch, *size, K)`` for pictures of ``size``, (height,
            width).
        loc: locations m in units of x, ``(*batch, *size, C, K)`` for C channels.
        scale: scales s, likewise.
        links: a, ``(*batch, *size, C (C - 1) / 2, K)``, of channels (0, 1), (0, 2), ..., (1, 2).
        event_shape: shape of a picture, ``(*channels, *size)``.
        levels: number of levels of each value.

    References:
        Salimans et al. (2017), PixelCNN++. https://arxiv.org/abs/1701.05517
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "logits": constraints.real,
        "loc": constraints.real,
        "scale": constraints.positive,
        "links": constraints.real,
    }

    def __init__(
        self,
        logits: Tensor,
        loc: Tensor,
        scale: Tensor,
        links: Tensor,
        event_shape: torch.Size,
        levels: int,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.logits, self.loc, self.scale, self.links = logits, loc, scale, links
        self.levels = levels
        self.channels = loc.shape[-2]
        self.pairs = list(combinations(range(self.channels), 2))
        self.size = event_shape[-2:]
        batch_shape = logits.shape[: logits.dim() - len(self.size) - 1]
        super().__init__(batch_shape, event_shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True)
    def support(self) -> Any:
        """The levels, of each value."""
        return constraints.independent(Grid(self.levels), len(self.event_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> PixelMixture:
        """Return the distribution with a larger batch shape."""
        shape, here = torch.Size(batch_shape), len(self.batch_shape)
        parts = (self.logits, self.loc, self.scale, self.links)
        logits, loc, scale, links = (p.expand(*shape, *p.shape[here:]) for p in parts)
        return PixelMixture(
            logits, loc, scale, links, self.event_shape, self.levels, validate_args=False
        )

    @property
    def mean(self) -> Tensor:
        """The mean of the first channel; of the others, at the means of those before it.

        (That leaves out what the ends of the range cut off differently for each value of the
        channels before.)
        """
        means: list[Tensor] = []
        for channel in range(self.channels):
            means.append(self._channel(channel, means).mean)
        weights = self.logits.softmax(-1).unsqueeze(-2)
        return self._picture((torch.stack(means, -2) * weights).sum(-1))

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw a component for each pixel, then its channels one after the other."""
        shape = torch.Size(sample_shape)
        component = dist.Categorical(logits=self.logits).sample(shape).unsqueeze(-1)
        drawn: list[Tensor] = []
        for channel in range(self.channels):
            values = self._channel(channel, drawn).sample(() if drawn else shape)
            chosen = values.gather(-1, component)
            drawn.append(chosen.expand_as(values))
        return self._picture(torch.stack([value[..., 0] for value in drawn], -1))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of pictures of levels, shape ``(*, *event_shape)``."""
        if self._validate_args:
            self._validate_sample(value)
        x = value.reshape(*value.shape[: value.dim() - len(self.event_shape)], -1, *self.size)
        known = x.movedim(-len(self.size) - 1, 0).unsqueeze(-1)
        total = self.logits.log_softmax(-1)
        for channel, values in enumerate(known):
            total = total + self._channel(channel, known).log_prob(values)
        return total.logsumexp(-1).flatten(-len(self.size)).sum(-1)

    def _channel(self, channel: int, before: Any) -> DiscretizedLogistic:
        """Conditional of a channel in each component, given the channels before."""
        loc = self.loc[..., channel, :]
        for place, (earlier, later) in enumerate(self.pairs):
            if later == channel:
                loc = loc + self.links[..., place, :] * (before[earlier] - 0.5)
        scale = self.scale[..., channel, :]
        return DiscretizedLogistic(loc, scale, self.levels, validate_args=False)

    def _picture(self, pixels: Tensor) -> Tensor:
        """Values ``(*, *size, C)`` in the shape of pictures."""
        first = pixels.movedim(-1, -len(self.size) - 1)
        return first.reshape(*first.shape[: -len(self.size) - 1], *self.event_shape)
