"""What a density fitted to latents must know of them: where they lie, and that it is fixed."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from .checks import is_delta
from .supports import bounds, support_of

__all__ = ["check_any", "check_constant", "check_fixed", "known_support"]


def known_support(name: str, *sites: Any) -> Any:
    """Return the support of a latent: the first that one of its distributions tells.

    Raises:
        ValueError: none does; a latent that is one point, so that no density can be fitted to it.
    """
    if is_delta(sites[0]["fn"]):
        raise ValueError(
            f"latent site {name!r} is a Delta, one point whatever the other latents are, to which "
            "no density can be fitted; write pyro.deterministic, or use method='guide'."
        )
    for site in sites:
        support = support_of(site["fn"])
        if support is not None:
            return support
    raise ValueError(
        f"latent site {name!r} is {type(sites[0]['fn']).__name__}, which does not say what its "
        "support is; use method='guide'."
    )


def check_any(latents: Collection[str]) -> None:
    """Check that there are latents to be drawn."""
    if not latents:
        raise ValueError("no latent is left to be drawn: log p(x) is exact; use method='guide'.")


def check_fixed(name: str, support: Any, other: Any, value: Tensor) -> None:
    """Check that a latent has the same support at two draws."""
    ends, others = bounds(support, value), bounds(other, value)
    if ends and others and not all(map(torch.equal, ends, others)):
        raise ValueError(
            f"the support of latent site {name!r} depends on other latents, so that no normal can "
            "be fitted to it; use method='guide'."
        )


def check_constant(name: str, mask: Tensor, other: Tensor) -> None:
    """Check that a latent has the same mask at two draws."""
    if (mask != other).any():
        raise ValueError(
            f"the mask of latent site {name!r} depends on other latents, so that data have "
            "no fixed set of latents; use method='guide'."
        )
