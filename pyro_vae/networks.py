"""Neural networks between event shapes, for the encoder and the decoder."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn

from .errors import lookup

__all__ = ["ACTIVATIONS", "MLP"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "softplus": nn.Softplus,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


class MLP(nn.Module):
    r"""Multilayer perceptron from one event shape to another, over any leading dimensions.

    Maps ``(*, *in_shape)`` to ``(*, *out_shape)``. Weights start Glorot-uniform and biases at zero
    (Glorot and Bengio 2010, https://proceedings.mlr.press/v9/glorot10a.html).

    Args:
        in_shape: event shape of the input.
        out_shape: event shape of the output.
        hidden: widths of the hidden layers; empty for a linear map.
        activation: name of the nonlinearity between layers.

    Raises:
        ValueError: an unknown activation or, when called, an input of another event shape.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        hidden: Sequence[int] = (200, 200),
        activation: str = "tanh",
    ) -> None:
        super().__init__()
        self.in_shape, self.out_shape = torch.Size(in_shape), torch.Size(out_shape)
        nonlinearity = lookup("activation", activation, ACTIVATIONS)
        widths = (prod(in_shape), *hidden)
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(widths):
            layers += [_linear(fan_in, fan_out), nonlinearity()]
        self.hidden = nn.Sequential(*layers)
        self.output = _linear(widths[-1], prod(out_shape))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` of shape ``(*, *in_shape)`` to ``(*, *out_shape)``."""
        batch_dims = x.dim() - len(self.in_shape)
        if batch_dims < 0 or x.shape[batch_dims:] != self.in_shape:
            raise ValueError(
                f"network expects input of shape (..., {', '.join(map(str, self.in_shape))}); "
                f"got {tuple(x.shape)}."
            )
        y: Tensor = self.output(self.hidden(x.reshape(*x.shape[:batch_dims], -1)))
        return y.reshape(*x.shape[:batch_dims], *self.out_shape)

    @torch.no_grad()
    def initialize_output(self, value: Tensor) -> None:
        """Set the output's bias, so that an untrained network gives about ``value``.

        Args:
            value: tensor of shape ``out_shape``.
        """
        self.output.bias.copy_(value.reshape(-1))


def _linear(fan_in: int, fan_out: int) -> nn.Linear:
    linear = nn.Linear(fan_in, fan_out)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
