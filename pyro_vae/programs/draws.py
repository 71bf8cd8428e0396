"""A function of one draw of the latents, as one of many."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro.ops.special as special
import torch
from torch import Tensor

__all__ = ["over_draws"]

Terms = dict[str, Tensor]


def over_draws(
    function: Callable[..., Terms],
    latents: int,
    arguments: int,
    *,
    at_once: bool,
    randomness: str,
) -> Callable[..., Terms]:
    """Make a function of one draw, on one data set, one of many draws.

    Args:
        function: takes values by name, then the data's arguments; returns tensors by name.
        latents: how many dictionaries of values it takes, with a first dimension of draws then.
        arguments: how many arguments of the data, which are the same for all draws.
        at_once: by ``torch.vmap``; one by one otherwise.
        randomness: what draws within the function are to each other, for ``torch.vmap``.

    Returns:
        A function whose results have a first dimension of draws.
    """
    if at_once:
        dims = (*[0] * latents, *[None] * arguments)
        mapped = torch.vmap(function, in_dims=dims, randomness=randomness)

        def together(*given: Any) -> Terms:
            with _of_many():
                found: Terms = mapped(*given)
            return found

        return together

    def one_by_one(*given: Any) -> Terms:
        number = len(next(iter(given[0].values())))
        draws = (
            ({name: value[draw] for name, value in v.items()} for v in given[:latents])
            for draw in range(number)
        )
        rows = [function(*draw, *given[latents:]) for draw in draws]
        return {name: torch.stack([r[name] for r in rows]) for name in rows[0]}

    return one_by_one


class _SafeLog(torch.autograd.Function):
    """Pyro's logarithm with bounded slopes, told so that ``torch.vmap`` takes it, too."""

    generate_vmap_rule = True
    backward = special._SafeLog.backward

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        """Log x."""
        return x.log()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Keep x, as Pyro's own does."""
        ctx.save_for_backward(*inputs)


@contextmanager
def _of_many() -> Iterator[None]:
    """Let Pyro's hidden Markov chains be mapped, of which its logarithm is a part.

    That torch maps some operations draw by draw is nothing that a user could change.
    """
    own = special._SafeLog
    vars(special)["_SafeLog"] = _SafeLog
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There is a performance drop")
            yield
    finally:
        vars(special)["_SafeLog"] = own
