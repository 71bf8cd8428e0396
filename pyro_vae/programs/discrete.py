"""Discrete latents that a guide draws: summed out of both programs, or given with the data."""

from __future__ import annotations

import itertools
import math
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import Categorical

from ..common.seeding import seeded
from .counted import mask_of
from .enumeration import AllValues
from .evaluation import Evaluation
from .layout import NONE
from .pair import Pair
from .supports import is_discrete, shared, support_of
from .traces import Batch, latent_sites, run

__all__ = ["are_given", "without_discrete"]

_MOST = 64  # joint values of the latents of a datum
_ROWS = 3
_DRAWS = 2
_CERTAIN = 1e-5  # nats


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
    first = next(evaluation.blocks()).batch
    whole = evaluation.data_set or pair.fixed_rows
    batch = first if whole else tuple(argument[:_ROWS] for argument in first)
    for spread in (False, True):
        # the user's program, run in a way that it need not support
        with suppress(Exception), seeded("collapse", 0), torch.no_grad():
            sums = _Sums.of(pair, batch, spread=spread)
            if not sums.supports:
                break
            if not sums.are_same():
                continue
            if all(sums.are_drawn(block.batch) for block in evaluation.blocks()):
                return replace(evaluation, pair=sums.summed)
            break
    return evaluation


def are_given(pair: Pair, batch: Batch) -> bool:
    """Whether discrete latents of some data are given: the guide draws an argument's value alone.

    Then log p(x, c) is estimated, of the c that is given, and no other value has a part in it.
    """
    data = next(pair.arguments(batch))
    with seeded("given", 0), torch.no_grad():
        sites = dict(latent_sites(run(pair.guide, data)))
    for name in (n for n in pair.latents if n in sites):
        fn, value = sites[name]["fn"], sites[name]["value"]
        if is_discrete(support_of(fn)):
            alone = (fn.log_prob(value) > -_CERTAIN).expand(_batch_shape(value, fn))
            for argument in (a for a in data if a.numel() == value.numel()):
                same = (argument.reshape(value.shape) == value).reshape(*alone.shape, -1).all(-1)
                if (same & alone).any():
                    return True
    return False


@dataclass(frozen=True)
class _Sums:
    """A pair of programs with discrete latents, and without.

    Args:
        pair: with them.
        summed: without.
        batch: some of the data.
        supports: all values of each of these latents; empty if there is none, or one that has too
            many values.
        marked: whether the user marked them all to be enumerated.
    """

    pair: Pair
    summed: Pair
    batch: Batch
    supports: dict[str, Tensor]
    marked: bool

    @classmethod
    def of(cls, pair: Pair, batch: Batch, *, spread: bool) -> _Sums:
        """Find the discrete latents that both programs have."""
        sites, theirs = map(dict, map(latent_sites, _run(pair, batch)))
        supports, marked, later = {}, True, {}
        for name in (n for n in pair.latents if n in sites):
            if is_discrete(support_of(sites[name]["fn"])):
                supports[name] = sites[name]["fn"].enumerate_support(expand=False)
                marks = [site["infer"] or {} for site in (sites[name], theirs[name])]
                marked &= any(infer.get("enumerate") == "parallel" for infer in marks)
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
        return cls(pair, summed, batch, supports, marked)

    def are_drawn(self, batch: Batch) -> bool:
        """Whether the guide draws every value of the latents for these data."""
        guide = _run(self.pair, batch)[1]
        return not any(_never(guide.nodes[name]["fn"]).any() for name in self.supports)

    def are_same(self) -> bool:
        """Whether all values at once mean what they mean one by one."""
        pair, batch, supports = self.pair, self.batch, self.supports
        if self._others_depend():
            return False
        values, log_q = pair.propose(batch, _DRAWS)
        rest = {name: v for name, v in values.items() if name not in supports}
        given = rest or {NONE: torch.zeros_like(next(iter(values.values())))}
        together = self.summed.log_joint(batch, given), self.summed.log_guide(batch, given)
        if any(_items(values[n], pair.latents[n]) != log_q.numel() for n in supports):
            return self.marked  # of several items each has its own, so that there are too many
        one_by_one = []
        for chosen in itertools.product(*(range(len(support)) for support in supports.values())):
            for (name, support), k in zip(supports.items(), chosen, strict=True):
                rest[name] = support[k].expand(values[name].shape).to(values[name].dtype)
            one_by_one.append((pair.log_joint(batch, rest), pair.log_guide(batch, rest)))
        sums = (torch.stack(terms).logsumexp(0) for terms in zip(*one_by_one, strict=True))
        return all(
            torch.allclose(ours, theirs, rtol=1e-4, atol=1e-3)
            for ours, theirs in zip(together, sums, strict=True)
        )

    def _others_depend(self) -> bool:
        """Whether other latents are there by the values of these; or have bounds by them."""
        pair, data = self.pair, next(self.pair.arguments(self.batch))
        guide = run(pair.guide, data)
        values = {
            name: site["value"]
            for name, site in latent_sites(guide)
            if name in pair.latents and name not in self.supports
        }
        spread = self.summed.spread
        handler = AllValues(self.summed.summed, pair.plate_dims, spread=spread)
        for name, site in latent_sites(run(pair.model, data, values, handler=handler)):
            if name not in self.summed.summed:
                mask = mask_of(site)
                lead = mask.dim() - pair.plate_dims
                if lead > 0 and (mask != mask[(slice(0, 1),) * lead]).any():
                    return True
                shared(name, support_of(site["fn"]))  # which raises
        return False


def _run(pair: Pair, batch: Batch) -> tuple[Trace, Trace]:
    """Trace the model at a draw of the guide, and the guide."""
    data = next(pair.arguments(batch))
    guide = run(pair.guide, data)
    return run(pair.model, data, {n: site["value"] for n, site in latent_sites(guide)}), guide


def _items(value: Tensor, event_dim: int) -> int:
    """Number of variables in a tensor of values."""
    return math.prod(value.shape[: value.dim() - event_dim])


def _batch_shape(value: Tensor, fn: Any) -> torch.Size:
    return value.shape[: value.dim() - fn.event_dim]


def _never(fn: Any) -> Tensor:
    """Which values a discrete distribution never draws: the values first, then its batch shape.

    Torch clamps probabilities before it takes their logarithm, and draws by them as they are.
    """
    inside = fn
    while hasattr(inside, "base_dist"):
        inside = inside.base_dist
    inside = getattr(inside, "_categorical", inside)
    never = fn.log_prob(fn.enumerate_support()) == -math.inf
    own = vars(inside)
    if "_param" in own and own["_param"] is own.get("probs"):
        probs = own["probs"]
        if isinstance(inside, Categorical):
            zero = (probs == 0).movedim(-1, 0)
        else:  # of two values or more, in their order
            zero = torch.zeros_like(never)
            zero[1:] |= probs == 0
            zero[:-1] |= probs == 1
        never = never | zero.broadcast_to(never.shape)
    return never
