"""A pair of programs whose latents belong to all the data: one datum is a whole data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Any

import pyro
import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import kl_divergence

from ..common.seeding import seeded
from .checks import (
    check_densities,
    check_draws,
    check_match,
    check_observations,
    check_shapes,
    is_delta,
    out_of_reach,
)
from .counted import mask_of
from .densities import Role
from .described import check_any, check_constant, check_fixed, known_support
from .draws import over_draws
from .enumeration import AllValues, left_out, sum_out, without_idle
from .layout import NONE, Values
from .pair import Pair, check_reach
from .places import check_simulated, put
from .randomness import of_each_draw
from .supports import support_of
from .traces import (
    Batch,
    FixedRows,
    Fn,
    NoDraws,
    latent_sites,
    log_prob,
    observed_sites,
    plate_dims,
    run,
    sample_sites,
)

__all__ = ["Whole"]

Terms = dict[str, Tensor]


@dataclass(frozen=True)
class Whole(Pair):
    """Draws and log densities of programs that are run on a whole data set at once.

    Batches hold data sets: each argument has one more dimension, of data sets, before its own.
    Latents have the shape ``(samples, data sets, *shape of the site)``. Log densities of many draws
    are computed at once by ``torch.vmap`` where the model allows it (``vectorized``), one by one
    where it does not.

    Args:
        density: log density of the guide as a function of its latents, if it does not tell that of
            draws that are not its own.
        sets_at_once: whether ``torch.vmap`` takes the data sets at once, too.
        drawn_at_once: programs that it draws from.
    """

    density: Callable[[Values], Tensor] | None = None
    sets_at_once: bool = False
    drawn_at_once: tuple[Role, ...] = ()

    @property
    def data_axis(self) -> int:
        """Axis of the data sets in a latent's value."""
        return 1

    @classmethod
    def inspect(cls, model: Fn, guide: Fn, batch: Batch, *, narrow: bool = False) -> Whole:
        """Run the pair on a data set and find out how it is built.

        Raises:
            ValueError: the sites of model and guide do not match, in name, shape or support; no
                site is observed; a plate takes some of its items only.
        """
        data = tuple(argument[0] for argument in batch)
        with seeded("inspect", 0), torch.no_grad():
            try:
                guide_trace = run(guide, data)
                values = {name: site["value"] for name, site in latent_sites(guide_trace)}
                model_trace = run(model, data, values)
            except FixedRows as fixed:
                raise ValueError(
                    f"{str(fixed).partition(';')[0]}; log p(data) needs all of them: leave "
                    "subsample_size out."
                ) from None
            if next(observed_sites(model_trace), None) is None:
                raise ValueError("the model has no observed site; give one the data with obs=x.")
            summed = left_out(model_trace, guide_trace)
            check_match(model_trace, guide_trace, summed=summed)
            check_draws(guide, data, guide_trace)
            check_densities(model_trace, guide_trace)
            check_observations(model_trace)
            with suppress(NoDraws):
                check_shapes(run(model, data), guide_trace)
            traces = (model_trace, guide_trace)
            dims = (len(s["fn"].batch_shape) for trace in traces for _, s in sample_sites(trace))
            pair = cls(
                model=model,
                guide=guide,
                plate_dims=max(plate_dims(*traces), *dims),
                data_dim=0,
                latents={n: s["fn"].event_dim for n, s in latent_sites(guide_trace)} or {NONE: 0},
                vectorized=False,
                fixed_rows=None,
                summed=summed,
            )
            drawn, log_q = pair.propose(batch, 2)
            log_p = pair.log_joint(batch, drawn)
            pair.check_finite(batch, drawn, log_q, log_p)
            if not torch.allclose(log_p, pair.log_joint(batch, drawn), equal_nan=True):
                raise ValueError(
                    "the model has another log density each time it is run at the same latents: "
                    "what is random there is no sample site. Make it one, or switch it off "
                    "(dropout: module.eval())."
                )
            found = (values, out_of_reach(*traces))
            there, outside = ({n: v[None, None] for n, v in of.items()} for of in found)
            check_reach(pair, batch, there, outside, traces, narrow=narrow)
            pair = pair._fastest(batch, drawn, log_p)
        return pair

    def _fastest(self, batch: Batch, drawn: Values, log_p: Tensor) -> Whole:
        """Return the pair that does most at once, of those that find the same log densities."""
        two = tuple(torch.cat([a[:1], a[:1]]) for a in batch)
        both = {name: torch.cat([v[:, :1], v[:, :1]], 1) for name, v in drawn.items()}
        expected = log_p[:, :1].expand(-1, 2)

        def same(pair: Whole) -> bool:
            return torch.allclose(pair.log_joint(two, both), expected, rtol=1e-4, atol=1e-3)

        found = self
        steps: tuple[tuple[Callable[[Whole], Whole], Callable[[Whole], bool]], ...] = (
            (lambda pair: replace(pair, vectorized=True), same),
            (lambda pair: replace(pair, sets_at_once=True), same),
            (lambda pair: pair._drawing("model"), lambda pair: pair._draws_well("model", two)),
            (lambda pair: pair._drawing("guide"), lambda pair: pair._draws_well("guide", two)),
        )
        for faster, good in steps:
            pair = faster(found)
            # control flow that depends on values, or a function without a rule
            with suppress(Exception):
                found = pair if good(pair) else found
            if not found.vectorized:
                break
        return found

    def _drawing(self, role: Role) -> Whole:
        return replace(self, drawn_at_once=(*self.drawn_at_once, role))

    def _draws_well(self, role: Role, batch: Batch) -> bool:
        """Whether draws at once differ from each other, and have the densities that they tell."""
        if role == "model":
            values, log_density = self.propose_prior(batch, 4)
            again = self.log_prior(batch, values)
        else:
            values, log_density = self.propose(batch, 4)
            again = self.log_guide(batch, values)
        drawn = [v.reshape(-1, v[0, 0].numel()) for v in values.values() if v.is_floating_point()]
        alike = any(len(v.unique(dim=0)) < len(v) for v in drawn if v.numel())
        return not alike and torch.allclose(again, log_density, rtol=1e-4, atol=1e-3)

    def arguments(self, batch: Batch) -> Iterator[Batch]:
        """Yield the arguments of the programs, data set by data set."""
        for row in range(len(batch[0])):
            yield tuple(argument[row] for argument in batch)

    def copies(self, batch: Batch, index: Tensor) -> Batch:
        """Return data sets by their numbers: of a single one views, so that it is seen as one."""
        if len(batch[0]) > 1:
            return super().copies(batch, index)
        return tuple(argument.expand(len(index), *argument.shape[1:]) for argument in batch)

    def propose(self, batch: Batch, samples: int) -> tuple[Values, Tensor]:
        """Draw latents from the guide; log q is ``(S, N)``, float64, for N data sets."""
        if self.blind:
            return self.propose_prior(batch, samples)
        values, log_q = self._draw("guide", batch, samples)
        return values, self.log_guide(batch, values) if self.dropped else log_q

    def propose_prior(self, batch: Batch, samples: int) -> tuple[Values, Tensor]:
        """Draw latents from the model's prior; return them with log p(z), as :meth:`propose`."""
        values, log_prior = self._draw("model", batch, samples)
        return values, self.log_prior(batch, values) if self.summed else log_prior

    def knowing(self, batch: Batch, density: Callable[[Values], Tensor] | None) -> Whole:
        """Return the pair with a log density of its guide, if it holds for the guide's draws."""
        if density is None:
            return self
        with seeded("density", 0), torch.no_grad():
            own = {name for name, _ in latent_sites(self._run_both(batch)[0])}
            latents = {name: dim for name, dim in self.latents.items() if name in own}
            pair = replace(self, density=density, latents=latents)
            values, log_q = pair.propose(batch, 2)
            try:
                same = torch.allclose(pair.log_guide(batch, values), log_q, rtol=1e-4, atol=1e-3)
            except Exception:  # a flow without an inverse, or one that vmap does not take
                same = False
        return pair if same else self

    def log_guide(self, batch: Batch, values: Values) -> Tensor:
        """Return log q(z|x) for given latents."""
        if self.density is None or self.blind:
            return super().log_guide(batch, values)
        density = self.density
        return self._each(lambda given, *data: {"q": density(given)}, batch, values)["q"]

    def log_terms(self, batch: Batch, values: Values) -> tuple[Tensor, Tensor]:
        """Return log p(z) and log p(x, z) for given latents."""

        def both(given: Values, *data: Tensor) -> Terms:
            trace = self._trace("model", data, given)
            joint = self._by_site("model", list(sample_sites(trace)))
            if self.summed:  # the sum over their values joins latent sites and observed ones
                latents = without_idle(list(latent_sites(trace)), self.plate_dims)
                prior = self._by_site("model", latents)
            else:
                prior = {name: joint[name] for name, _ in latent_sites(trace)}
            return {"prior": _total(prior), "joint": _total(joint)}

        terms = self._each(both, batch, values)
        return terms["prior"], terms["joint"]

    def divergence(self, batch: Batch, fixed: Values, values: Values) -> Tensor:
        """Return KL(p(x|fixed) || p(x|values)) summed over the observed sites."""
        if self.summed:
            raise NotImplementedError("p(x|z) is a mixture")

        def kl(given: Values, other: Values, *data: Tensor) -> Terms:
            reference = dict(observed_sites(self._trace("model", data, other)))
            terms = {}
            for name, site in observed_sites(self._trace("model", data, given)):
                if is_delta(site["fn"]):
                    continue
                term = kl_divergence(reference[name]["fn"], site["fn"])
                term = scale_and_mask(term, mask=site["mask"])
                terms[name] = term.expand(site["fn"].batch_shape).double().sum()
            return {"kl": _total(terms)}

        try:
            return self._each(kl, batch, values, fixed)["kl"]
        except RuntimeError as error:  # a closed form that looks at values, as of two binomials
            raise NotImplementedError(str(error)) from error

    def supports(self, batch: Batch) -> dict[str, Any]:
        """Return the support of each latent that is drawn, unless it depends on other latents."""
        (model, _), (again, _) = self._run_both(batch), self._run_both(batch)
        found: dict[str, Any] = {}
        for name, site in latent_sites(model):
            if name in self.latents:
                support = support_of(site["fn"])
                with suppress(ValueError):
                    check_fixed(name, support, support_of(again.nodes[name]["fn"]), site["value"])
                    found[name] = support
        return found

    def describe(self, batch: Batch) -> tuple[Values, dict[str, tuple[Any, Tensor]]]:
        """As :meth:`Densities.describe`, with a dimension of data sets."""
        (model, guide), (again, _) = self._run_both(batch), self._run_both(batch)
        described, values = {}, {}
        for name, site in latent_sites(model):
            if name in self.latents:
                mask = mask_of(site)
                check_constant(name, mask, mask_of(again.nodes[name]))
                support = known_support(name, site, guide.nodes[name])
                check_fixed(name, support, support_of(again.nodes[name]["fn"]), site["value"])
                described[name] = support, mask[None, None]
                values[name] = site["value"][None, None]
        check_any(described)
        return values, described

    def _run_both(self, batch: Batch) -> tuple[Trace, Trace]:
        """Trace the model at a draw of the guide, and the guide, on the first data set."""
        data = next(self.arguments(batch))
        guide = run(self.guide, data)
        values = {name: site["value"] for name, site in latent_sites(guide)}
        return run(self.model, data, values), guide

    def simulate(self, batch: Batch) -> tuple[Batch, Values]:
        """Draw latents and data sets from the model, of the number and shapes of the given ones."""
        places = self._places(tuple(argument[0] for argument in batch))
        new = [argument.clone(memory_format=torch.contiguous_format) for argument in batch]
        drawn: list[Values] = []
        for row, data in enumerate(self.arguments(batch)):
            trace = run(pyro.poutine.uncondition(self.model), data)
            put(trace, places, [argument[row] for argument in new])
            check_simulated(self.model, tuple(argument[row] for argument in new), trace)
            sites: Any = trace.nodes
            drawn.append({n: sites[n]["value"] for n in self.latents if n in sites})
        together = {name: torch.stack([v[name] for v in drawn])[None] for name in drawn[0]}
        return tuple(new), together

    def replicate(self, batch: Batch, samples: int, values: Values | None = None) -> list[Tensor]:
        """As :meth:`Densities.replicate`, with a dimension of data sets."""
        places = self._places(next(self.arguments(batch)))
        new = [a.expand(samples, *a.shape).clone(memory_format=_DENSE) for a in batch]
        for row, data in enumerate(self.arguments(batch)):
            for sample in range(samples):
                given = {name: v[sample, row] for name, v in (values or {}).items() if name != NONE}
                trace = run(pyro.poutine.uncondition(self.model), data, given)
                put(trace, places, [argument[sample, row] for argument in new])
        return new

    def observed(self, batch: Batch) -> dict[int, Any]:
        """Return the arguments that are observed, by number, each with the support of its site."""
        return super().observed(next(self.arguments(batch)))

    def by_site(self, role: Role, batch: Batch, values: Values) -> dict[str, Tensor]:
        """Return the log densities of a program's sites one by one, each ``(S, N)``."""
        counted = sample_sites if role == "model" else latent_sites
        return self._terms_of(role, batch, values, counted)

    def _density(self, role: Role, batch: Batch, values: Values, sites: Any) -> Tensor:
        terms = self._terms_of(role, batch, values, sites)
        shape = next(iter(values.values())).shape[:2]
        total = torch.zeros(shape, dtype=torch.float64, device=batch[0].device)
        return sum(terms.values(), total)

    def _terms_of(self, role: Role, batch: Batch, values: Values, sites: Any) -> dict[str, Tensor]:
        def terms(given: Values, *data: Tensor) -> Terms:
            return self._by_site(role, list(sites(self._trace(role, data, given))))

        return self._each(terms, batch, values)

    def _by_site(self, role: Role, sites: Sequence[tuple[str, Any]]) -> Terms:
        if self.program(role)[1]:
            return {name: d.double().sum() for name, _, d in sum_out(sites, self.plate_dims)}
        return {name: log_prob(site).double().sum() for name, site in sites}

    def _trace(self, role: Role, data: Batch, values: Values) -> Trace:
        fn, names = self.program(role)
        handler = AllValues(names, self.plate_dims, spread=self.spread) if names else None
        given = {name: value for name, value in values.items() if name not in names}
        return run(fn, data, given, handler=handler)

    def _draw(self, role: Role, batch: Batch, samples: int) -> tuple[Values, Tensor]:
        fn, kept = (self.guide if role == "guide" else self.model), self.latents
        density = "_pyro_vae_log_density"

        def draw(_: Values, *data: Tensor) -> Terms:
            sites = list(latent_sites(run(fn, data)))
            values = {name: site["value"] for name, site in sites if name in kept}
            return {**values, density: _total(self._by_site("guide", sites))}

        count = {NONE: torch.zeros(samples, len(batch[0]), device=batch[0].device)}
        with of_each_draw() if role in self.drawn_at_once else nullcontext():
            drawn = self._each(draw, batch, count, role=role)
        log_density = drawn.pop(density)
        return (count if NONE in self.latents else drawn), log_density

    def _each(
        self,
        function: Callable[..., Terms],
        batch: Batch,
        *values: Values,
        role: Role | None = None,
    ) -> dict[str, Tensor]:
        """Apply a function of latents and data to every draw for every data set.

        A function that draws says which program it draws from.
        """
        at_once = self.vectorized and (role is None or role in self.drawn_at_once)
        of_draws = over_draws(
            function, len(values), len(batch), at_once=at_once, randomness=_RANDOMNESS[role]
        )
        shape = next(iter(values[0].values())).shape[:2]
        if shape[1] > 1 and all(argument.stride(0) == 0 for argument in batch):  # see copies
            flat = ({name: v.flatten(0, 1) for name, v in given.items()} for given in values)
            found = of_draws(*flat, *next(self.arguments(batch)))
            return {name: value.unflatten(0, shape) for name, value in found.items()}
        if at_once and self.sets_at_once:
            dims = (*[1] * len(values), *[0] * len(batch))
            of_sets = torch.vmap(of_draws, in_dims=dims, out_dims=1, randomness=_RANDOMNESS[role])
            return dict(of_sets(*values, *batch))
        columns = []
        for row, data in enumerate(self.arguments(batch)):
            here = ({name: v[:, row] for name, v in given.items()} for given in values)
            columns.append(of_draws(*here, *data))
        return {name: torch.stack([c[name] for c in columns], 1) for name in columns[0]}


_DENSE = torch.contiguous_format
_RANDOMNESS = {None: "error", "model": "different", "guide": "different"}


def _total(terms: Terms) -> Tensor:
    return sum(terms.values(), torch.zeros((), dtype=torch.float64))
