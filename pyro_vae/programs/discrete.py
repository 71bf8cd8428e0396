"""Discrete latents that a guide draws: summed out of both programs, or given with the data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Binomial, Categorical

from ..common.seeding import seeded
from .counted import mask_of
from .densities import Role
from .enumeration import AllValues
from .evaluation import Evaluation
from .layout import NONE
from .pair import Pair
from .places import data_places
from .supports import is_discrete, shared, support_of
from .traces import Batch, latent_sites, log_prob, run, run_both, sample_sites

__all__ = ["are_given", "without_discrete"]

_MOST = 64  # joint values of the latents of a datum
_DRAWS = 2
_TRIED = 4  # random choices of the values of all items


def without_discrete(evaluation: Evaluation) -> Evaluation:
    r"""Return the evaluation with the guide's discrete latents c summed out of both programs.

    .. math:: \hat w = \frac{\sum_c p(x, z, c)}{\sum_c q(z, c \mid x)}, \qquad z \sim q(z \mid x)

    What is left is continuous, so that proposals can be fitted to it; nothing is left, and p(x)
    exact, where all latents are discrete. The weights vary less than those with c drawn.

    It is returned as it is where that would be another thing, or no gain: no discrete latent; one
    with more than 64 values (all together, of a datum); a guide that leaves values out, which may
    mean that they are known not to be (a label that is given); programs that do not run on all
    values at once, or are found not to mean the same by it; continuous latents that are there, or
    bounded, by the values of discrete ones.
    """
    pair = evaluation.pair
    for spread in (False, True):
        # the user's program, run in a way that it need not support
        with suppress(Exception), seeded("discrete", 0), torch.no_grad():
            sums = _Sums.of(pair, next(evaluation.blocks()).batch, spread=spread)
            if not sums.supports:
                break
            if all(sums.hold(block.batch) for block in evaluation.blocks()):
                return replace(evaluation, pair=sums.summed)
    return evaluation


def are_given(pair: Pair, batch: Batch) -> bool:
    """Whether discrete latents of some data are given with the data, as known labels are.

    So they are where the guide draws one value alone, which follows what the model does not observe
    (an argument, or a part of one), and not what it does. Then log p(x, c) is estimated, and no
    other value has a part in it.
    """
    data = next(pair.arguments(batch))
    with seeded("given", 0), torch.no_grad():
        points = _points(pair, data)
        if not any(alone.any() for alone, _ in points.values()):
            return False
        places = data_places(pair.model, data)[0].values()
        seen = [torch.zeros(a.numel(), dtype=torch.bool, device=a.device) for a in data]
        for number, index in places:
            seen[number][index.flatten()] = True
        masks = [mask.reshape(a.shape) for mask, a in zip(seen, data, strict=True)]

        def follows(changes: Iterable[Callable[[Tensor], Tensor]], *, observed: bool) -> bool:
            for change in changes:
                given = (
                    torch.where(mask == observed, change(a), a)
                    for mask, a in zip(masks, data, strict=True)
                )
                with suppress(Exception):  # values that are none of the program's
                    if not _alike(_points(pair, tuple(given)), points):
                        return True
            return False

        return follows(_OTHER_GIVEN, observed=False) and not follows(_OTHER_SEEN, observed=True)


_OTHER_SEEN: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda a: a.roll(1, 0),
    lambda a: a.flip(0),
    torch.zeros_like,
)
_OTHER_GIVEN: tuple[Callable[[Tensor], Tensor], ...] = (
    *_OTHER_SEEN,
    lambda a: a.roll(1, -1),
    lambda a: a - 1,
    torch.ones_like,
    lambda a: a + 1,
)


def _points(pair: Pair, data: Batch) -> dict[str, tuple[Tensor, Tensor]]:
    """By discrete latent, where the guide draws one value alone; and it (zero elsewhere)."""
    found = {}
    for name, site in latent_sites(run(pair.guide, data)):
        if name in pair.latents and is_discrete(support_of(site["fn"])):
            never, fn = _never(site["fn"]), site["fn"]
            if never is not None:
                alone = never.sum(0) == len(never) - 1
                alone = alone.broadcast_to(fn.batch_shape + alone.shape[len(fn.batch_shape) :])
                alone = alone.reshape(*fn.batch_shape, -1).all(-1)
                event = alone.reshape(*alone.shape, *[1] * fn.event_dim)
                found[name] = alone, torch.where(event, site["value"], 0)
    return found


_Points = dict[str, tuple[Tensor, Tensor]]


def _alike(some: _Points, others: _Points) -> bool:
    pairs = (pair for name in others for pair in zip(some[name], others[name], strict=True))
    return all(torch.equal(*pair) for pair in pairs)


@dataclass(frozen=True)
class _Sums:
    """A pair of programs with discrete latents, and without.

    Args:
        pair: with them.
        summed: without.
        supports: all values of each of these latents; empty if there is none, or one that has too
            many values.
    """

    pair: Pair
    summed: Pair
    supports: dict[str, Tensor]

    @classmethod
    def of(cls, pair: Pair, batch: Batch, *, spread: bool) -> _Sums:
        """Find the discrete latents that both programs have."""
        traces = run_both(pair.model, pair.guide, next(pair.arguments(batch)))
        sites, theirs = map(dict, map(latent_sites, traces))
        supports, later = {}, {}
        for name in (n for n in pair.latents if n in sites):
            if is_discrete(support_of(sites[name]["fn"])):
                supports[name] = sites[name]["fn"].enumerate_support(expand=False)
        if math.prod(map(len, supports.values())) > _MOST:
            supports = {}
        names = tuple(supports)
        if spread and len(names) == 1:  # those after it are there for each value, as Pyro has it
            order = [name for name in theirs if name in sites]
            after = order[order.index(names[0]) + 1 :]
            later = dict.fromkeys(after, len(supports[names[0]]))
        kept = {name: dim for name, dim in pair.latents.items() if name not in supports}
        summed = replace(
            pair,
            latents=kept or {NONE: 0},
            summed=(*pair.summed, *names),
            dropped=names,
            spread=later,
        )
        return cls(pair, summed, supports)

    def hold(self, batch: Batch) -> bool:
        """Whether the sums are the same thing for these data; raises what the programs raise."""
        names, summed, pair = self.supports, self.summed, self.pair
        for data in pair.arguments(batch):
            guide = dict(latent_sites(run(pair.guide, data)))
            if any((never := _never(guide[n]["fn"])) is None or never.any() for n in names):
                return False
            drawn = {name: site["value"] for name, site in guide.items()}
            if not (self._is_sum("model", data, drawn) and self._is_sum("guide", data, drawn)):
                return False
        values, log_q = summed.propose(batch, _DRAWS)
        log_p = summed.log_joint(batch, values)
        if not summed.vectorized or pair.fixed_rows:
            return True
        by_rows = replace(summed, vectorized=False)  # as was looked at
        again = by_rows.log_joint(batch, values), by_rows.log_guide(batch, values)
        return _near(log_p, again[0]) and _near(log_q, again[1])

    def _is_sum(self, role: Role, data: Batch, drawn: dict[str, Tensor]) -> bool:
        """Whether log densities at all values at once are those at some values of each item.

        Other latents must be there, and have the same bounds, whatever the values are.
        """
        summed = self.summed
        fn, names = summed.program(role)
        handler = AllValues(names, summed.plate_dims, spread=summed.spread)
        rest = {name: v for name, v in drawn.items() if name in summed.latents}
        counted = sample_sites if role == "model" else latent_sites
        plain = dict(counted(run(fn, data, drawn)))
        sites = dict(counted(run(fn, data, rest, handler=handler)))
        for name, site in sites.items():
            if name not in names and not site["is_observed"]:
                mask = mask_of(site)
                lead = mask.dim() - summed.plate_dims
                if lead > 0 and (mask != mask[(slice(0, 1),) * lead]).any():
                    return False
                shared(name, support_of(site["fn"]))  # which raises
        for _ in range(_TRIED):
            index, values = {}, dict(rest)
            for name in names:
                like, event_dim = plain[name]["value"], plain[name]["fn"].event_dim
                support = plain[name]["fn"].enumerate_support(expand=False)
                support = support.reshape(len(support), *like.shape[like.dim() - event_dim :])
                shape = like.shape[: like.dim() - event_dim]
                index[name] = torch.randint(len(support), shape, device=like.device)
                values[name] = support[index[name]]
            known = dict(counted(run(fn, data, values)))
            for name, site in sites.items():
                ours = _at(site, index, sites, summed.plate_dims)
                if not _near(ours, log_prob(known[name]).double()):
                    return False
        return True


def _at(site: Any, index: dict[str, Tensor], sites: dict[str, Any], plate_dims: int) -> Tensor:
    """Log density of an enumerated site where each variable has the value of this number."""
    density = log_prob(site).double()
    density = density.reshape((1,) * (plate_dims - density.dim()) + density.shape)
    ids = site["infer"].get("_dim_to_id", {})
    for name, which in index.items():
        other = sites[name]["infer"]
        dim, own = other["_enumerate_dim"], other["_dim_to_id"][other["_enumerate_dim"]]
        if -density.dim() <= dim and density.shape[dim] > 1 and ids.get(dim) == own:
            lead = which.reshape((1,) * (density.dim() - which.dim()) + which.shape)
            shape = list(torch.broadcast_shapes(density.shape, lead.shape))
            shape[dim] = density.shape[dim]
            density = density.expand(shape).take_along_dim(lead, dim)
    return density


def _near(ours: Tensor, theirs: Tensor) -> bool:
    """Whether log densities are the same up to the rounding of float32."""
    ours, theirs = torch.broadcast_tensors(ours, theirs)
    return torch.allclose(ours, theirs, rtol=1e-5, atol=1e-4, equal_nan=True)


def _never(fn: Any) -> Tensor | None:
    """Which values a discrete distribution never draws, along the first dimension.

    Torch clamps probabilities before it takes their logarithm, and draws by them as they are. Of
    several numbers of an event it is of each number; of other distributions nothing is known.
    """
    inside = fn
    while hasattr(inside, "base_dist"):
        inside = inside.base_dist
    inside = getattr(inside, "_categorical", inside)
    if isinstance(inside, Categorical):
        return (inside.probs == 0).movedim(-1, 0)
    if isinstance(inside, Bernoulli | Binomial):
        own = vars(inside)
        by_probs = own.get("_param") is own.get("probs")
        no, yes = (
            (inside.probs == 1, inside.probs == 0)
            if by_probs
            else ((-inside.logits).sigmoid() == 0, inside.logits.sigmoid() == 0)
        )
        total = torch.as_tensor(getattr(inside, "total_count", 1))
        if (total != total.max()).any():  # no number of values that is the same for all
            return None
        rest = int(total.max()) - 1
        return torch.stack([no, *[no | yes] * rest, yes][: rest + 2])
    return None
