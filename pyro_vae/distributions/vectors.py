"""Densities over vectors: mixtures of many normals, and two blocks, one given the other."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from .base import LastDraw, bound, expanded

__all__ = ["BlockAutoregressive", "LowRankNormal", "NormalMixture"]

_BLOCK = 2**19  # component densities computed at once: 4 MB in float64


class LowRankNormal(dist.LowRankMultivariateNormal):
    r"""Pyro's low-rank normal, :math:`N(m, \mathrm{diag}(d) + F F^T)`, made without a wait.

    torch reads on the host whether :math:`I + F^T D^{-1} F` has a Cholesky factor; here the factor
    is NaN where it has none, and so is the density.

    Args:
        loc: mean m, shape ``(*, D)``.
        cov_factor: F, shape ``(*, D, rank)``.
        cov_diag: d, shape ``(*, D)``, positive.
        validate_args: check the arguments; ``None`` for torch's default.
    """

    def __init__(
        self,
        loc: Tensor,
        cov_factor: Tensor,
        cov_diag: Tensor,
        validate_args: bool | None = None,
    ) -> None:
        self.loc, self.cov_diag = torch.broadcast_tensors(loc, cov_diag)
        self.cov_factor = cov_factor.expand(*self.loc.shape, cov_factor.shape[-1])
        self._unbroadcasted_cov_factor = cov_factor
        self._unbroadcasted_cov_diag = cov_diag
        scaled = cov_factor.mT / cov_diag.unsqueeze(-2)
        capacitance = torch.matmul(scaled, cov_factor).contiguous()
        rank = cov_factor.shape[-1]
        capacitance.view(-1, rank * rank)[:, :: rank + 1] += 1
        tril, wrong = torch.linalg.cholesky_ex(capacitance)
        self._capacitance_tril = tril.masked_fill(wrong[..., None, None] > 0, math.nan)
        torch.distributions.Distribution.__init__(
            self, self.loc.shape[:-1], self.loc.shape[-1:], validate_args=validate_args
        )

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """Return the distribution with a larger batch shape."""
        return super().expand(batch_shape, _instance=_instance or self.__new__(type(self)))


class NormalMixture(dist.TorchDistribution):
    r"""Mixture :math:`p(z) = \sum_j \pi_j N(z; m_j, \mathrm{diag}(s_j^2))` of many components.

    The density of ``MixtureSameFamily``, without its tensor of shape ``(*, J, D)``: the quadratic
    form is a matrix product of :math:`(z^2, z)` with the components' parameters,

    .. math:: \log N(z; m, s) = -\tfrac{1}{2} \left[ z^2 \cdot s^{-2} - 2 z \cdot m s^{-2}
        + \textstyle\sum_d m_d^2 s_d^{-2} \right] - \sum_d \log s_d - \tfrac{D}{2} \log 2 \pi

    Its three terms are as large as :math:`(z / s)^2` and cancel to :math:`((z - m) / s)^2`, which
    would cost float32 all its digits where components are narrow. They are therefore computed in
    float64 about the mean of the components, in blocks of rows that bound the memory, and each log
    density is then rounded to the input's dtype.

    Args:
        logits: unnormalized log weights :math:`\log \pi`, shape ``(J,)``.
        loc: means m, shape ``(J, D)``.
        scale: standard deviations s, shape ``(J, D)``.
        validate_args: check the arguments; ``None`` for torch's default.

    Raises:
        ValueError: shapes that do not fit together.
    """

    arg_constraints = {  # noqa: RUF012
        "logits": constraints.real_vector,
        "loc": constraints.independent(constraints.real, 2),
        "scale": constraints.independent(constraints.positive, 2),
    }
    support = constraints.real_vector
    has_rsample = False

    def __init__(
        self, logits: Tensor, loc: Tensor, scale: Tensor, *, validate_args: bool | None = None
    ) -> None:
        if loc.dim() != 2 or scale.shape != loc.shape or logits.shape != loc.shape[:1]:
            raise ValueError(
                "a mixture of J normals takes logits (J,), loc (J, D) and scale (J, D); got "
                f"{tuple(logits.shape)}, {tuple(loc.shape)} and {tuple(scale.shape)}."
            )
        self.logits, self.loc, self.scale = logits, loc, scale
        super().__init__(torch.Size(), loc.shape[1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> NormalMixture:
        """Return the same mixture with another batch shape."""
        return expanded(self, batch_shape)

    @property
    def mean(self) -> Tensor:
        r""":math:`\sum_j \pi_j m_j`."""
        mean = self.logits.softmax(-1) @ self.loc
        return mean.expand(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        r"""Variance of each dimension, :math:`\sum_j \pi_j [s_j^2 + (m_j - E z)^2]`."""
        weights = self.logits.softmax(-1)
        spread = self.loc - weights @ self.loc
        variance = weights @ (self.scale.square() + spread.square())
        return variance.expand(self.batch_shape + self.event_shape)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw, without gradients: first a component, then z from it alone."""
        with torch.no_grad():
            components = dist.Categorical(logits=self.logits, validate_args=False)
            j = components.sample(torch.Size(sample_shape) + self.batch_shape)
            loc: Tensor = self.loc[j]
            return loc + self.scale[j] * torch.randn_like(loc)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of ``value`` (*, D), shape ``(*,)``."""
        if self._validate_args:
            self._validate_sample(value)
        loc, scale = self.loc.double(), self.scale.double()
        # The density does not depend on the centre, so no gradient goes through it.
        centre = loc.detach().mean(0)
        loc, precision = loc - centre, scale.square().reciprocal()
        weights = torch.cat([-0.5 * precision, loc * precision], -1).mT
        constants = (
            self.logits.double().log_softmax(-1)
            - scale.log().sum(-1)
            - 0.5 * (loc.square() * precision).sum(-1)
            - 0.5 * loc.shape[-1] * math.log(2 * math.pi)
        )
        dtype = torch.promote_types(value.dtype, self.loc.dtype)
        densities = []
        for rows in value.reshape(-1, loc.shape[-1]).split(max(1, _BLOCK // len(loc))):
            z = rows.double() - centre
            components = torch.addmm(constants, torch.cat([z.square(), z], -1), weights)
            densities.append(components.to(dtype).logsumexp(-1))
        density = torch.cat(densities).reshape(value.shape[:-1])
        return density.expand(torch.broadcast_shapes(density.shape, self.batch_shape))


class BlockAutoregressive(dist.TorchDistribution):
    r"""Joint of two blocks :math:`p(a, b) = p(a) \, p(b \mid a)`, as one vector :math:`z = (a, b)`.

    Reparameterized if p(a) is, and then p(b | a) must be, too. ``mean`` is E[a] followed by
    E[b | a = E a], which is E[b] if the mean of p(b | a) is linear in a.

    Args:
        first: p(a), a distribution over vectors; its batch shape is that of the joint.
        conditional: maps a ``(*, size of a)`` to p(b | a), a distribution over vectors of batch
            shape ``(*,)``. A module is used with its present parameters, see :func:`bound`.
        size: size of b; by default found by one call of ``conditional``.
        validate_args: check values; ``None`` for torch's default.

    Raises:
        ValueError: p(a) is not over vectors.
    """

    arg_constraints = {}  # noqa: RUF012
    support = constraints.real_vector

    def __init__(
        self,
        first: Any,
        conditional: Callable[[Tensor], Any],
        *,
        size: int | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if len(first.event_shape) != 1:
            raise ValueError(
                f"the first block must be a vector; got event shape {tuple(first.event_shape)}. "
                "Call .to_event(1) on its distribution."
            )
        self.first = first
        self.conditional = bound(conditional) if isinstance(conditional, nn.Module) else conditional
        self.size: int = self.conditional(first.mean).event_shape[0] if size is None else size
        self._drawn = LastDraw()
        event_shape = torch.Size([first.event_shape[0] + self.size])
        super().__init__(first.batch_shape, event_shape, validate_args=validate_args)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether draws are reparameterized."""
        return bool(self.first.has_rsample)

    def expand(self, batch_shape: Any, _instance: Any = None) -> BlockAutoregressive:
        """Return the same distribution with another batch shape."""
        new = expanded(self, batch_shape, "first")
        new._drawn = LastDraw()
        return new

    @property
    def mean(self) -> Tensor:
        """E[a], then E[b | a = E a]."""
        a = self.first.mean
        return torch.cat([a, self.conditional(a).mean], -1)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw with gradients."""
        a = self.first.rsample(torch.Size(sample_shape))
        second = self.conditional(a)
        z = torch.cat([a, second.rsample()], -1)
        self._drawn.keep(z, second)
        return z

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw without gradients."""
        with torch.no_grad():
            a = self.first.sample(torch.Size(sample_shape))
            return torch.cat([a, self.conditional(a).sample()], -1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of ``value`` (*, D), shape ``(*,)``."""
        if self._validate_args:
            self._validate_sample(value)
        a, b = value.split([value.shape[-1] - self.size, self.size], -1)
        second = self._drawn.recall(value)
        if second is None:
            second = self.conditional(a)
        return self.first.log_prob(a) + second.log_prob(b)
