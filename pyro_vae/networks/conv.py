"""Convolutional networks: strided convolutions down, transposed convolutions up."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import nn

from ..common.registry import lookup
from .base import ACTIVATIONS
from .images import Double, Halve, ImageDecoder, ImageEncoder, image_sizes

__all__ = ["ConvDecoder", "ConvEncoder"]


class ConvEncoder(ImageEncoder):
    """Convolutional encoder: each hidden layer halves the image, a linear map ends it.

    Maps ``(*, *in_shape)`` to ``(*, *out_shape)``; the last two dimensions of ``in_shape`` are
    height and width, the product of the others is the number of channels. There is no batch
    normalization: a datum's output depends on no other datum. Weights start at draws from
    N(0, 2 / fan_in), biases at zero (He et al. 2015, https://arxiv.org/abs/1502.01852).

    Args:
        in_shape: event shape of the images, from 8x8 up, odd sizes included.
        out_shape: event shape of the output, for instance ``(2, latent_dim)``.
        hidden: channels of the hidden layers, from the input on.
        activation: name of the nonlinearity. The default is smooth, as Laplace's method needs it.

    Raises:
        ValueError: no image, an image smaller than 8x8, more layers than halvings, an unknown
            activation or, when called, an input of another event shape.

    References:
        Radford et al. (2016). https://arxiv.org/abs/1511.06434
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        hidden: Sequence[int] = (32, 64),
        activation: str = "gelu",
    ) -> None:
        nonlinearity = lookup("activation", activation, ACTIVATIONS)
        image_sizes(in_shape, hidden)
        stages: list[nn.Module] = []
        for fan_in, fan_out in pairwise((prod(in_shape[:-2]), *hidden)):
            stages += [Halve(fan_in, fan_out), nonlinearity()]
        super().__init__(in_shape, out_shape, hidden, stages)


class ConvDecoder(ImageDecoder):
    """Convolutional decoder: the mirror of ``ConvEncoder``, with one output bias per pixel.

    Maps ``(*, *in_shape)`` to ``(*, *out_shape)``; the last two dimensions of ``out_shape`` are
    height and width, the product of the others is the number of channels. A linear map gives the
    smallest image; each hidden layer is followed by a doubling to the exact size.

    Args:
        in_shape: event shape of the input, for instance ``(latent_dim,)``.
        out_shape: event shape of the images, from 8x8 up, odd sizes included.
        hidden: channels of the hidden layers, from the input on.
        activation: name of the nonlinearity. The default is smooth, as Laplace's method needs it.

    Raises:
        ValueError: no image, an image smaller than 8x8, more layers than halvings, an unknown
            activation or, when called, an input of another event shape.

    References:
        Radford et al. (2016). https://arxiv.org/abs/1511.06434
        Odena et al. (2016). https://distill.pub/2016/deconv-checkerboard
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        hidden: Sequence[int] = (64, 32),
        activation: str = "gelu",
    ) -> None:
        nonlinearity = lookup("activation", activation, ACTIVATIONS)
        sizes = image_sizes(out_shape, hidden)[-2:0:-1]
        stages: list[nn.Module] = [nonlinearity()]
        for (fan_in, fan_out), size in zip(pairwise(hidden), sizes, strict=True):
            stages += [Double(fan_in, fan_out, size), nonlinearity()]
        super().__init__(in_shape, out_shape, hidden, stages, gain=2.0)
