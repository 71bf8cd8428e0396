"""Densities of values with constrained support: vectors that a bijection moves there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .flows import FlowDistribution

__all__ = ["ConstrainedDistribution"]


class ConstrainedDistribution(FlowDistribution):
    r"""Density of :math:`z = b(m + s \odot \epsilon)` with :math:`\epsilon` from a base.

    .. math:: \log p(z) = \log p(\epsilon) - \sum_d \log s_d
        - \log \left| \det \partial b(u) / \partial u \right|, \qquad u = m + s \odot \epsilon

    b is a bijection to the support, such as ``torch.distributions.biject_to`` gives. A draw
    remembers its density; any other z is mapped back. ``mean`` is the image of the base's mean, a
    central point.

    Args:
        base: distribution of :math:`\epsilon`, over vectors of D entries.
        transform: b, from real values of the shape ``shape``.
        shape: event shape of u, D values in all.
        support: support of z, where b ends.
        loc: m, of a shape that broadcasts with ``(*, D)``.
        scale: s, likewise, positive.
        validate_args: check values; ``None`` for torch's default.
    """

    def __init__(
        self,
        base: Any,
        transform: Any,
        shape: Sequence[int],
        support: Any,
        *,
        loc: Tensor,
        scale: Tensor,
        validate_args: bool | None = None,
    ) -> None:
        def determinant(u: Tensor, value: Tensor) -> Tensor:
            slope = transform.log_abs_det_jacobian(u, value)
            batch = u.shape[: u.dim() - len(shape)]
            return slope.reshape(*batch, -1).sum(-1) + scale.log().sum(-1)

        def generate(noise: Tensor) -> tuple[Tensor, Tensor]:
            u = (loc + scale * noise).reshape(*noise.shape[:-1], *shape)
            value = transform(u)
            return value, determinant(u, value)

        def normalize(value: Tensor) -> tuple[Tensor, Tensor]:
            u = transform.inv(value)
            flat = u.reshape(*u.shape[: u.dim() - len(shape)], -1)
            return (flat - loc) / scale, -determinant(u, value)

        super().__init__(base, generate, normalize, validate_args=validate_args)
        self._event_shape, self.support = transform.forward_shape(torch.Size(shape)), support
