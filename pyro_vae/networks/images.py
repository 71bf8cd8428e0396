"""Geometry of image networks: stages that halve or double an image of any size."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.nn.functional import conv_transpose2d

from .base import Network, check_widths, he_normal

__all__ = ["Double", "Halve", "ImageDecoder", "ImageEncoder", "image_sizes"]

_LEAST_SIDE = 8
_KERNEL, _STRIDE = 4, 2  # A kernel that the stride divides: no checkerboard (Odena et al. 2016).


class ImageEncoder(Network):
    """Encoder that ends in a linear map of its smallest image.

    Args:
        in_shape: event shape of the images, ``(*channels, height, width)``.
        out_shape: event shape of the output, for instance ``(2, latent_dim)``.
        widths: channels after each halving.
        stages: maps ``(N, prod(channels), height, width)`` to the smallest image, whose channels
            are the last of ``widths``.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        widths: Sequence[int],
        stages: Sequence[nn.Module],
    ) -> None:
        super().__init__(in_shape, out_shape)
        self.hidden = nn.Sequential(*stages)
        smallest = widths[-1] * prod(image_sizes(in_shape, widths)[-1])
        linear = nn.Linear(smallest, prod(out_shape))
        he_normal(linear.weight, smallest)
        nn.init.zeros_(linear.bias)
        self.output = linear

    def transform(self, x: Tensor) -> Tensor:
        """Map images of shape ``(N, *in_shape)`` to ``(N, prod(out_shape))``."""
        *channels, height, width = self.in_shape
        images = x.reshape(len(x), prod(channels), height, width)
        y: Tensor = self.output(self.hidden(images).flatten(1))
        return y


class ImageDecoder(Network):
    """Decoder that starts from a linear map to its smallest image.

    Args:
        in_shape: event shape of the input, for instance ``(latent_dim,)``.
        out_shape: event shape of the images, ``(*channels, height, width)``.
        widths: channels before each doubling.
        stages: maps the smallest image, whose channels are the first of ``widths``, to half the
            size of the output, with the last of ``widths`` as channels.
        gain: gain of the first linear map; 2 where ``stages`` start with a nonlinearity.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        widths: Sequence[int],
        stages: Sequence[nn.Module],
        *,
        gain: float,
    ) -> None:
        super().__init__(in_shape, out_shape)
        smallest = (widths[0], *image_sizes(out_shape, widths)[-1])
        linear = nn.Linear(prod(in_shape), prod(smallest))
        he_normal(linear.weight, prod(in_shape), gain=gain)
        nn.init.zeros_(linear.bias)
        self.hidden = nn.Sequential(linear, nn.Unflatten(1, smallest), *stages)
        *channels, height, width = out_shape
        self.output = _DoubleWithImageBias(widths[-1], prod(channels), (height, width))

    def transform(self, x: Tensor) -> Tensor:
        """Map ``x`` of shape ``(N, *in_shape)`` to images of shape ``(N, channels, H, W)``."""
        y: Tensor = self.output(self.hidden(x.reshape(len(x), prod(self.in_shape))))
        return y


class Halve(nn.Conv2d):
    """Convolution that halves an image, rounding down; every pixel has its share.

    Args:
        fan_in: channels of the input.
        fan_out: channels of the output.
        gain: gain of the initial weights; 1 where the input is not behind a nonlinearity.
    """

    def __init__(self, fan_in: int, fan_out: int, *, gain: float = 2.0) -> None:
        super().__init__(fan_in, fan_out, _KERNEL, stride=_STRIDE, padding=1)
        he_normal(self.weight, fan_in * _KERNEL**2, gain=gain)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class Double(nn.ConvTranspose2d):
    """Transposed convolution that doubles an image, to a size that may be odd.

    Args:
        fan_in: channels of the input.
        fan_out: channels of the output.
        size: height and width of the output; the input has half of them, rounded down.
        gain: gain of the initial weights; 1 where the input is not behind a nonlinearity.
        bias: whether there is one bias per channel.
    """

    def __init__(
        self,
        fan_in: int,
        fan_out: int,
        size: tuple[int, int],
        *,
        gain: float = 2.0,
        bias: bool = True,
    ) -> None:
        odd = (size[0] % _STRIDE, size[1] % _STRIDE)
        super().__init__(
            fan_in, fan_out, _KERNEL, stride=_STRIDE, padding=1, output_padding=odd, bias=bias
        )
        # Each pixel of the output sees (kernel / stride)^2 pixels of the input.
        he_normal(self.weight, fan_in * (_KERNEL / _STRIDE) ** 2, gain=gain)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class _DoubleWithImageBias(Double):
    """``Double`` with one bias per pixel, so that the output can start at the data's mean."""

    def __init__(self, fan_in: int, fan_out: int, size: tuple[int, int]) -> None:
        super().__init__(fan_in, fan_out, size, bias=False)
        self.bias = nn.Parameter(torch.zeros(fan_out, *size))

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Map images to images of twice the size."""
        y: Tensor = conv_transpose2d(
            x, self.weight, stride=_STRIDE, padding=1, output_padding=self.output_padding
        )
        return y if self.bias is None else y + self.bias


def image_sizes(shape: Sequence[int], widths: Sequence[int]) -> list[tuple[int, int]]:
    """Return height and width of an image and after each halving, largest first.

    Args:
        shape: event shape of the images, ``(*channels, height, width)``.
        widths: one entry for each halving.

    Raises:
        ValueError: no image, an image smaller than 8x8, or no or too many halvings.
    """
    check_widths(widths)
    if len(shape) < 2 or min(shape[-2:]) < _LEAST_SIDE:
        raise ValueError(
            "convolutional networks need images of shape (..., height, width), at least "
            f"{_LEAST_SIDE}x{_LEAST_SIDE}; got {tuple(shape)}. "
            "Use the network 'mlp' or 'gated' for vectors and smaller images."
        )
    height, width = shape[-2:]
    most = min(height, width).bit_length() - 1
    if not 1 <= len(widths) <= most:
        raise ValueError(
            f"an image of {height}x{width} can be halved 1 to {most} times, once for each hidden "
            f"width; got {len(widths)} hidden widths, {tuple(widths)}."
        )
    return [(height >> stage, width >> stage) for stage in range(len(widths) + 1)]
