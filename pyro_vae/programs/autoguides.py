"""Pyro's automatic guides on latents of single data: what they say of each datum by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.util import sum_rightmost
from pyro.infer import autoguide
from torch import Tensor
from torch.distributions import biject_to

from ..common.seeding import seeded
from .traces import Batch, Fn

__all__ = ["density_of", "of_each_datum", "set_up"]


def set_up(guide: Fn, data: Batch) -> None:
    """Let an automatic guide that was never run see the model, on all the data.

    Run on some of them first, it would keep their number.
    """
    if isinstance(guide, autoguide.AutoGuide) and guide.prototype_trace is None:
        with seeded("set up", 0):
            guide(*data)


def of_each_datum(guide: Fn, rows: int) -> tuple[Fn, Batch] | None:
    r"""Take an automatic guide apart into one distribution for each datum.

    Such a guide is one density of the latents of all data that it was trained on,
    :math:`q(z_1, \dots, z_N)`. Of a normal one, in unconstrained space, the marginal of each datum
    is a normal, too, :math:`q_n(z_n)`, and importance sampling of :math:`p(x_n)` needs no more.

    Args:
        guide: Pyro program.
        rows: number of data.

    Returns:
        A guide of the data and two more arguments, and these: means ``(N, d)`` and Cholesky factors
        ``(N, d, d)`` of the data's normals. ``None`` if the guide is no automatic one.

    Raises:
        ValueError: a guide that was trained on another number of data; a point estimate; one whose
            marginals are not known.
    """
    if not isinstance(guide, autoguide.AutoGuide):
        return None
    parts = [part for leaf in _leaves(guide) for part in _parts(leaf, rows)]
    if not parts:
        return None
    loc = torch.cat([part.loc for part in parts], 1)
    tril = torch.zeros(rows, loc.shape[1], loc.shape[1], dtype=loc.dtype, device=loc.device)
    sites, start = [], 0
    for part in parts:
        size = part.loc.shape[1]
        tril[:, start : start + size, start : start + size] = part.tril
        sites += [site.after(start) for site in part.sites]
        start += size
    return _Marginals(tuple(sites)), (loc, tril)


def density_of(guide: Fn) -> Callable[[Mapping[str, Tensor]], Tensor] | None:
    """Return the log density of an automatic guide as a function of its latents, if it is known.

    By itself such a guide tells the density of its own draws only, which come of auxiliary sites.
    """
    leaves = list(_leaves(guide))
    if not all(
        isinstance(leaf, autoguide.AutoNormal | autoguide.AutoContinuous) for leaf in leaves
    ):
        return None

    def density(values: Mapping[str, Tensor]) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for leaf in leaves:
            vector = []
            for name, site in leaf.prototype_trace.iter_stochastic_nodes():
                transform = biject_to(site["fn"].support)
                u = transform.inv(values[name])
                total = total - transform.log_abs_det_jacobian(u, values[name]).double().sum()
                vector.append(u.reshape(-1))
                if isinstance(leaf, autoguide.AutoNormal):
                    normal = dist.Normal(*leaf._get_loc_and_scale(name))
                    total = total + normal.log_prob(u).double().sum()
            if not isinstance(leaf, autoguide.AutoNormal):
                total = total + leaf.get_posterior().log_prob(torch.cat(vector)).double()
        return total

    return density


@dataclass(frozen=True)
class _Site:
    """A latent site, and where it lies in the vector of a datum.

    Args:
        site: of the guide's prototype trace.
        frames: its plates.
        plate: name of the data plate.
        shape: unconstrained, of all the data.
        event_dim: of the unconstrained value.
        start: first place in the vector.
    """

    site: Any
    frames: tuple[Any, ...]
    plate: str
    shape: torch.Size
    event_dim: int
    start: int = 0

    @property
    def dim(self) -> int:
        """Batch dimension of the data plate."""
        return next(int(frame.dim) for frame in self.frames if frame.name == self.plate)

    @property
    def axis(self) -> int:
        """Axis of the data in the unconstrained value."""
        return len(self.shape) - self.event_dim + self.dim

    @property
    def rest(self) -> list[int]:
        """Unconstrained shape of one datum."""
        return [size for axis, size in enumerate(self.shape) if axis != self.axis]

    def after(self, start: int) -> _Site:
        """Return the site in a vector that begins earlier."""
        return replace(self, start=self.start + start)

    def of_each(self, values: Tensor) -> Tensor:
        """Rearrange values of the unconstrained shape, shape ``(N, size)``."""
        values = values.movedim(self.axis, 0)
        return values.reshape(len(values), -1)


@dataclass(frozen=True)
class _Part:
    """Sites that a guide draws together, with the normal of each datum."""

    sites: tuple[_Site, ...]
    loc: Tensor
    tril: Tensor


class _Marginals:
    """A guide of the data, and of means and Cholesky factors of their normals."""

    def __init__(self, sites: tuple[_Site, ...]) -> None:
        self.sites = sites

    def __call__(self, *arguments: Tensor) -> None:
        *_, loc, tril = arguments
        first = self.sites[0]
        inner = (1,) * (-first.dim - 1)
        rows = len(loc)
        plates = {first.plate: pyro.plate(first.plate, rows, dim=first.dim)}
        for frame in (frame for site in self.sites for frame in site.frames):
            if frame.name not in plates:
                plates[frame.name] = pyro.plate(frame.name, frame.size, dim=frame.dim)
        with plates[first.plate]:
            normal = dist.MultivariateNormal(
                loc.reshape(rows, *inner, -1),
                scale_tril=tril.reshape(rows, *inner, *tril.shape[1:]),
            )
            name = "_pyro_vae_latents_of_datum"
            vectors = pyro.sample(name, normal, infer={"is_auxiliary": True})
        dims = vectors.dim() - 1  # of all plates, and of samples where they have a dimension
        lead = vectors.shape[:1] if dims > -first.dim else ()
        vectors = vectors.reshape(*lead, rows, -1)
        for site in self.sites:
            piece = vectors[..., site.start : site.start + prod(site.rest)]
            value = piece.reshape(*lead, rows, *site.rest).movedim(len(lead), len(lead) + site.axis)
            if lead:
                missing = dims - 1 - (len(site.shape) - site.event_dim)
                value = value.reshape(*lead, *(1,) * missing, *value.shape[1:])
            _sample(site, value, plates)


def _sample(site: _Site, unconstrained: Tensor, plates: dict[str, Any]) -> None:
    """Sample a site at a value, with the density that comes of its transformation."""
    fn = site.site["fn"]
    transform = biject_to(fn.support)
    value = transform(unconstrained)
    density = transform.inv.log_abs_det_jacobian(value, unconstrained)
    density = sum_rightmost(density, density.dim() - value.dim() + fn.event_dim)
    with ExitStack() as stack:
        for frame in site.frames:
            stack.enter_context(plates[frame.name])
        delta = dist.Delta(value, log_density=density, event_dim=fn.event_dim)
        pyro.sample(site.site["name"], delta)


def _leaves(guide: Any) -> Iterator[Any]:
    """The guides that a list of guides is made of."""
    if isinstance(guide, autoguide.AutoGuideList):
        for part in guide:
            yield from _leaves(part)
    else:
        yield guide


def _parts(guide: Any, rows: int) -> Iterator[_Part]:
    """What one automatic guide draws, with the normals of each datum."""
    kind = type(guide).__name__
    if isinstance(guide, autoguide.AutoDelta):
        raise ValueError(
            f"the guide is an {kind}, a point estimate, which has no density to weigh draws by; "
            "use AutoNormal or AutoMultivariateNormal."
        )
    if isinstance(guide, autoguide.AutoNormal):
        trace: Any = guide.prototype_trace
        for _, site in trace.iter_stochastic_nodes():
            loc, scale = guide._get_loc_and_scale(site["name"])
            place = _place(site, loc.shape, rows, kind)
            scale = scale.expand(loc.shape)
            yield _Part((place,), place.of_each(loc), place.of_each(scale).diag_embed())
        return
    posterior = _normal_posterior(guide, kind)
    if not isinstance(guide, autoguide.AutoContinuous):
        raise _unknown(guide, kind)
    size = posterior.loc.shape[-1]
    placed, indices, start = [], [], 0
    for site, index in guide._unpack_latent(torch.arange(size)):
        place = _place(site, index.shape, rows, kind).after(start)
        placed.append(place)
        indices.append(place.of_each(index))
        start += indices[-1].shape[1]
    index = torch.cat(indices, 1)
    yield _Part(tuple(placed), posterior.loc[index], _factor(posterior, index))


def _normal_posterior(guide: Any, kind: str) -> Any:
    """The normal distribution of the vector of all latents."""
    try:
        posterior = guide.get_posterior()
    except (AttributeError, KeyError, NotImplementedError, TypeError):
        posterior = None
    base = posterior.base_dist if isinstance(posterior, dist.Independent) else posterior
    normal = (dist.Normal, dist.MultivariateNormal, dist.LowRankMultivariateNormal)
    if not isinstance(base, normal):
        raise _unknown(guide, kind)
    return base


def _unknown(guide: Any, kind: str) -> ValueError:
    hint = " (of its laplace_approximation)" * isinstance(guide, autoguide.AutoLaplaceApproximation)
    return ValueError(
        f"the guide is an {kind}, a density of the latents of all data together, from which that "
        "of one datum does not follow; use AutoNormal, AutoDiagonalNormal, "
        f"AutoMultivariateNormal{hint} or AutoLowRankMultivariateNormal."
    )


def _factor(posterior: Any, index: Tensor) -> Tensor:
    """Cholesky factors ``(N, d, d)`` of the covariances of some of the dimensions."""
    if isinstance(posterior, dist.Normal):
        return posterior.scale[index].diag_embed()
    if isinstance(posterior, dist.LowRankMultivariateNormal):
        factor = posterior.cov_factor[index]
        covariance = factor @ factor.mT + posterior.cov_diag[index].diag_embed()
    else:
        rows = posterior.scale_tril[index]
        covariance = rows @ rows.mT
    tril: Tensor = torch.linalg.cholesky(covariance)
    return tril


def _place(site: Any, shape: torch.Size, rows: int, kind: str) -> _Site:
    """Where the data are in the unconstrained value of a site."""
    name = site["name"]
    frames = tuple(frame for frame in site["cond_indep_stack"] if frame.vectorized)
    event_dim = site["fn"].event_dim + len(shape) - site["value"].dim()
    following = [frame for frame in frames if frame.size == rows]
    if len(following) != 1:
        sizes = ", ".join(f"{frame.name!r} of {frame.size}" for frame in frames)
        raise ValueError(
            f"latent site {name!r} of the {kind} lies in the plates {sizes}; expected one with the "
            f"{rows} data given. An automatic guide knows the data alone that it was trained on: "
            "give these, or take a guide that looks at the data, such as pv.amortize(model, x)."
        )
    return _Site(site, frames, following[0].name, shape, event_dim)
