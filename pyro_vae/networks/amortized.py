"""Distributions whose parameters are the output of a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from .base import initialize_output

__all__ = ["Amortized", "MakesNetwork"]

MakesNetwork = nn.Module | Callable[[tuple[int, ...]], nn.Module]
"""A network, or a function that makes one with the output shape that it is given."""


class Amortized(nn.Module):
    r"""A distribution whose parameters are a network's output, :math:`p(\cdot \mid f(inputs))`.

    The base of likelihoods and posteriors. A subclass says which shape the output has, how an
    output becomes a distribution (:meth:`distribution`) and, if it can, at which output an
    untrained network should start (:meth:`starting_output`).

    Args:
        network: maps inputs with leading dimensions ``(*,)`` to ``(*, *output_shape)``; or a
            function that makes such a network, for instance ``lambda shape: MLP((8,), shape)``.
        output_shape: event shape of the network's output; -1 where any size will do.

    Raises:
        ValueError: a function is to make a network of unknown shape.
    """

    def __init__(self, network: MakesNetwork, output_shape: Sequence[int]) -> None:
        super().__init__()
        self.output_shape = tuple(output_shape)
        if not isinstance(network, nn.Module):
            if -1 in self.output_shape:
                raise ValueError(
                    f"{type(self).__name__} needs to know all sizes to have a network made; give "
                    "them, or the network itself."
                )
            network = network(self.output_shape)
        self.network = network

    def forward(self, *inputs: Tensor) -> dist.TorchDistribution:
        """Return the distribution for inputs of leading dimensions ``(*,)``, its batch shape.

        Raises:
            ValueError: the network's output does not have shape ``(*, *output_shape)``.
        """
        return self.distribution(self.output(*inputs))

    def output(self, *inputs: Tensor) -> Tensor:
        """Return the network's output for some inputs, after a check of its shape."""
        output = self.network(*inputs)
        leading = output.dim() - len(self.output_shape)
        sizes = zip(output.shape[max(leading, 0) :], self.output_shape, strict=False)
        if leading < 0 or any(wanted not in (size, -1) for size, wanted in sizes):
            shape = ", ".join("any" if size == -1 else str(size) for size in self.output_shape)
            raise ValueError(
                f"{type(self).__name__} needs a network whose output has shape (..., {shape}); got "
                f"{tuple(output.shape)}. Give a function in place of the network, such as lambda "
                "shape: MLP(in_shape, shape), and it is called with the right shape."
            )
        return output

    def distribution(self, output: Tensor) -> dist.TorchDistribution:
        """Return the distribution of parameters ``output``, shape ``(*, *output_shape)``."""
        raise NotImplementedError

    def starting_output(self, x: Tensor) -> Tensor | None:
        """Return the output that an untrained network should start at, or ``None``.

        A family with parameters of its own starts them here, too. ``x`` are floating-point training
        data of shape ``(N, *event_shape)``.
        """
        return None

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Start at training data ``(N, *event_shape)``, if family and network know how."""
        x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
        for own in (*self.parameters(), *self.buffers()):
            x = x.to(own.device)
            break
        start = self.starting_output(x)
        if start is not None:
            initialize_output(self.network, start)
