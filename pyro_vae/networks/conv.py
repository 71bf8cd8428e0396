"""Networks for images, plain and residual: convolutions that halve the image, then double it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn
from torch.nn.functional import conv_transpose2d

from ..common.registry import lookup
from .base import ACTIVATIONS, Network, check_widths, he_normal

__all__ = [
    "ConvDecoder",
    "ConvEncoder",
    "Double",
    "DoubleWithImageBias",
    "Halve",
    "ResidualBlock",
    "ResidualDecoder",
    "ResidualEncoder",
]

_LEAST_SIDE = 8
_KERNEL, _STRIDE = 4, 2  # A kernel that the stride divides: no checkerboard (Odena et al. 2016).


class _ImageEncoder(Network):
    """Encoder of stages that halve the image, then a linear map; arguments as of its subclasses.

    With ``blocks``, that many residual blocks follow each halving, and one nonlinearity the last of
    them; without, a nonlinearity follows each halving.
    """

    of_images = True

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        hidden: Sequence[int],
        activation: str,
        blocks: int | None,
    ) -> None:
        super().__init__(in_shape, out_shape)
        nonlinearity = lookup("activation", activation, ACTIVATIONS)
        *_, smallest = _image_sizes(in_shape, hidden)
        stages: list[nn.Module] = []
        for fan_in, fan_out in pairwise((prod(in_shape[:-2]), *hidden)):
            stages += [Halve(fan_in, fan_out, gain=2.0 if blocks is None else 1.0)]
            stages += _refinement(fan_out, nonlinearity, blocks)
        self.hidden = nn.Sequential(*stages, *([] if blocks is None else [nonlinearity()]))
        self.output = _linear(hidden[-1] * prod(smallest), prod(out_shape))

    def transform(self, x: Tensor) -> Tensor:
        """Map images of shape ``(N, *in_shape)`` to ``(N, prod(out_shape))``."""
        *channels, height, width = self.in_shape
        images = x.reshape(len(x), prod(channels), height, width)
        return self.output(self.hidden(images).flatten(1))


class _ImageDecoder(Network):
    """Decoder that starts from a linear map to its smallest image: the encoder's mirror."""

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        hidden: Sequence[int],
        activation: str,
        blocks: int | None,
    ) -> None:
        super().__init__(in_shape, out_shape)
        nonlinearity = lookup("activation", activation, ACTIVATIONS)
        size, *sizes, smallest = _image_sizes(out_shape, hidden)
        gain = 2.0 if blocks is None else 1.0
        stages = _refinement(hidden[0], nonlinearity, blocks)
        for (fan_in, fan_out), larger in zip(pairwise(hidden), reversed(sizes), strict=True):
            stages += [Double(fan_in, fan_out, larger, gain=gain)]
            stages += _refinement(fan_out, nonlinearity, blocks)
        first = _linear(prod(in_shape), hidden[0] * prod(smallest), gain=gain)
        image = nn.Unflatten(1, (hidden[0], *smallest))
        last = [] if blocks is None else [nonlinearity()]
        self.hidden = nn.Sequential(first, image, *stages, *last)
        self.output = DoubleWithImageBias(hidden[-1], prod(out_shape[:-2]), size)


class ConvEncoder(_ImageEncoder):
    """Convolutional encoder: each hidden layer halves the image, and a linear map follows the last.

    Maps ``(*, *in_shape)`` to ``(*, *out_shape)``; the last two dimensions of ``in_shape`` are
    height and width, the product of the others is the number of channels. There is no batch
    normalization, which would make log p(x) of a datum depend on the data evaluated with it.
    Weights start at draws from N(0, 2 / fan_in), biases at zero (He et al. 2015,
    https://arxiv.org/abs/1502.01852).

    Args:
        in_shape: event shape of the images, at least 8x8, odd sizes included.
        out_shape: event shape of the output, for instance ``(2, latent_dim)``.
        hidden: channels of the hidden layers, from the input on.
        activation: name of the nonlinearity; the default is smooth, as Laplace's method requires.

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
        super().__init__(in_shape, out_shape, hidden, activation, None)


class ConvDecoder(_ImageDecoder):
    """Convolutional decoder: the mirror of :class:`ConvEncoder`, with one output bias per pixel.

    A linear map gives the smallest image, and each hidden layer is followed by a doubling to the
    exact size. Arguments and errors are those of :class:`ConvEncoder`, with ``out_shape`` that of
    the images, ``(*channels, height, width)``.

    References:
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
        super().__init__(in_shape, out_shape, hidden, activation, None)


class ResidualEncoder(_ImageEncoder):
    """Residual encoder: each stage halves the image and refines it by pre-activation blocks.

    Arguments and errors are those of :class:`ConvEncoder`, and ``blocks``, the number of residual
    blocks in each stage, at least one. Blocks start as the identity, which keeps a deep network
    trainable without batch normalization.

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
        super().__init__(in_shape, out_shape, hidden, activation, blocks)


class ResidualDecoder(_ImageDecoder):
    """Residual decoder: each stage refines the image by residual blocks and doubles it.

    The mirror of :class:`ResidualEncoder`; arguments as there, with the output of
    :class:`ConvDecoder`.
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
        super().__init__(in_shape, out_shape, hidden, activation, blocks)


class Halve(nn.Conv2d):
    """Convolution that halves an image, rounding down; every pixel contributes.

    ``fan_in`` and ``fan_out`` are numbers of channels. ``gain``, of the initial weights, is 1 where
    the input does not come from a nonlinearity.
    """

    def __init__(self, fan_in: int, fan_out: int, *, gain: float = 2.0) -> None:
        super().__init__(fan_in, fan_out, _KERNEL, stride=_STRIDE, padding=1)
        _start(self, fan_in * _KERNEL**2, gain)


class Double(nn.ConvTranspose2d):
    """Transposed convolution that doubles an image to ``size``, a height and width that may be odd.

    Other arguments are those of :class:`Halve`, and whether there is one ``bias`` per channel.
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
        _start(self, fan_in * (_KERNEL / _STRIDE) ** 2, gain)


class DoubleWithImageBias(Double):
    """``Double`` with one bias per pixel, so that the output can start at the data's mean."""

    def __init__(self, fan_in: int, fan_out: int, size: tuple[int, int]) -> None:
        super().__init__(fan_in, fan_out, size, bias=False)
        self.bias = nn.Parameter(torch.zeros(fan_out, *size))

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Map images to images of twice the size."""
        y = conv_transpose2d(
            x, self.weight, stride=_STRIDE, padding=1, output_padding=self.output_padding
        )
        return y if self.bias is None else y + self.bias


class ResidualBlock(nn.Module):
    """``x + f(x)`` with f two 3x3 convolutions, each after a nonlinearity of the given class.

    The last convolution starts at zero, so the block starts as the identity.
    """

    def __init__(self, channels: int, nonlinearity: type[nn.Module]) -> None:
        super().__init__()
        first, last = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        _start(first, 9 * channels, 2.0)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.get_parameter("bias"))
        self.branch = nn.Sequential(nonlinearity(), first, nonlinearity(), last)

    def forward(self, x: Tensor) -> Tensor:
        """Map images to images of the same shape."""
        return x + self.branch(x)


def _refinement(
    channels: int, nonlinearity: type[nn.Module], blocks: int | None
) -> list[nn.Module]:
    """Layers that follow a change of size: residual blocks, or else a nonlinearity."""
    if blocks is None:
        return [nonlinearity()]
    if blocks < 1:
        raise ValueError(f"a residual stage needs at least 1 block; got {blocks}.")
    return [ResidualBlock(channels, nonlinearity) for _ in range(blocks)]


def _linear(fan_in: int, fan_out: int, *, gain: float = 2.0) -> nn.Linear:
    linear = nn.Linear(fan_in, fan_out)
    _start(linear, fan_in, gain)
    return linear


def _start(layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d, fan_in: float, gain: float) -> None:
    he_normal(layer.weight, fan_in, gain=gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _image_sizes(shape: Sequence[int], widths: Sequence[int]) -> list[tuple[int, int]]:
    """Return height and width of an image ``shape``, and after a halving for each of ``widths``.

    Raises:
        ValueError: no image, an image smaller than 8x8, or no or too many halvings.
    """
    check_widths(widths)
    if len(shape) < 2 or min(shape[-2:]) < _LEAST_SIDE:
        last = len(shape) == 3 and shape[-1] <= 4 and min(shape[:2]) >= _LEAST_SIDE
        raise ValueError(
            "convolutional networks need images of shape (..., height, width), at least "
            f"{_LEAST_SIDE}x{_LEAST_SIDE}; got {tuple(shape)}. "
            + ("If its channels are last, give x.movedim(-1, 1). " if last else "")
            + "Use the network 'mlp' or 'gated' for vectors and smaller images."
        )
    height, width = shape[-2:]
    most = min(height, width).bit_length() - 1
    if not 1 <= len(widths) <= most:
        raise ValueError(
            f"an image of {height}x{width} can be halved 1 to {most} times, once for each hidden "
            f"width; got {len(widths)} hidden widths, {tuple(widths)}."
        )
    return [(height >> stage, width >> stage) for stage in range(len(widths) + 1)]
