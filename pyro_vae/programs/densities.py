"""Log densities of a Pyro model and guide, seen one datum at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pyro
import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import kl_divergence

from .checks import NonFiniteDensity, is_delta
from .counted import mask_of
from .described import check_any, check_constant, known_support
from .enumeration import AllValues, sum_out
from .layout import NONE, Layout, Values
from .places import check_simulated, data_places
from .supports import support_of
from .traces import (
    Batch,
    Fn,
    latent_sites,
    log_prob,
    observed_sites,
    run,
    sample_sites,
)

__all__ = ["ROLES", "Densities", "Role"]

Role = Literal["model", "guide"]
Sites = Iterable[tuple[str, Any]]

ROLES: tuple[Role, ...] = ("guide", "model")
_DENSE = torch.contiguous_format


@dataclass(frozen=True)
class Densities(Layout):
    """Draws and log densities of a model and a guide whose sites lie in one plate over the data.

    Log densities are of shape ``(samples, data)``, float64. Scales (of a subsampled plate, of
    ``poutine.scale``) are left out, since they belong to training; masks count. What the guide
    observes is no part of q(z|x). A density that is NaN or infinite is passed on, and
    :meth:`check_finite` says where it comes from.

    Args:
        model: Pyro program, called with the batch.
        guide: Pyro program, called with the batch.
        fixed_rows: number of data that the programs must get at once, if their plate has a
            subsample size of its own.
        summed: discrete latents of the model that are summed out of all its densities: those that
            the guide leaves out, marked ``infer={"enumerate": "parallel"}``, and ``dropped``.
        dropped: latents that the guide draws, and that are summed out of its density, too.
        spread: latents that programs get as often as there are values of one that is summed out.
        blind: whether the prior stands for the guide, which does not know the data.
    """

    model: Fn
    guide: Fn
    fixed_rows: int | None
    summed: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    spread: Mapping[str, int] | None = None
    blind: bool = False

    def arguments(self, batch: Batch) -> Iterator[Batch]:
        """Yield the arguments with which the programs are called for a batch."""
        yield batch

    def copies(self, batch: Batch, index: Tensor) -> Batch:
        """Return data by their numbers, which may repeat."""
        return tuple(argument[index] for argument in batch)

    def propose(self, batch: Batch, samples: int) -> tuple[Values, Tensor]:
        """Draw latents from the guide.

        Args:
            batch: N data.
            samples: number of draws S for each datum.

        Returns:
            The values, and log q(z|x) of shape ``(S, N)``, float64.
        """
        if self.blind:
            return self.propose_prior(batch, samples)
        trace = self._run(self.guide, batch, {}, samples)
        values = self.drawn(trace, batch, samples)
        if self.dropped:
            return values, self.log_guide(batch, values)
        return values, self._add_up("guide", latent_sites(trace), samples, batch)

    def propose_prior(self, batch: Batch, samples: int) -> tuple[Values, Tensor]:
        """Draw latents from the model's prior; return them with log p(z), as :meth:`propose`."""
        trace = self._run(self.model, batch, {}, samples)
        values = self.drawn(trace, batch, samples)
        if self.summed:  # drawn here, too
            return values, self.log_prior(batch, values)
        return values, self._add_up("model", latent_sites(trace), samples, batch)

    def log_joint(self, batch: Batch, values: Values) -> Tensor:
        """Return log p(x, z) for given latents."""
        return self._density("model", batch, values, sample_sites)

    def log_terms(self, batch: Batch, values: Values) -> tuple[Tensor, Tensor]:
        """Return log p(z) and log p(x, z) for given latents, from one run of the model."""
        trace, samples = self._at("model", batch, values), _number_of_samples(values)
        if self.summed:  # the sum over their values joins latent sites and observed ones
            log_joint = self._add_up("model", sample_sites(trace), samples, batch)
            return self._add_up("model", latent_sites(trace), samples, batch), log_joint
        terms = self._terms("model", sample_sites(trace), samples, len(batch[0]))
        latent = {name: terms[name] for name, _ in latent_sites(trace)}
        return self._total(latent, samples, batch), self._total(terms, samples, batch)

    def log_prior(self, batch: Batch, values: Values) -> Tensor:
        """Return log p(z) for given latents."""
        return self._density("model", batch, values, latent_sites)

    def log_likelihood(self, batch: Batch, values: Values) -> Tensor:
        """Return log p(x|z) for given latents."""
        if self.summed:
            return self.log_joint(batch, values) - self.log_prior(batch, values)
        return self._density("model", batch, values, observed_sites)

    def log_guide(self, batch: Batch, values: Values) -> Tensor:
        """Return log q(z|x) for given latents.

        Raises:
            ValueError: the guide draws auxiliary latents, which draws that are not its own lack.
        """
        if self.blind:
            return self.log_prior(batch, values)
        missing = [name for name in self.latents if name not in values]
        if missing:
            raise ValueError(
                f"the guide has auxiliary latents {missing}, so that its density at draws that are "
                "not its own is not known; leave defensive out."
            )
        return self._density("guide", batch, values, latent_sites)

    def divergence(self, batch: Batch, fixed: Values, values: Values) -> Tensor:
        """Return KL(p(x|fixed) || p(x|values)) summed over the observed sites.

        Raises:
            NotImplementedError: torch has no closed form for a site, or latents are summed out.
        """
        if self.summed:
            raise NotImplementedError("p(x|z) is a mixture")
        samples, n = _number_of_samples(values), len(batch[0])
        with torch.no_grad():
            reference = dict(observed_sites(self._replay(self.model, batch, fixed)))
        total = torch.zeros(samples, n, dtype=torch.float64, device=batch[0].device)
        for name, site in observed_sites(self._replay(self.model, batch, values)):
            if is_delta(site["fn"]):
                continue
            kl = kl_divergence(reference[name]["fn"], site["fn"])
            total = total + self.to_matrix(scale_and_mask(kl, mask=site["mask"]), samples, n)
        return total

    def describe(self, batch: Batch) -> tuple[Values, dict[str, tuple[Any, Tensor]]]:
        """Return a draw of the model's latents, and of each its support and where it is active.

        The support is the guide's where the model's distribution does not say. A latent is active
        at the data (and items of inner plates) where the model does not mask it: True in a tensor
        of shape ``(1, *batch dims of the plates)``.

        Raises:
            ValueError: an unknown support; no latents; a mask that depends on other latents.
        """
        guide = self._run(self.guide, batch, {}, 2)
        values = self.drawn(guide, batch, 2)
        sites = dict(latent_sites(self._replay(self.model, batch, values)))
        described = {
            name: (known_support(name, site, guide.nodes[name]), self._active(name, site))
            for name, site in sites.items()
            if name in values
        }
        check_any(described)
        return {name: values[name][:1] for name in described}, described

    def _active(self, name: str, site: Any) -> Tensor:
        """Where a latent counts, from a trace of two samples."""
        mask = mask_of(site)
        if self.vectorized:  # with or without a dimension of samples
            mask = mask.reshape((1,) * (self.plate_dims + 1 - mask.dim()) + mask.shape)
        else:
            mask = self.unfold(mask, 0, 2)
        check_constant(name, mask, mask[:1])
        return mask[:1]

    def supports(self, batch: Batch) -> dict[str, Any]:
        """Return the support of each latent that is drawn, from a run at two draws of the guide."""
        values = self.drawn(self._run(self.guide, batch, {}, 2), batch, 2)
        sites = latent_sites(self._replay(self.model, batch, values))
        return {name: support_of(site["fn"]) for name, site in sites if name in values}

    def simulate(self, batch: Batch) -> tuple[Batch, Values]:
        """Draw latents and data from the model; the batch gives number and shape of the data.

        Where the batch has missing values, NaN, the simulated data have them, too.

        Observations may be arguments of the programs, or parts or other shapes of them.

        Raises:
            ValueError: an observed site whose values are no values of an argument.
        """
        places = self._places(batch)
        new = [argument.clone(memory_format=_DENSE) for argument in batch]
        values = {}
        trace = run(pyro.poutine.uncondition(self.model), batch)
        for name, site in sample_sites(trace):
            if name in places:
                number, index = places[name]
                drawn = site["value"].to(new[number].dtype).expand(index.shape)
                new[number].view(-1)[index.flatten()] = drawn.flatten()
            elif name in self.latents:
                values[name] = self.unfold(site["value"], self.latents[name], 1)
        check_simulated(self.model, tuple(new), trace)
        hidden = zip(batch, new, strict=True)
        return tuple(torch.where(given.isnan(), given, drawn) for given, drawn in hidden), values

    def replicate(self, batch: Batch, samples: int, values: Values | None = None) -> list[Tensor]:
        """Draw data from the model at given latents, or, without, at draws of the prior.

        Args:
            batch: N data, which give number and shape.
            samples: number of draws S.
            values: draws of all latents that observations depend on.

        Returns:
            The arguments with their observed values drawn anew, each ``(S, N, ...)``.

        Raises:
            ValueError: an observed site whose values are no values of an argument.
        """
        places, free = self._places(batch), pyro.poutine.uncondition(self.model)
        new = [a.expand(samples, *a.shape).clone(memory_format=_DENSE) for a in batch]
        given = {name: value for name, value in (values or {}).items() if name != NONE}
        if given and not self.vectorized:
            given = {name: self.fold(value, self.latents[name]) for name, value in given.items()}
        trace = self._run(free, batch, given, samples)
        for name, (number, index) in places.items():
            site: Any = trace.nodes[name]
            drawn = site["value"].to(new[number].dtype)
            if not self.vectorized:
                drawn = self.unfold(drawn, site["fn"].event_dim, samples)
            while drawn.dim() > index.dim() + 1:  # plates of one item, left of the observation's
                drawn = drawn.squeeze(1)
            drawn = drawn.expand(samples, *index.shape)
            new[number].view(samples, -1)[:, index.flatten()] = drawn.reshape(samples, -1)
        return new

    def observed(self, batch: Batch) -> dict[int, Any]:
        """Return the arguments that are observed, by number, each with the support of its site."""
        places = self._places(batch)
        sites: Any = run(self.model, batch).nodes
        found = {number: support_of(sites[name]["fn"]) for name, (number, _) in places.items()}
        return dict(sorted(found.items()))

    def _places(self, batch: Batch) -> dict[str, tuple[int, Tensor]]:
        """Which argument each site observes, and where each observed value is in it."""
        places, sites = data_places(self.model, batch)
        for name, site in sites.items():
            if name not in places and not is_delta(site["fn"]):
                raise ValueError(
                    f"site {name!r} observes a function of the model's arguments; to simulate data "
                    "its observation must be an argument, or a part or another shape of one."
                )
        return places

    def check_finite(self, batch: Batch, values: Values, *densities: Tensor) -> None:
        """Check that log densities at given latents are numbers, or -infinity.

        Raises:
            NonFiniteDensity: names the first site with a density of NaN or +infinity, and the data.
        """
        if all((density < torch.inf).all() for density in densities):
            return
        for role in ROLES[self.blind :]:
            for name, density in self.by_site(role, batch, values).items():
                finite = density < torch.inf
                if not finite.all():
                    raise NonFiniteDensity(
                        name, role, (~finite).any(0).nonzero().flatten().tolist()
                    )

    def by_site(self, role: Role, batch: Batch, values: Values) -> dict[str, Tensor]:
        """Return the log densities of a program's sites one by one, each as :meth:`log_joint`."""
        samples, n = _number_of_samples(values), len(batch[0])
        counted = sample_sites if role == "model" else latent_sites
        return self._terms(role, counted(self._at(role, batch, values)), samples, n)

    def trace(self, role: Role, batch: Batch, samples: int, values: Values | None = None) -> Trace:
        """Trace one program at its own draws, or at those given (as many as ``samples``)."""
        if values is not None:
            return self._replay(self.guide if role == "guide" else self.model, batch, values)
        fn = self.guide if role == "guide" and not self.blind else self.model
        return self._run(fn, batch, {}, samples)

    def _density(self, role: Role, batch: Batch, values: Values, sites: Any) -> Tensor:
        trace = self._at(role, batch, values)
        return self._add_up(role, sites(trace), _number_of_samples(values), batch)

    def _at(self, role: Role, batch: Batch, values: Values) -> Trace:
        """Trace a program at given latents and at all values of those that are summed out."""
        fn, names = self.program(role)
        handler = AllValues(names, self._trace_dims, spread=self.spread) if names else None
        given = {name: value for name, value in values.items() if name not in names}
        return self._replay(fn, batch, given, handler)

    def program(self, role: Role) -> tuple[Fn, tuple[str, ...]]:
        """A program, and the latents that are summed out of its densities."""
        return (self.guide, self.dropped) if role == "guide" else (self.model, self.summed)

    @property
    def _trace_dims(self) -> int:
        """Number of batch dimensions of the plates in a trace, the samples' included."""
        return self.plate_dims + self.vectorized

    def _replay(
        self, fn: Fn, batch: Batch, values: Values, handler: Messenger | None = None
    ) -> Trace:
        samples = _number_of_samples(values)
        if not self.vectorized:
            values = {name: self.fold(value, self.latents[name]) for name, value in values.items()}
        return self._run(fn, batch, values, samples, handler)

    def _run(
        self, fn: Fn, batch: Batch, values: Values, samples: int, handler: Messenger | None = None
    ) -> Trace:
        """Trace one program on every (sample, datum) pair."""
        if self.vectorized:
            plate = (samples, -self.plate_dims - 1)
            return run(fn, batch, values, samples=plate, handler=handler)
        repeated = tuple(a.repeat(samples, *[1] * (a.dim() - 1)) for a in batch)
        return run(fn, repeated, values, handler=handler)

    def drawn(self, trace: Trace, batch: Batch, samples: int) -> Values:
        """Latent values of a trace, samples first."""
        if NONE in self.latents:
            shape = [1] * (1 + self.plate_dims)
            shape[0], shape[self.data_axis] = samples, len(batch[0])
            return {NONE: torch.zeros(shape, device=batch[0].device)}
        sites: dict[str, Any] = trace.nodes
        drawn = {name: sites[name]["value"] for name in self.latents if name in sites}
        if self.vectorized:
            return drawn
        return {name: self.unfold(v, self.latents[name], samples) for name, v in drawn.items()}

    def _add_up(self, role: Role, sites: Sites, samples: int, batch: Batch) -> Tensor:
        """Sum the log densities of sites, shape ``(S, N)``, float64."""
        return self._total(self._terms(role, sites, samples, len(batch[0])), samples, batch)

    def _total(self, terms: dict[str, Tensor], samples: int, batch: Batch) -> Tensor:
        total = torch.zeros(samples, len(batch[0]), dtype=torch.float64, device=batch[0].device)
        for term in terms.values():
            total = total + term
        return total

    def _terms(self, role: Role, sites: Sites, samples: int, n: int) -> dict[str, Tensor]:
        """Log densities of sites, or of those that a sum joins, each in a matrix."""
        terms: Iterable[Any] = ((name, site, log_prob(site)) for name, site in sites)
        if self.program(role)[1]:
            rows = n if self.vectorized else n * samples
            terms = sum_out(list(sites), self._trace_dims, rows=rows, data_dim=self.data_dim)
        return {name: self.matrix(name, site, density, samples, n) for name, site, density in terms}


def _number_of_samples(values: Values) -> int:
    return len(next(iter(values.values())))
