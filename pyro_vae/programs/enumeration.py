"""Discrete latents of a model that the guide leaves out: summed out of its log densities."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from .checks import check_shape
from .counted import is_masked, mask_of
from .traces import latent_sites, log_prob

__all__ = ["AllValues", "left_out", "sum_out", "without_idle"]


def left_out(model: Trace, guide: Trace) -> tuple[str, ...]:
    """Latents of the model marked ``infer={"enumerate": "parallel"}`` that the guide leaves out.

    Raises:
        ValueError: one whose values are not finite in number.
    """
    given, names = dict(latent_sites(guide)), []
    for name, site in latent_sites(model):
        if name in given or not _is_marked(site["infer"] or {}):
            continue
        if not site["fn"].has_enumerate_support:
            raise ValueError(
                f"latent site {name!r} of the model is to be summed out, but "
                f"{type(site['fn']).__name__} has no finite number of values; add it to the guide."
            )
        names.append(name)
    return tuple(names)


class AllValues(EnumMessenger):  # type: ignore[misc, unused-ignore]
    """Give sites all their values at once, each in a dimension of its own left of all plates.

    Args:
        names: the sites.
        plate_dims: number of batch dimensions that plates use.
        spread: other latents that the program gets as often as there are values of a single site,
            which programs need that join both by ``torch.cat``; and how often.
    """

    def __init__(
        self, names: Sequence[str], plate_dims: int, *, spread: Mapping[str, int] | None = None
    ) -> None:
        super().__init__(first_available_dim=-plate_dims - 1)
        self.names, self.plate_dims, self.spread = names, plate_dims, spread or {}

    def _pyro_sample(self, msg: Any) -> None:
        infer = msg["infer"] or {}
        if msg["name"] in self.names:
            expand = bool(self.spread) or infer.get("expand", False)
            marks = {"enumerate": "parallel", "num_samples": None, "expand": expand}
            msg["infer"] = {**infer, **marks}
        elif _is_marked(infer):
            msg["infer"] = {**infer, "enumerate": None}  # it has a value, or is drawn
        super()._pyro_sample(msg)

    def _pyro_post_sample(self, msg: Any) -> None:
        value = msg["value"]
        if isinstance(value, Tensor):  # Pyro asks for its shape by .data, which vmap does not allow
            msg["value"] = torch.empty(value.shape, device="meta")
        super()._pyro_post_sample(msg)
        msg["value"] = value
        if msg["name"] in self.spread:
            event = msg["fn"].event_dim
            ones = [1] * (self.plate_dims + event - value.dim())
            msg["value"] = value.expand(self.spread[msg["name"]], *ones, *value.shape)


@dataclass(frozen=True)
class _Factor:
    """Log density of some sites, with a dimension for each variable that is not summed out yet.

    Args:
        name: names of the sites.
        site: the one whose plates it lies in.
        variables: whose values run along its first dimensions; the others are the plates'.
        value: the log density, float64.
    """

    name: str
    site: Any
    variables: tuple[int, ...]
    value: Tensor

    @property
    def plates(self) -> dict[int, int]:
        """Sizes of the plates by dimension."""
        stack = self.site["cond_indep_stack"]
        return {frame.dim: frame.size for frame in stack if frame.vectorized}

    def along(self, variables: Sequence[int]) -> Tensor:
        """The value with dimensions for the given variables, in their order."""
        own = [self.variables.index(v) for v in variables if v in self.variables]
        rest = range(len(own), self.value.dim())
        value = self.value.permute(*own, *rest)
        sizes = iter(value.shape)
        lead = [next(sizes) if v in self.variables else 1 for v in variables]
        return value.reshape([*lead, *sizes])


def sum_out(
    sites: Sequence[tuple[str, Any]],
    plate_dims: int,
    *,
    rows: int | None = None,
    data_dim: int = 0,
) -> Iterator[tuple[str, Any, Tensor]]:
    r"""Sum enumerated sites out of the log densities of some sites, exactly.

    .. math:: \log \sum_c \exp \sum_i f_i(c)

    Inside plates, one item at a time: variables of the innermost plates first, each out of the sum
    of the terms that depend on it (variable elimination).

    Args:
        sites: of a trace under :class:`AllValues`.
        plate_dims: number of batch dimensions that plates use.
        rows: size of the data plate; none if there is no such plate.
        data_dim: its dimension.

    Yields:
        For each site that no sum concerns, or sites under one: names, a site of the same plates,
        and the log density.

    Raises:
        ValueError: a site that depends on a sum's variable from outside of the variable's plate.
    """
    factors, sites_of = [], {}
    for name, site in sites:
        factor = _factor(name, site, plate_dims, rows, data_dim)
        factors.append(factor)
        if "_enumerate_dim" in site["infer"]:
            variable = site["infer"]["_dim_to_id"][site["infer"]["_enumerate_dim"]]
            sites_of[variable] = (name, site)
    while sites_of:
        variable = _next(factors, sites_of)
        merged = _without(variable, [f for f in factors if variable in f.variables], sites_of)
        del sites_of[variable]
        factors = [f for f in factors if variable not in f.variables] + [merged]
    for factor in factors:
        yield factor.name, factor.site, factor.value


def without_idle(sites: Sequence[tuple[str, Any]], plate_dims: int) -> Sequence[tuple[str, Any]]:
    """Leave out enumerated latents that no other latent depends on: their sum is one."""
    others = [(name, site) for name, site in sites if "_enumerate_dim" not in site["infer"]]
    alone = all(_lead(site, plate_dims) == 1 for _, site in others)
    return others if alone else sites


def _lead(site: Any, plate_dims: int) -> int:
    """Number of values left of the plates' dimensions, in a site's value or its distribution."""
    shape = site["value"].shape
    shapes = (shape[: len(shape) - site["fn"].event_dim], site["fn"].batch_shape)
    batch = torch.broadcast_shapes(*shapes)
    return math.prod(batch[: max(len(batch) - plate_dims, 0)])


def _is_marked(infer: Any) -> bool:
    return infer.get("enumerate") == "parallel" and infer.get("num_samples") is None


def _factor(name: str, site: Any, plate_dims: int, rows: int | None, data_dim: int) -> _Factor:
    """Log density of a site, its dimensions told apart."""
    density = log_prob(site).double()
    if "_enumerate_dim" in site["infer"] and is_masked(site):
        mask = mask_of(site)
        # Of a value that does not count any is as good: it must not count as often as there are.
        number = site["fn"].enumerate_support(expand=False).shape[0]
        density = torch.where(mask.to(density.device), density, -math.log(number))
    density = density.reshape((1,) * (plate_dims - density.dim()) + density.shape)
    lead = density.dim() - plate_dims
    if rows is not None:
        check_shape(name, site, density[(0,) * lead], rows, data_dim)
    ids, variables = site["infer"].get("_dim_to_id", {}), []
    for axis in range(lead):
        if density.shape[axis] > 1:
            if axis - density.dim() not in ids:
                raise ValueError(
                    f"site {name!r} has log_prob of shape {tuple(density.shape)}, with a dimension "
                    "that belongs to no plate and to no enumerated site; call .to_event() on its "
                    "distribution."
                )
            variables.append(ids[axis - density.dim()])
    shape = [size for size in density.shape[:lead] if size > 1]
    return _Factor(
        name, site, tuple(variables), density.reshape(shape + list(density.shape[lead:]))
    )


def _next(factors: list[_Factor], sites: dict[int, tuple[str, Any]]) -> int:
    """Variable to sum out: one in the most plates, of these the one that joins the fewest."""

    def cost(variable: int) -> tuple[int, int]:
        joined = {v for f in factors if variable in f.variables for v in f.variables}
        return -len(sites[variable][1]["cond_indep_stack"]), len(joined)

    return min(sites, key=cost)


def _without(variable: int, factors: list[_Factor], sites: dict[int, tuple[str, Any]]) -> _Factor:
    """Sum a variable out of the factors that depend on it."""
    name, site = sites[variable]
    own = {frame.dim for frame in site["cond_indep_stack"] if frame.vectorized}
    variables = sorted({v for factor in factors for v in factor.variables} - {variable})
    total = torch.zeros((), dtype=torch.float64, device=factors[0].value.device)
    for factor in factors:
        inner = factor.plates.keys() - own
        others = [v for v in factor.variables if v != variable]
        crossed = any(
            frame.dim in inner for v in others for frame in sites[v][1]["cond_indep_stack"]
        )
        if own - factor.plates.keys() or crossed:
            raise ValueError(
                f"site {factor.name!r} depends on the enumerated site {name!r} across plates, so "
                "that the sum over its values does not split into one for each item; put both "
                f"into one plate, or add {name!r} to the guide."
            )
        value = factor.along([variable, *variables])
        for dim in inner:  # items of an inner plate, each with the same value of the variable
            size = factor.plates[dim] if value.shape[dim] == 1 else 1
            value = size * value.sum(dim, keepdim=True)
        total = total + value
    joined = ", ".join(factor.name for factor in factors)
    return _Factor(joined, site, tuple(variables), total.logsumexp(0))
