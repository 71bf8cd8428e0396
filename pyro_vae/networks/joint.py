"""A network with several inputs: side by side as one vector, or as planes of one image."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from .base import initialize_output

__all__ = ["Joint", "plane_shape"]


def plane_shape(in_shapes: Sequence[Sequence[int]]) -> tuple[int, int, int]:
    """Shape ``(planes, height, width)`` of several inputs as one image, of the first one's size.

    An input of that size, ``(*channels, height, width)``, has a plane for each channel; any other
    one has a constant plane for each of its values.
    """
    size = tuple(in_shapes[0][-2:])
    height, width = size
    return sum(prod(s[:-2] if tuple(s[-2:]) == size else s) for s in in_shapes), height, width


class Joint(nn.Module):
    """Network of several inputs, concatenated over common leading dimensions.

    It is called with one tensor of shape ``(*, *in_shape)`` for each of ``in_shapes``. The leading
    dimensions broadcast, so that x ``(B, ...)`` goes with draws z ``(K, B, latent_dim)``. ::

        network = Joint(MLP((784 + 16,), (2, 8)), (28, 28), (16,))
        network(x, z)

    A network of images gets them as planes: those of the first input, which is an image, and a
    constant one for each value of an input that is no image of its size. ::

        network = Joint(ConvEncoder((3 + 10, 32, 32), (2, 8)), (3, 32, 32), (10,))
        network(x, label)

    Args:
        network: maps ``(*, total)`` to ``(*, *out_shape)``, where ``total`` is the number of values
            in all inputs; or images ``(*, planes, height, width)``, see :func:`plane_shape`.
        in_shapes: event shape of each input.

    Raises:
        ValueError: no inputs, or a network of another ``in_shape``.
    """

    def __init__(self, network: nn.Module, *in_shapes: Sequence[int]) -> None:
        super().__init__()
        if not in_shapes:
            raise ValueError("a joint network needs the event shape of each input; got none.")
        self.network = network
        self.in_shapes = tuple(torch.Size(shape) for shape in in_shapes)
        total = sum(prod(shape) for shape in self.in_shapes)
        in_shape = tuple(getattr(network, "in_shape", (total,)))
        image = plane_shape(self.in_shapes) if len(self.in_shapes[0]) > 1 else None
        self.size = image[1:] if in_shape == image else None
        if in_shape not in ((total,), image):
            planes = "" if image is None else f", or {image} if it is one of images"
            raise ValueError(
                f"inputs of shapes {self._describe()} have {total} values together, so the network "
                f"needs in_shape ({total},){planes}; got {in_shape}."
            )

    def forward(self, *inputs: Tensor) -> Tensor:
        """Map inputs of shapes ``(*, *in_shape)`` to ``(*, *out_shape)``.

        Raises:
            ValueError: another number of inputs, an input of another event shape, or leading
                dimensions that do not broadcast.
        """
        shapes = [tuple(x.shape) for x in inputs]
        expected = f"network expects {len(self.in_shapes)} inputs of event shapes "
        expected += f"{self._describe()}; got "
        if len(inputs) != len(self.in_shapes):
            raise ValueError(f"{expected}{len(inputs)} of shapes {shapes}.")
        rows, leading = [], []
        for x, in_shape in zip(inputs, self.in_shapes, strict=True):
            batch_dims = x.dim() - len(in_shape)
            if batch_dims < 0 or x.shape[batch_dims:] != in_shape:
                raise ValueError(f"{expected}shapes {shapes}.")
            leading.append(x.shape[:batch_dims])
            rows.append(self._side_by_side(x, in_shape))
        try:
            common = torch.broadcast_shapes(*leading)
        except RuntimeError as error:
            raise ValueError(
                f"{expected}shapes {shapes}, whose leading dimensions do not broadcast."
            ) from error
        event = rows[0].shape[len(leading[0]) + 1 :]
        wide = [row.expand(*common, -1, *event) for row in rows]
        return self.network(torch.cat(wide, len(common)))

    def _side_by_side(self, x: Tensor, in_shape: torch.Size) -> Tensor:
        """An input as values ``(*, number)``, or as planes ``(*, number, height, width)``."""
        leading = x.shape[: x.dim() - len(in_shape)]
        if self.size is None:
            return x.reshape(*leading, prod(in_shape))
        if in_shape[-2:] == self.size:
            return x.reshape(*leading, prod(in_shape[:-2]), *self.size)
        return x.reshape(*leading, prod(in_shape), 1, 1).expand(*leading, -1, *self.size)

    def initialize_output(self, value: Tensor) -> None:
        """Start the network's output at ``value``, if the network knows how."""
        initialize_output(self.network, value)

    def _describe(self) -> str:
        return ", ".join(str(tuple(shape)) for shape in self.in_shapes)
