"""What all likelihoods share: a network, the shape of a datum, a description, checked options."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor

from ..common.registry import suggestion
from ..networks import Amortized, MakesNetwork

__all__ = ["Likelihood", "number_or_word", "whole_number"]


class Likelihood(Amortized):
    r"""Values that are independent given z: :math:`p(x \mid z) = \prod_d p(x_d \mid f_d(z))`.

    A subclass says how an output of the network becomes distributions of single values
    (:meth:`values`).

    Args:
        network: maps its inputs (z of shape ``(*, latent_dim)``, and whatever else it takes) to
            ``(*, *rows, *event_shape)``; or a function that makes such a network from its output
            shape ``(*rows, *event_shape)``.
        event_shape: shape of one datum.
        rows: numbers of outputs for each value of x; by default one.
        output_shape: shape of an output, where its values do not have the same number each.

    Attributes:
        event_dim: number of dimensions of a datum.
        output_shape: event shape of the network's output.
    """

    def __init__(
        self,
        network: MakesNetwork,
        event_shape: Sequence[int],
        rows: tuple[int, ...] = (),
        output_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__(network, output_shape or (*rows, *event_shape))
        self.event_shape = torch.Size(event_shape)
        self.event_dim = len(self.event_shape)

    def distribution(self, output: Tensor) -> dist.TorchDistribution:
        """Return p(x|z), batch shape ``(*,)``, event shape ``event_shape``."""
        return self.values(output).to_event(self.event_dim)

    def values(self, output: Tensor) -> dist.TorchDistribution:
        """Return the distributions of single values, batch shape ``(*, *event_shape)``.

        ``output`` is the network's, shape ``(*, *output_shape)``.
        """
        raise NotImplementedError

    @torch.no_grad()
    def baseline(self, x: Tensor) -> Tensor | None:
        r"""Return log p of each datum where nothing is known of it, :math:`\sum_d \log p(x_d)`.

        The values are independent, with one distribution for each d: that of this family at the
        output which training starts from. What a model with latents is worth is what it is better.

        Args:
            x: data of shape ``(N, *event_shape)``.

        Returns:
            Log densities, shape ``(N,)``, in nats; ``None`` for a family without such a start.
        """
        own = copy.deepcopy(
            self, {id(self.network): self.network}
        )  # which starts, and not this one
        start = own.starting_output(x if x.is_floating_point() else x.float())
        return None if start is None else own.distribution(start).log_prob(x)

    @property
    def description(self) -> str:
        """The likelihood in words, with the settings that its numbers depend on."""
        return type(self).__name__

    def extra_repr(self) -> str:
        """Show the description in the module's printed form."""
        return f"event_shape={tuple(self.event_shape)}, {self.description}"


def whole_number(name: str, value: int, *, least: int) -> int:
    """Return an option that must be an integer of at least ``least``; else ``ValueError``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}; got {value!r}.")
    return value


def number_or_word(
    name: str, option: float | str, words: Sequence[str], *, above: float = 0.0
) -> float | str:
    """Return an option that is one of some words, or a finite number above a bound.

    Raises:
        ValueError: another word or number.
    """
    if isinstance(option, str) and option in words:
        return option
    try:
        value = math.nan if isinstance(option, bool) else float(option)
    except (TypeError, ValueError):
        raise ValueError(
            f"unknown {name} {option!r}; give a number above {above:g}, or one of "
            f"{', '.join(map(repr, words))}." + suggestion(str(option), words)
        ) from None
    if not (value > above and math.isfinite(value)):
        raise ValueError(f"{name} must be finite and above {above:g}; got {option!r}.")
    return value
