"""Residual convolutional networks: pre-activation blocks between halvings or doublings."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import Tensor, nn

from ..common.registry import lookup
from .base import ACTIVATIONS, he_normal
from .images import Double, Halve, ImageDecoder, ImageEncoder, image_sizes

__all__ = ["ResidualBlock", "ResidualDecoder", "ResidualEncoder"]


class ResidualEncoder(ImageEncoder):
    """Residual encoder: each stage halves the image and refines it by residual blocks.

    Maps ``(*, *in_shape)`` to ``(*, *out_shape)``; the last two dimensions of ``in_shape`` are
    height and width, the product of the others is the number of channels. There is no batch
    normalization: it would make log p(x) of a datum depend on the data evaluated with it. Blocks
    that start as the identity keep a deep network trainable without it.

    Args:
        in_shape: event shape of the images, from 8x8 up, odd sizes included.
        out_shape: event shape of the output, for instance ``(2, latent_dim)``.
        hidden: channels of the stages, from the input on.
        activation: name of the nonlinearity. The default is smooth, as Laplace's method needs it.
        blocks: residual blocks in each stage.

    Raises:
        ValueError: no image, an image smaller than 8x8, more stages than halvings, no blocks, an
            unknown activation or, when called, an input of another event shape.

    References:
        He et al. (2016). https://arxiv.org/abs/1603.05027
        Zhang et al. (2019). https://arxiv.org/abs/1901.09321
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        hidden: Sequence[int] = (32, 64),
        activation: str = "gelu",
        blocks: int = 2,
    ) -> None:
        nonlinearity = lookup("activation", activation, ACTIVATIONS)
        image_sizes(in_shape, hidden)
        stages: list[nn.Module] = []
        for fan_in, fan_out in pairwise((prod(in_shape[:-2]), *hidden)):
            stages += [Halve(fan_in, fan_out, gain=1.0), *_blocks(blocks, fan_out, nonlinearity)]
        super().__init__(in_shape, out_shape, hidden, [*stages, nonlinearity()])


class ResidualDecoder(ImageDecoder):
    """Residual decoder: the mirror of ``ResidualEncoder``, with one output bias per pixel.

    Maps ``(*, *in_shape)`` to ``(*, *out_shape)``; the last two dimensions of ``out_shape`` are
    height and width, the product of the others is the number of channels. Each stage refines the
    image by residual blocks and doubles it.

    Args:
        in_shape: event shape of the input, for instance ``(latent_dim,)``.
        out_shape: event shape of the images, from 8x8 up, odd sizes included.
        hidden: channels of the stages, from the input on.
        activation: name of the nonlinearity. The default is smooth, as Laplace's method needs it.
        blocks: residual blocks in each stage.

    Raises:
        ValueError: no image, an image smaller than 8x8, more stages than halvings, no blocks, an
            unknown activation or, when called, an input of another event shape.

    References:
        He et al. (2016). https://arxiv.org/abs/1603.05027
        Zhang et al. (2019). https://arxiv.org/abs/1901.09321
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        hidden: Sequence[int] = (64, 32),
        activation: str = "gelu",
        blocks: int = 2,
    ) -> None:
        nonlinearity = lookup("activation", activation, ACTIVATIONS)
        sizes = image_sizes(out_shape, hidden)[-2:0:-1]
        stages = _blocks(blocks, hidden[0], nonlinearity)
        for (fan_in, fan_out), size in zip(pairwise(hidden), sizes, strict=True):
            stages += [
                Double(fan_in, fan_out, size, gain=1.0),
                *_blocks(blocks, fan_out, nonlinearity),
            ]
        super().__init__(in_shape, out_shape, hidden, [*stages, nonlinearity()], gain=1.0)


class ResidualBlock(nn.Module):
    """``x + f(x)`` with f two 3x3 convolutions, each behind a nonlinearity.

    The last convolution starts at zero, so the block starts as the identity.

    Args:
        channels: channels of input and output.
        nonlinearity: class of the nonlinearity.
    """

    def __init__(self, channels: int, nonlinearity: type[nn.Module]) -> None:
        super().__init__()
        first, last = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        he_normal(first.weight, 9 * channels)
        nn.init.zeros_(last.weight)
        for convolution in (first, last):
            if convolution.bias is not None:
                nn.init.zeros_(convolution.bias)
        self.branch = nn.Sequential(nonlinearity(), first, nonlinearity(), last)

    def forward(self, x: Tensor) -> Tensor:
        """Map images to images of the same shape."""
        y: Tensor = x + self.branch(x)
        return y


def _blocks(number: int, channels: int, nonlinearity: type[nn.Module]) -> list[nn.Module]:
    if number < 1:
        raise ValueError(f"a residual stage needs at least 1 block; got {number}.")
    return [ResidualBlock(channels, nonlinearity) for _ in range(number)]
