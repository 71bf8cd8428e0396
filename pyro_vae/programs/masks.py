"""Missing data: programs whose observations count only where a mask says so."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import Independent, constraints, transform_to

from ..common.seeding import seeded
from .followed import Followed
from .module import ProgramModule, evaluated
from .modules import check_programs, takes_missing
from .supports import is_discrete
from .traces import Batch, Fn, latent_sites, log_prob, run, sample_sites

__all__ = [
    "Masked",
    "Observed",
    "check_hidden",
    "check_mask",
    "fill",
    "mask_guide",
    "mask_model",
]


def check_mask(mask: Tensor, x: Tensor) -> Tensor:
    """Check a mask of observed values and return it in the data's shape.

    Args:
        mask: True where a value is observed; shape of the data or one that broadcasts to it.
        x: data of shape ``(N, *event_shape)``.

    Raises:
        ValueError: a mask that is not boolean or has another shape.
    """
    if mask.dtype != torch.bool:
        raise ValueError(f"mask must be boolean, True where observed; got {mask.dtype}.")
    try:
        return mask.expand(x.shape)
    except RuntimeError:
        raise ValueError(
            f"mask must have the data's shape {tuple(x.shape)}; got {tuple(mask.shape)}."
        ) from None


def fill(batch: Batch, mask: Tensor, *, first: int = 0) -> Batch:
    """Put zeros for missing values of a batch, and the mask at its end.

    Args:
        batch: arguments of the programs, the data first.
        mask: True where a value of the data is observed, shape of the data.
        first: number of the batch's first datum, for the message.

    Raises:
        ValueError: a datum without an observed value; NaN at an observed one.
    """
    mask = check_mask(mask, batch[0])
    nothing = ~mask.flatten(1).any(1)
    if nothing.any():
        raise ValueError(f"datum {first + int(nothing.nonzero()[0])} has no observed value.")
    filled = _filled(batch[0], mask)
    if not filled.isfinite().all():
        raise ValueError("observed data hold NaN or infinite values; mask them or mend them.")
    return filled, *batch[1:], mask


def mask_model(model: Fn, *, hidden: float = 0.0) -> Fn:
    """Return the model of a mask, too, as a last argument: p(x_obs, z).

    The model may observe the data moved (reshaped, transposed, in parts) or each value changed by
    itself (cast, scaled): the mask goes with them. Run, it raises ``ValueError`` if a site observes
    values made of several of the data, or if no site observes them.

    Args:
        model: the model.
        hidden: what it finds in place of missing values.
    """

    def masked(x: Tensor, *rest: Tensor) -> Any:
        *others, mask = _with_mask(x, rest)
        filled = _filled(x, mask, hidden)
        with Followed(filled, mask) as followed, Observed(followed) as observed:
            result = model(filled, *others)
        if not observed.sites:
            raise ValueError(
                "a mask was given, but no site of the model observes the data, the first argument, "
                "so it would have no effect; observe them by obs=x, or leave the mask out."
            )
        return result

    masked.unmasked = model  # type: ignore[attr-defined]
    return masked


def mask_guide(guide: Fn, *, hidden: float = 0.0) -> Fn:
    """Return the guide of a mask, too, as a last argument; missing values are ``hidden`` to it."""

    def masked(x: Tensor, *rest: Tensor) -> Any:
        *others, mask = _with_mask(x, rest)
        return guide(_filled(x, mask, hidden), *others)

    return masked


@torch.no_grad()
def check_hidden(model: Fn, guide: Fn, batch: Batch) -> None:
    """Check that a masked model does not read missing values; others have none.

    It is run twice at the same latents, with zeros and with ones there.

    Args:
        model: Pyro program, of a mask if :func:`mask_model` or :class:`Masked` made it.
        guide: Pyro program of the same arguments.
        batch: the arguments.

    Raises:
        ValueError: a log density depends on missing values, so that it is not that of p(x_obs).
    """
    owner = getattr(model, "__self__", None)
    whole = owner.program.model if isinstance(owner, Masked) else getattr(model, "unmasked", None)
    if whole is None:
        return
    with seeded("check", 0), pyro.validation_enabled(False):
        drawn = run(guide, batch)
    values = {name: site["value"] for name, site in latent_sites(drawn)}
    densities = []
    for hidden in (0.0, 1.0):
        with seeded("check", 0), pyro.validation_enabled(False):
            trace = run(mask_model(whole, hidden=hidden), batch, values)
        densities.append({name: log_prob(site) for name, site in sample_sites(trace)})
    zeros, ones = densities
    for name, density in zeros.items():
        if not torch.allclose(density, ones[name], rtol=1e-5, atol=1e-5, equal_nan=True):
            raise ValueError(
                f"the log density of site {name!r} changes with what stands in place of missing "
                "values, so it is no density of the observed ones alone; let the model read the "
                "data only as what its sites observe, and give it anything else that it needs as "
                "a further argument."
            )


class Masked(ProgramModule):
    r"""A program of x made one of x and a mask, for data of which values are missing.

    .. math:: p(x_{obs}, z) = p(z) \prod_{d \in obs} p(x_d \mid z), \qquad q(z \mid x_{obs})

    Likelihood terms of missing values are left out (which is right if values are missing at
    random), and the guide sees zeros there (NaN, if the program takes it). What the tensors hold at
    missing values, NaN included, has no effect. ::

        masked = Masked(vae)
        pv.fit(masked, (x, mask))
        pv.log_evidence(masked.model, masked.guide, (x, mask))     # x without NaN here

    The last line gives what ``pv.log_evidence(vae.model, vae.guide, x, mask=mask)`` gives. The mask
    is the last argument, after those of the program.

    Args:
        program: module with Pyro programs ``model`` and ``guide`` of the data first, such as
            ``VAE``; its likelihood is of independent values.

    Raises:
        TypeError: no such module.

    References:
        Mattei and Frellsen (2019). https://arxiv.org/abs/1812.02633
        Nazábal et al. (2020). https://arxiv.org/abs/1807.03653
    """

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program: Any = check_programs(program)
        self.hidden = torch.nan if takes_missing(program) else 0.0

    def model(self, x: Tensor, *rest: Tensor) -> Any:
        """Declare p(z) and the likelihood of the observed values.

        Args:
            x: data of shape ``(N, *event_shape)``.
            rest: further arguments of the program; then the mask, True where a value is observed,
                shape of x or one that broadcasts to it.

        Raises:
            ValueError: a mask that is not boolean or has another shape; a likelihood of dependent
                values.
        """
        return mask_model(self.program.model)(x, *rest)

    def guide(self, x: Tensor, *rest: Tensor) -> Any:
        """Declare the program's guide, given the data with zeros (or NaN) for missing values."""
        return mask_guide(self.program.guide, hidden=self.hidden)(x, *rest)

    @evaluated
    def impute(self, x: Tensor, mask: Tensor) -> Tensor:
        """Fill missing values with the program's reconstruction from the observed ones.

        Args:
            x: data of shape ``(N, *event_shape)``.
            mask: True where a value is observed.

        Returns:
            Tensor of the data's shape, equal to x where observed, on the program's device.
        """
        mask = check_mask(mask, x)
        filled = _filled(x, mask, self.hidden)
        return torch.where(mask, filled, self.program.reconstruct(filled))


class Observed(Messenger):  # type: ignore[misc, unused-ignore]
    """Mask the sites that observe the data, value by value.

    Args:
        followed: the data and their mask, as the program goes on with them.

    Attributes:
        sites: names of the sites that were masked.
    """

    def __init__(self, followed: Followed) -> None:
        super().__init__()
        self.followed = followed
        self.sites: list[str] = []

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] or (msg["infer"] or {}).get("_deterministic"):
            return
        observed = self.followed.mask_of(msg["value"])
        if observed is None:
            return
        if isinstance(observed, str):
            raise ValueError(
                f"site {msg['name']!r} observes values made of several values of the data (by "
                f"{observed}), so that none of them is there where one of the data is missing. "
                "Observe the data as they are, moved (reshape, permute, index) or each by itself "
                "(cast, scaled), or give them without a mask."
            )
        fn, event_dim = msg["fn"], msg["fn"].event_dim
        independent = isinstance(fn, Independent) and fn.reinterpreted_batch_ndims == event_dim
        if event_dim and not independent:
            raise ValueError(
                f"site {msg['name']!r} is {type(fn).__name__}, whose values are dependent: their "
                "log density cannot be masked one by one. Use independent values with .to_event()."
            )
        self.sites.append(msg["name"])
        values = fn.base_dist if event_dim else fn
        msg["fn"] = values.mask(observed).to_event(event_dim)
        filler = _filler(values.support)
        if filler is not None:
            msg["value"] = torch.where(observed, msg["value"], filler)


def _filler(support: Any) -> float | None:
    """A value inside the support, for hidden values where the zero they hold is not.

    A support with missing values has one for them. A density of zero or infinity would not count,
    but its gradient would be NaN.
    """
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    if (missing := getattr(support, "missing", None)) is not None:
        return float(missing)
    if support is constraints.real or is_discrete(support):
        return None
    try:
        return float(transform_to(support)(torch.zeros(())))
    except NotImplementedError:
        return None


def _with_mask(x: Tensor, rest: Batch) -> list[Tensor]:
    """The arguments after the data, the last of which is the mask."""
    if not rest:
        raise TypeError("a masked program takes the mask as its last argument; give (x, mask).")
    return [*rest[:-1], check_mask(rest[-1], x)]


def _filled(x: Tensor, mask: Tensor, hidden: float = 0.0) -> Tensor:
    return torch.where(mask, x, torch.full_like(x, hidden))
