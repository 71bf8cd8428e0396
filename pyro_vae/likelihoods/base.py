"""What all likelihoods share: a network, the shape of a datum, words for the data they want."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn

__all__ = ["Likelihood", "as_float", "initialize_output", "whole_number"]


class Likelihood(nn.Module):
    r"""Values that are independent given z: :math:`p(x \mid z) = \prod_d p(x_d \mid f_d(z))`.

    A subclass says what data it wants (``wants``), which output its network must have
    (``network_shape``) and how an output becomes a distribution of single values (``values``).

    Args:
        network: maps its inputs (z of shape ``(*, latent_dim)``, and whatever else it takes) to
            ``(*, *network_shape)``.
        event_shape: shape of one datum.

    Attributes:
        event_dim: number of dimensions of a datum.
        output_shape: event shape of the network's output, as ``network_shape`` gives it.
    """

    wants: ClassVar[str] = "values"

    def __init__(self, network: nn.Module, event_shape: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.event_shape = torch.Size(event_shape)
        self.event_dim = len(self.event_shape)
        self.output_shape = self.event_shape

    @classmethod
    def network_shape(cls, event_shape: Sequence[int], **options: Any) -> tuple[int, ...]:
        """Event shape that the network's output must have.

        Args:
            event_shape: shape of one datum.
            options: keyword arguments of the constructor.
        """
        return tuple(event_shape)

    def forward(self, *inputs: Tensor) -> dist.TorchDistribution:
        """Return p(x|z), batch shape ``(*,)``, event shape ``event_shape``.

        Args:
            inputs: what the network takes: z of shape ``(*, latent_dim)``, and perhaps more.

        Raises:
            ValueError: the network's output has another shape than ``network_shape`` asks for.
        """
        output = self.network(*inputs)
        shape = self.output_shape
        if output.shape[max(output.dim() - len(shape), 0) :] != shape:
            raise ValueError(
                f"{type(self).__name__} of data of shape {tuple(self.event_shape)} needs a network "
                f"with output of shape (..., {', '.join(map(str, shape))}); got "
                f"{tuple(output.shape)}. Build the network with the shape that network_shape gives."
            )
        likelihood: dist.TorchDistribution = self.values(output).to_event(self.event_dim)
        return likelihood

    def values(self, output: Tensor) -> dist.TorchDistribution:
        """Return the distributions of single values, batch shape ``(*, *event_shape)``.

        Args:
            output: what the network gave, shape ``(*, *network_shape)``.
        """
        raise NotImplementedError

    @property
    def description(self) -> str:
        """The likelihood in words, with the settings that its numbers depend on."""
        return type(self).__name__

    def extra_repr(self) -> str:
        """Show the description in the module's printed form."""
        return f"event_shape={tuple(self.event_shape)}, {self.description}"


def as_float(x: Tensor) -> Tensor:
    """Return data as floating-point numbers, in the default type if they are integers."""
    return x if x.is_floating_point() else x.to(torch.get_default_dtype())


def initialize_output(network: nn.Module, value: Tensor) -> None:
    """Start a network's output at ``value`` where the network knows how."""
    initialize = getattr(network, "initialize_output", None)
    if callable(initialize):
        initialize(value)


def whole_number(name: str, value: int, *, least: int) -> int:
    """Return an option that must be an integer of at least ``least``, or raise ``ValueError``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}; got {value!r}.")
    return value
