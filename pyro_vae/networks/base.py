"""What every network shares: event shapes, leading dimensions, an output with a settable start."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod, sqrt
from typing import ClassVar

import torch
from torch import Tensor, nn

__all__ = ["ACTIVATIONS", "Network", "check_widths", "he_normal", "initialize_output"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "softplus": nn.Softplus,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


class Network(nn.Module):
    """Map from one event shape to another, over any leading dimensions.

    A subclass sets ``hidden``, which takes flat rows unless ``transform`` is overridden, and
    ``output``, the last layer, whose bias has one entry for each value of ``out_shape`` and starts
    at zero.

    Args:
        in_shape: event shape of the input.
        out_shape: event shape of the output.
    """

    hidden: nn.Module
    output: nn.Module
    of_images: ClassVar[bool] = False
    """Whether its inputs are images, on which further inputs lie as planes."""

    def __init__(self, in_shape: Sequence[int], out_shape: Sequence[int]) -> None:
        super().__init__()
        self.in_shape, self.out_shape = torch.Size(in_shape), torch.Size(out_shape)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` of shape ``(*, *in_shape)`` to ``(*, *out_shape)``.

        Raises:
            ValueError: an input of another event shape.
        """
        batch_dims = x.dim() - len(self.in_shape)
        if batch_dims < 0 or x.shape[batch_dims:] != self.in_shape:
            raise ValueError(
                f"network expects input of shape (..., {', '.join(map(str, self.in_shape))}); "
                f"got {tuple(x.shape)}."
            )
        y = self.transform(x.reshape((-1, *self.in_shape)))
        return y.reshape((*x.shape[:batch_dims], *self.out_shape))

    def transform(self, x: Tensor) -> Tensor:
        """Map ``x`` of shape ``(N, *in_shape)`` to N rows with the values of ``out_shape``."""
        return self.output(self.hidden(x.reshape(len(x), prod(self.in_shape))))

    @torch.no_grad()
    def initialize_output(self, value: Tensor) -> None:
        """Set the output's bias, so that an untrained network gives about ``value``.

        Raises:
            ValueError: a value whose shape does not broadcast to ``out_shape``.
        """
        bias = self.output.get_parameter("bias")
        try:
            value = value.expand(self.out_shape)
        except RuntimeError as error:
            raise ValueError(
                f"the network's output has shape {tuple(self.out_shape)}; "
                f"got a value of shape {tuple(value.shape)}, which does not broadcast to it."
            ) from error
        bias.copy_(value.reshape(bias.shape))


def initialize_output(network: nn.Module, value: Tensor) -> None:
    """Start the output of any module at ``value``, if the module knows how."""
    initialize = getattr(network, "initialize_output", None)
    if callable(initialize):
        initialize(value)


def he_normal(weight: Tensor, fan_in: float, *, gain: float = 2.0) -> None:
    """Fill ``weight`` with draws from N(0, gain / fan_in).

    A gain of 2 preserves the scale of activations behind rectified inputs, a gain of 1 behind
    linear ones (He et al. 2015, https://arxiv.org/abs/1502.01852).
    """
    nn.init.normal_(weight, std=sqrt(gain / fan_in))


def check_widths(hidden: Sequence[int]) -> None:
    """Raise a ``ValueError`` unless every width is at least one."""
    if any(width < 1 for width in hidden):
        raise ValueError(f"hidden widths must be at least 1; got {tuple(hidden)}.")
