"""Where a site counts: its mask, and those of its distribution wherever they stand in it."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import ExpandedDistribution
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from .traces import latent_sites

__all__ = ["check_masks", "is_masked", "mask_of"]


def is_masked(site: Any) -> bool:
    """Whether a site has a mask, wherever it stands."""
    return any(_masks(site))


def mask_of(site: Any) -> Tensor:
    """Where a site counts, in its batch shape: its mask and those of its distribution.

    A mask inside of ``.to_event()`` is one outside of it, where it is the same for a whole event.

    Raises:
        ValueError: a mask of parts of an event.
    """
    fn, (masks, inside) = site["fn"], _masks(site)
    events = [mask.reshape((*fn.batch_shape, fn.event_shape.numel())) for mask in masks]
    whole = _all([event.all(-1) for event in events], fn.batch_shape)
    if inside or not all(torch.equal(event.any(-1), event.all(-1)) for event in events):
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
        other = guide_sites[name]
        (masks, inside), (its_masks, its_inside) = _masks(site), _masks(other)
        ours, theirs = (_all(m, _shape(s["fn"])) for m, s in ((masks, site), (its_masks, other)))
        pairs = zip([ours, *inside], [theirs, *its_inside], strict=False)
        if len(inside) != len(its_inside) or not all(map(_same, pairs)):
            raise ValueError(
                f"latent site {name!r} is masked in one of the programs and not, or elsewhere, in "
                "the other, so that their densities are not over the same latents. Put it under "
                "the same poutine.mask(mask=...) in both."
            )


_Masks = tuple[list[Tensor], list[Tensor]]


def _masks(site: Any) -> _Masks:
    """Masks of a value's numbers, and those of what they are transformed from."""
    masks, inside = _of_distribution(site["fn"])
    return [*masks, *_over(site["mask"], site["fn"])], inside


def _of_distribution(fn: Any) -> _Masks:
    base = getattr(fn, "base_dist", None)
    if base is None:
        return [], []
    masks, inside = _of_distribution(base)
    if isinstance(fn, dist.MaskedDistribution):
        return [*masks, *_over(fn._mask, fn)], inside
    if isinstance(fn, ExpandedDistribution):
        return [mask.broadcast_to(_shape(fn)) for mask in masks], inside
    if isinstance(fn, torch.distributions.Independent):
        return masks, inside
    return [], [*inside, *(mask for mask in masks if not mask.all())]  # another density there


def _over(mask: Any, fn: Any) -> list[Tensor]:
    """A mask of a distribution's batch, if there is one, in the shape of its values."""
    if mask is None:
        return []
    given = torch.as_tensor(mask, dtype=torch.bool).broadcast_to(fn.batch_shape)
    return [given.reshape(fn.batch_shape + (1,) * len(fn.event_shape)).broadcast_to(_shape(fn))]


def _shape(fn: Any) -> torch.Size:
    return torch.Size(fn.batch_shape + fn.event_shape)


def _all(masks: list[Tensor], shape: torch.Size) -> Tensor:
    """Where all masks are true; on the device of the last one."""
    total = torch.ones((), dtype=torch.bool)
    for mask in masks:
        total = total.to(mask.device) & mask
    return total.broadcast_to(shape)


def _same(masks: tuple[Tensor, Tensor]) -> bool:
    """Whether two masks are, at the batch shapes that they have in common."""
    ours, theirs = masks
    try:
        return torch.equal(*torch.broadcast_tensors(ours, theirs.to(ours.device)))
    except RuntimeError:
        return False
