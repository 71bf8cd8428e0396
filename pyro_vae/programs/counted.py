"""Where a site counts: its mask, and those of its distribution wherever they stand in it."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import ExpandedDistribution
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from .traces import latent_sites

__all__ = ["check_masks", "mask_of"]


def mask_of(site: Any) -> Tensor:
    """Where a site counts, in its batch shape: its mask and those of its distribution.

    A mask inside of ``.to_event()`` is one outside of it, where it is the same for a whole event.

    Raises:
        ValueError: a mask of parts of an event.
    """
    counts, inside = _counts(site)
    batch = site["fn"].batch_shape
    events = counts.reshape((*batch, -1))
    whole: Tensor = events.all(-1)
    if inside or not torch.equal(events.any(-1), whole):
        raise ValueError(
            f"latent site {site['name']!r} is masked inside its event, so that it is partly a "
            "latent; mask it outside of .to_event(), or use method='guide'."
        )
    return whole


def check_masks(model: Trace, guide: Trace) -> None:
    """Check that the guide masks the latents that the model masks, and no others.

    Where only one of the densities counts, their ratio is none.

    Raises:
        ValueError: a latent whose masks differ.
    """
    guide_sites = dict(latent_sites(guide))
    for name, site in latent_sites(model):
        if name not in guide_sites:
            continue
        (ours, inside), (theirs, its_inside) = _counts(site), _counts(guide_sites[name])
        masks = zip([ours, *inside], [theirs, *its_inside], strict=False)
        if len(inside) != len(its_inside) or not all(map(_same, masks)):
            raise ValueError(
                f"latent site {name!r} is masked in one of the programs and not, or elsewhere, in "
                "the other, so that their densities are not over the same latents. Put it under "
                "the same poutine.mask(mask=...) in both."
            )


def _counts(site: Any) -> tuple[Tensor, list[Tensor]]:
    """Which numbers of a value count, and masks of what they are transformed from."""
    fn = site["fn"]
    counts, inside = _of_distribution(fn)
    return counts & _over(site["mask"], fn).to(counts.device), inside


def _of_distribution(fn: Any) -> tuple[Tensor, list[Tensor]]:
    base = getattr(fn, "base_dist", None)
    if base is None:
        return _over(None, fn), []
    counts, inside = _of_distribution(base)
    if isinstance(fn, dist.MaskedDistribution):
        counts = counts & _over(fn._mask, fn).to(counts.device)
    elif isinstance(fn, ExpandedDistribution):
        counts = counts.broadcast_to(fn.batch_shape + fn.event_shape)
    elif not isinstance(fn, torch.distributions.Independent):  # another density where it is masked
        inside = inside if counts.all() else [*inside, counts]
        counts = _over(None, fn)
    return counts, inside


def _over(mask: Any, fn: Any) -> Tensor:
    """A mask of a distribution's batch, in the shape of its values."""
    given = torch.as_tensor(True if mask is None else mask, dtype=torch.bool)
    over_batch = given.broadcast_to(fn.batch_shape)
    each = over_batch.reshape(fn.batch_shape + (1,) * len(fn.event_shape))
    return each.broadcast_to(fn.batch_shape + fn.event_shape)


def _same(masks: tuple[Tensor, Tensor]) -> bool:
    """Whether two masks are, at the batch shapes that they have in common."""
    ours, theirs = masks
    try:
        return torch.equal(*torch.broadcast_tensors(ours, theirs.to(ours.device)))
    except RuntimeError:
        return False
