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

__all__ = ["of_each_draw"]


@contextmanager
def of_each_draw() -> Iterator[None]:
    """Let distributions draw anew for each item that ``torch.vmap`` runs over.

    Their samplers fill a tensor in place, which vmap refuses where that is the same for all items;
    in this context the filled tensor is a new one. Dirichlet variables are made of Gamma ones.
    """
    with warnings.catch_warnings(), _Fresh(), _Dirichlets():
        warnings.filterwarnings("ignore", "There is a performance drop because")  # of vmap
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
