"""Fully connected networks: the multilayer perceptron and its gated form."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import Tensor, nn

from ..common.registry import lookup
from .base import ACTIVATIONS, Network, check_widths, he_normal

__all__ = ["MLP", "GatedDense", "GatedMLP"]


class MLP(Network):
    r"""Multilayer perceptron from one event shape to another, over any leading dimensions.

    Maps ``(*, *in_shape)`` to ``(*, *out_shape)``. Weights start Glorot-uniform and biases at zero
    (Glorot and Bengio 2010, https://proceedings.mlr.press/v9/glorot10a.html).

    Args:
        in_shape: event shape of the input.
        out_shape: event shape of the output.
        hidden: widths of the hidden layers; empty for a linear map.
        activation: name of the nonlinearity between layers.

    Raises:
        ValueError: an unknown activation, a width below one or, when called, an input of another
            event shape.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        hidden: Sequence[int] = (200, 200),
        activation: str = "tanh",
    ) -> None:
        super().__init__(in_shape, out_shape)
        check_widths(hidden)
        nonlinearity = lookup("activation", activation, ACTIVATIONS)
        widths = (prod(in_shape), *hidden)
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(widths):
            layers += [_glorot_linear(fan_in, fan_out), nonlinearity()]
        self.hidden = nn.Sequential(*layers)
        self.output = _glorot_linear(widths[-1], prod(out_shape))


class GatedMLP(Network):
    r"""Multilayer perceptron with gated layers :math:`h = (W x + b) \odot \sigma(V x + c)`.

    Arguments are those of :class:`MLP` but ``activation``: the gate is the nonlinearity. The output
    layer is linear. Weights start at draws from :math:`N(0, 2 / \mathrm{fan\_in})` and biases at
    zero.

    Raises:
        ValueError: a width below one or, when called, an input of another event shape.

    References:
        Dauphin et al. (2017). https://arxiv.org/abs/1612.08083
        Tomczak and Welling (2018). https://arxiv.org/abs/1705.07120
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        hidden: Sequence[int] = (300, 300),
    ) -> None:
        super().__init__(in_shape, out_shape)
        check_widths(hidden)
        widths = (prod(in_shape), *hidden)
        self.hidden = nn.Sequential(*(GatedDense(*pair) for pair in pairwise(widths)))
        self.output = _he_linear(widths[-1], prod(out_shape))


class GatedDense(nn.Module):
    r"""One gated layer :math:`(W x + b) \odot \sigma(V x + c)`, from ``fan_in`` to ``fan_out``."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.linear = _he_linear(fan_in, fan_out)
        self.gate = _he_linear(fan_in, fan_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` of shape ``(*, fan_in)`` to ``(*, fan_out)``."""
        return self.linear(x) * self.gate(x).sigmoid()


def _glorot_linear(fan_in: int, fan_out: int) -> nn.Linear:
    linear = nn.Linear(fan_in, fan_out)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def _he_linear(fan_in: int, fan_out: int) -> nn.Linear:
    linear = nn.Linear(fan_in, fan_out)
    he_normal(linear.weight, fan_in)
    nn.init.zeros_(linear.bias)
    return linear
