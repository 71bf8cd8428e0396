"""A network with several inputs."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from .base import initialize_output

__all__ = ["Joint"]


class Joint(nn.Module):
    """Network of several inputs, concatenated over common leading dimensions.

    It is called with one tensor of shape ``(*, *in_shape)`` for each of ``in_shapes``. The leading
    dimensions broadcast, so that x ``(B, ...)`` goes with draws z ``(K, B, latent_dim)``. ::

        network = Joint(MLP((784 + 16,), (2, 8)), (28, 28), (16,))
        network(x, z)

    Args:
        network: maps ``(*, total)`` to ``(*, *out_shape)``, where ``total`` is the number of values
            in all inputs.
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
        in_shape = getattr(network, "in_shape", None)
        if in_shape is not None and tuple(in_shape) != (total,):
            raise ValueError(
                f"inputs of shapes {self._describe()} have {total} values together, so the network "
                f"needs in_shape ({total},); got {tuple(in_shape)}."
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
            rows.append(x.reshape(*x.shape[:batch_dims], prod(in_shape)))
        try:
            common = torch.broadcast_shapes(*leading)
        except RuntimeError as error:
            raise ValueError(
                f"{expected}shapes {shapes}, whose leading dimensions do not broadcast."
            ) from error
        return self.network(torch.cat([row.expand(*common, -1) for row in rows], -1))

    def initialize_output(self, value: Tensor) -> None:
        """Start the network's output at ``value``, if the network knows how."""
        initialize_output(self.network, value)

    def _describe(self) -> str:
        return ", ".join(str(tuple(shape)) for shape in self.in_shapes)
