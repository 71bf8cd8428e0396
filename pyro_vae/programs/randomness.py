"""Random numbers under ``torch.vmap``: each draw its own, where torch's samplers know none."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["drawn_anew", "of_each_draw"]


def drawn_anew(fn: Any) -> Tensor | None:
    r"""Draw from a distribution whose sampler in torch has not its density; ``None`` from others.

    ``LKJCholesky``: torch draws the squared norms of the rows' parts left of the diagonal from
    Beta(i - 1/2, ...), which is right for two dimensions only. Here, for row i (from 1) of d, the
    part is :math:`\sqrt{y}\, u` with u uniform on the sphere and
    :math:`y \sim \mathrm{Beta}(i / 2, \eta + (d - 1 - i) / 2)`.

    References:
        Lewandowski, Kurowicka and Joe (2009), Generating random correlation matrices based on vines
        and extended onion method.
    """
    if isinstance(fn, torch.distributions.TransformedDistribution):
        value = drawn_anew(fn.base_dist)
        for transform in fn.transforms if value is not None else ():
            value = transform(value)
        return value
    inner, shape = fn, fn.shape() if hasattr(fn, "shape") else None
    while hasattr(inner, "base_dist"):
        inner = inner.base_dist
    if not isinstance(inner, torch.distributions.LKJCholesky) or shape is None:
        return None
    d, eta = inner.dim, inner.concentration.expand(shape[:-2])[..., None]
    row = torch.arange(1, d, device=eta.device, dtype=eta.dtype)
    both = torch.stack(torch.broadcast_tensors(row / 2, eta + (d - 1 - row) / 2), -1)
    left = _shares(both)[..., 0].sqrt()
    normal = torch.randn_like(eta[..., None] + eta.new_zeros(d - 1, d - 1)).tril()
    unit = normal / normal.norm(dim=-1, keepdim=True)
    lower = torch.nn.functional.pad(left[..., None] * unit, (0, 1, 1, 0))
    diagonal = torch.nn.functional.pad((1 - left.square()).sqrt(), (1, 0), value=1.0)
    return lower + diagonal.diag_embed()


@contextmanager
def of_each_draw() -> Iterator[None]:
    """Let distributions draw anew for each item that ``torch.vmap`` runs over.

    Their samplers fill a tensor in place, which vmap refuses where that is the same for all items;
    in this context the filled tensor is a new one. Dirichlet variables are made of Gamma ones.
    """
    with warnings.catch_warnings(), _Fresh(), _Dirichlets():
        warnings.filterwarnings("ignore", message="There is a performance drop")  # Gamma's clamp_
        yield


def _normal(like: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    return mean + std * torch.randn_like(like)


def _uniform(like: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    return low + (high - low) * torch.rand_like(like)


def _exponential(like: Tensor, rate: float = 1.0) -> Tensor:
    return -torch.log1p(-torch.rand_like(like)) / rate


def _cauchy(like: Tensor, median: float = 0.0, scale: float = 1.0) -> Tensor:
    return median + scale * torch.tan(math.pi * (torch.rand_like(like) - 0.5))


_FRESH: dict[str, Callable[..., Tensor]] = {
    "normal_": _normal,
    "uniform_": _uniform,
    "exponential_": _exponential,
    "cauchy_": _cauchy,
}


class _Fresh(TorchFunctionMode):
    """Draw into a new tensor what is to be drawn in place."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _FRESH.get(getattr(func, "__name__", ""), func)(*args, **(kwargs or {}))


class _Dirichlets(Messenger):  # type: ignore[misc, unused-ignore]
    """Draw Dirichlet and Beta variables as shares of Gamma variables."""

    def _pyro_sample(self, msg: Any) -> None:
        fn = msg["fn"]
        while isinstance(fn, torch.distributions.Independent):
            fn = fn.base_dist
        if msg["value"] is not None:
            return
        if isinstance(fn, torch.distributions.Beta):
            both = torch.stack(torch.broadcast_tensors(fn.concentration1, fn.concentration0), -1)
            msg["value"], msg["done"] = _shares(both)[..., 0], True
        elif isinstance(fn, torch.distributions.Dirichlet):
            msg["value"], msg["done"] = _shares(fn.concentration), True


def _shares(concentration: Tensor) -> Tensor:
    gamma = torch._standard_gamma(concentration)
    info = torch.finfo(gamma.dtype)
    gamma = gamma.clamp_min(info.tiny)
    shares: Tensor = gamma / gamma.sum(-1, keepdim=True)
    return shares.clamp(
        info.tiny, 1 - info.eps / 2
    )  # as torch does: there are densities only there
