"""Values of several families side by side, of which some may be missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from .base import expanded

__all__ = ["Cells", "Stacked"]


class Cells(constraints.Constraint):
    """Values each in the support of its own family, or NaN: missing."""

    event_dim = 0
    is_discrete = False
    missing = torch.nan
    wants = "a table's values as its columns code them: pv.load reads a table so, with its schema"

    def __init__(self, supports: Sequence[Any], places: Sequence[Tensor], order: Tensor) -> None:
        self.supports, self.places, self.order = supports, places, order
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Return for each value whether it is missing, or in its support."""
        parts = [
            support.check(value.index_select(-1, place))
            for support, place in zip(self.supports, self.places, strict=True)
        ]
        inside = torch.cat(parts, -1).index_select(-1, self.order) & ~value.isinf()
        return inside | value.isnan()


class Stacked(dist.TorchDistribution):
    r"""Independent values of several families, side by side in the last batch dimension.

    .. math:: \log p(x_d) = \log p_{g(d)}(x_d) - \log s_d, \qquad 0 \text{ where } x_d
        \text{ is missing (NaN)}

    A density of x in units of 1/s: a value is observed as :math:`x = (v - m) / s`, and the density
    is that of v.

    Args:
        parts: distributions of batch shapes ``(*, D_g)``.
        places: positions of each part's values among all D.
        order: position of each of the D values among the parts' values, one part after another.
        log_scale: logarithm of s, shape ``(D,)``.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        parts: Sequence[dist.TorchDistribution],
        places: Sequence[Tensor],
        order: Tensor,
        log_scale: Tensor,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.parts, self.places, self.order = list(parts), list(places), order
        self.log_scale = log_scale
        shape = torch.broadcast_shapes(*(part.batch_shape[:-1] for part in parts))
        super().__init__(torch.Size((*shape, len(order))), validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> Cells:
        """Support of each value, and NaN."""
        return Cells([part.support for part in self.parts], self.places, self.order)

    @property
    def mean(self) -> Tensor:
        """Means; of categories the most probable."""
        return self._joined(lambda part: part.mean)

    @property
    def variance(self) -> Tensor:
        """Variances of x."""
        return self._joined(lambda part: part.variance)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Stacked:
        """Return the distribution with a larger batch shape."""
        new = expanded(self, batch_shape)
        leading = new._batch_shape[:-1]
        new.parts = [part.expand((*leading, part.batch_shape[-1])) for part in self.parts]
        return new

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw values, none of them missing."""
        return self._joined(lambda part: part.sample(torch.Size(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density or log probability of each value; 0 where it is missing."""
        missing = value.isnan()
        terms = []
        for part, place in zip(self.parts, self.places, strict=True):
            own = value.index_select(-1, place)
            support: Any = part.support
            inside = 0.0 if support.is_discrete else 0.5
            terms.append(part.log_prob(torch.where(own.isnan(), inside, own)))
        leading = torch.broadcast_shapes(*(term.shape[:-1] for term in terms))
        joined = torch.cat([term.expand(*leading, term.shape[-1]) for term in terms], -1)
        return (joined.index_select(-1, self.order) - self.log_scale).masked_fill(missing, 0.0)

    def _joined(self, of: Callable[[Any], Tensor]) -> Tensor:
        return torch.cat([of(part) for part in self.parts], -1).index_select(-1, self.order)
