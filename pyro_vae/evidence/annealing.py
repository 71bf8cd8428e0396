"""Annealed importance sampling with Hamiltonian moves, forward and in reverse."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..common.devices import sent
from ..compiled import Recorded
from ..programs.traces import Batch
from .compiled import CompiledPair
from .proposals import NormalProposal
from .space import Space

__all__ = ["Annealing", "Chains", "Moves", "anneal", "anneal_reverse", "tune"]

_LEAST_STEP, _MOST_STEP = 1e-4, 2.0


@dataclass(frozen=True)
class Annealing:
    """Settings of annealed importance sampling.

    Attributes:
        temperatures: number T of intermediate distributions.
        leapfrog: leapfrog steps of each Hamiltonian move.
        chains: independent chains for each datum.
        schedule: ``"sigmoid"`` (slow at both ends) or ``"linear"``.
        acceptance: acceptance rate that the pilot aims at.
        pilot_chains: chains of the pilot, which adapts the step sizes.
        start: where the path begins: ``"laplace"``, the ladder's proposal; ``"guide"`` or
            ``"prior"``, normals with the moments that draws of these have (nearly themselves where
            they are normal). Weights are unbiased from any start; a near one needs fewer
            temperatures.
    """

    temperatures: int = 50
    leapfrog: int = 3
    chains: int = 64
    schedule: Literal["sigmoid", "linear"] = "sigmoid"
    acceptance: float = 0.75
    pilot_chains: int = 4
    start: Literal["laplace", "guide", "prior"] = "laplace"

    def __post_init__(self) -> None:
        for name in ("temperatures", "leapfrog", "chains", "pilot_chains"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}.")
        if self.schedule not in ("sigmoid", "linear"):
            raise ValueError(f"schedule must be 'sigmoid' or 'linear'; got {self.schedule!r}.")
        if self.start not in ("laplace", "guide", "prior"):
            raise ValueError(f"start must be laplace, guide or prior; got {self.start!r}.")

    def betas(self) -> Tensor:
        """Inverse temperatures from exactly 0 to exactly 1, ``(T + 1,)``, float64."""
        t = torch.linspace(0, 1, self.temperatures + 1, dtype=torch.float64)
        if self.schedule == "linear":
            return t
        raw = torch.sigmoid(4 * (2 * t - 1))
        return (raw - raw[0]) / (raw[-1] - raw[0])


@dataclass(frozen=True)
class Moves:
    """Frozen step sizes, so that weights stay unbiased.

    Attributes:
        steps: step size at each inner temperature for each datum, ``(T - 1, N)``.
        acceptance: mean acceptance rate of the pilot, ``(N,)``.
    """

    steps: Tensor
    acceptance: Tensor


@dataclass(frozen=True)
class Chains:
    """Annealed chains, each ``(C, N)`` or ``(C, N, D)``.

    Attributes:
        log_weights: log importance weights, float64.
        ends: where they end, in the unconstrained space; with the weights, draws of the posterior.
        log_ratios: log p(x, u) minus the log density of the normal that they started from, there.
        strata: True for chains that started at the prior, ``(C,)``; none if it has no share.
    """

    log_weights: Tensor
    ends: Tensor
    log_ratios: Tensor
    strata: Tensor | None


class _Path:
    """Geometric path between a proposal and the model, in the proposal's whitened coordinates.

    In v, with u = m + L v, a normal proposal is standard normal, so that one step size suits every
    direction. A share of the chains may start at the prior; the path then starts at the mixture.
    """

    def __init__(
        self, space: Space, batch: Batch, base: NormalProposal, prior_share: float = 0.0
    ) -> None:
        self.space, self.batch, self.base = space, batch, base
        self.prior_share = prior_share
        self.volume = base.tril.diagonal(dim1=-2, dim2=-1).double().log().sum(-1)
        self.density = Recorded(self._density)
        self.ends = self._ends if isinstance(space.pair, CompiledPair) else Recorded(self._ends)

    def start(self, chains: int) -> Tensor:
        """Draw places to start from, in v, ``(chains, N, D)``."""
        v = self.base.noise(chains)
        if count := self.from_prior(chains):
            values, _ = self.space.pair.propose_prior(self.batch, count)
            drawn = self.base.whiten(self.space.vector(values))
            usable = drawn.isfinite()
            if self.space.idle is not None:
                usable = usable & ~self.space.idle
            v[:count] = drawn.where(usable, v[:count])
        return v

    def from_prior(self, chains: int) -> int:
        """Return how many of some chains start at the prior: the first ones."""
        if not self.prior_share:
            return 0
        return min(max(1, round(chains * self.prior_share)), chains - 1)

    def _ends(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Log densities of the path's start and of p(x, u) in v, ``(C, N)``, float64."""
        log_base = self.base.log_noise(v) + self.volume
        log_prior, log_joint = self.space.log_terms(self.batch, self.base.place(v))
        if self.prior_share:
            parts = (
                log_base + math.log1p(-self.prior_share),
                log_prior + self.volume + math.log(self.prior_share),
            )
            log_base = torch.logaddexp(*parts)
        return log_base, (log_joint + self.volume).nan_to_num(nan=-math.inf, posinf=math.inf)

    def difference(self, v: Tensor, *, checked: bool = True) -> Tensor:
        """Log p(x, u) minus the log density of the path's start.

        To look (``checked``) makes the host wait for a GPU. A chain that is where the density is
        infinite stays there, so that it is enough to look at its end.

        Raises:
            NonFiniteDensity: p(x, u) is infinite, as that of a Gamma variable rounded to zero is.
        """
        with torch.no_grad():
            log_base, log_joint = self.ends(v)
            if checked and (log_joint == math.inf).any():
                values, _ = self.space.values(self.base.place(v))
                self.space.pair.check_finite(self.batch, values, log_joint)
        return log_joint - log_base

    def _density(self, v: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
        """Log density at inverse temperature ``beta``, ``(C, N)``, and its gradient in v."""
        with torch.enable_grad():
            w = v.detach().requires_grad_()
            log_base, log_joint = self._ends(w)
            log_density = (1 - beta) * log_base + beta * log_joint
            (gradient,) = torch.autograd.grad(log_density.sum(), w)
        return log_density.detach(), gradient.nan_to_num(0.0, 0.0, 0.0)


def tune(
    space: Space,
    batch: Batch,
    base: NormalProposal,
    settings: Annealing,
    *,
    prior_share: float = 0.0,
) -> Moves:
    """Adapt the step sizes in a pilot run, temperature by temperature and datum by datum.

    At each temperature the pilot's chains make one move; the step then grows by 5 % where the
    moving average of the acceptance is above the target, and shrinks by 5 % where it is below.
    """
    path = _Path(space, batch, base, prior_share)
    v = path.start(settings.pilot_chains)
    adapted = _Adapted(v, settings.acceptance)
    steps, rates = [], []
    for beta in settings.betas()[1:-1]:
        v, accepted = _move(path, v, beta, adapted.step, settings.leapfrog)
        rates.append(adapted.update(accepted))
        steps.append(adapted.step)
    if not steps:
        empty = torch.empty(0, v.shape[1], dtype=v.dtype, device=v.device)
        return Moves(empty, torch.full_like(adapted.step, math.nan, dtype=torch.float32))
    return Moves(torch.stack(steps), torch.stack(rates).mean(0))


class _Adapted:
    """Step sizes, one for each datum, that grow or shrink by 5 % with the acceptance."""

    def __init__(self, v: Tensor, target: float) -> None:
        self.target = target
        self.step = torch.full(v.shape[1:2], 0.3, dtype=v.dtype, device=v.device)
        self.average = torch.full_like(self.step, target)

    def update(self, accepted: Tensor) -> Tensor:
        """Adapt to the acceptance of every chain, and return the chains' means."""
        rate = accepted.mean(0)
        self.average = 0.9 * self.average + 0.1 * rate
        self.step = self.step * torch.where(self.average > self.target, 1.05, 0.95)
        self.step = self.step.clamp(_LEAST_STEP, _MOST_STEP)
        return rate


def anneal(
    space: Space,
    batch: Batch,
    base: NormalProposal,
    settings: Annealing,
    moves: Moves | None,
    *,
    prior_share: float = 0.0,
    last_moves: int = 0,
) -> Chains:
    r"""Annealed importance sampling from a proposal to the posterior of each datum.

    .. math:: \log w = \sum_{t=1}^{T} (\beta_t - \beta_{t-1})
        [\log p(x, u_{t-1}) - \log q_0(u_{t-1})]

    with Hamiltonian moves that leave :math:`q_0^{1 - \beta_t} p(x, u)^{\beta_t}` invariant. The
    mean of w is unbiased for p(x) as long as the step sizes are frozen beforehand.

    Args:
        space: the unconstrained latents.
        batch: N data.
        base: the proposal q0.
        settings: temperatures, moves and chains.
        moves: step sizes, of :func:`tune`; ``None`` adapts them as the chains go, which takes no
            pilot run and leaves the mean of w with a bias that vanishes with their number.
        prior_share: share of the prior in q0, a mixture of both; so many chains start there.
        last_moves: moves at the posterior after the last weight, for draws of it.

    Raises:
        NonFiniteDensity: p(x, u) is infinite.

    References:
        Neal (2001). https://arxiv.org/abs/physics/9803008
        Wu et al. (2017). https://arxiv.org/abs/1611.04273
    """
    path = _Path(space, batch, base, prior_share)
    betas = sent(settings.betas(), base.mean.device)
    v = path.start(settings.chains)
    log_weights = torch.zeros(v.shape[:2], dtype=torch.float64, device=v.device)
    adapted = _Adapted(v, settings.acceptance)
    for t in range(settings.temperatures):
        log_weights += (betas[t + 1] - betas[t]) * path.difference(v, checked=False)
        if t + 1 < settings.temperatures:
            step = adapted.step if moves is None else moves.steps[t]
            v, accepted = _move(path, v, betas[t + 1], step, settings.leapfrog)
            if moves is None:
                adapted.update(accepted)
    last = adapted.step if moves is None else moves.steps[-1:].squeeze(0)
    for _ in range(last_moves if settings.temperatures > 1 else 0):
        v, _ = _move(path, v, betas[-1], last, settings.leapfrog)
    plain = _Path(space, batch, base)
    strata = torch.arange(settings.chains) < path.from_prior(settings.chains)
    return Chains(log_weights, base.place(v), plain.difference(v), strata if strata.any() else None)


def anneal_reverse(
    space: Space, batch: Batch, base: NormalProposal, settings: Annealing, moves: Moves, u: Tensor
) -> Tensor:
    r"""The same path walked back from an exact draw of the posterior.

    :math:`E[1 / w] = 1 / p(x)`, so :math:`-\log \frac{1}{C} \sum_c 1 / w_c` is an upper bound of
    log p(x) in expectation. Exact draws are to be had on data simulated from the model.

    Args:
        space: the unconstrained latents.
        batch: N simulated data.
        base: the proposal.
        settings: as in the forward run.
        moves: the forward run's frozen step sizes.
        u: latents that the data were simulated from, ``(N, D)``.

    Returns:
        Log weights of shape ``(chains, N)``, float64.

    References:
        Grosse et al. (2015). https://arxiv.org/abs/1511.02543
    """
    path = _Path(space, batch, base)
    betas = sent(settings.betas(), base.mean.device)
    v = base.whiten(u)
    v = v.expand(settings.chains, *v.shape).contiguous()
    log_weights = torch.zeros(v.shape[:2], dtype=torch.float64, device=v.device)
    for t in reversed(range(settings.temperatures)):
        log_weights += (betas[t + 1] - betas[t]) * path.difference(v, checked=t == 0)
        if t:
            v, _ = _move(path, v, betas[t], moves.steps[t - 1], settings.leapfrog)
    return log_weights


def _move(
    path: _Path, v: Tensor, beta: Tensor, step: Tensor, leapfrog: int
) -> tuple[Tensor, Tensor]:
    """One Hamiltonian move of every chain; returns positions and acceptance probabilities."""
    step = step.reshape(1, -1, 1)
    momentum = torch.randn_like(v)
    before, gradient = path.density(v, beta)
    energy = before - 0.5 * momentum.double().square().sum(-1)
    position, after = v, before
    for _ in range(leapfrog):
        momentum = momentum + 0.5 * step * gradient
        position = position + step * momentum
        after, gradient = path.density(position, beta)
        momentum = momentum + 0.5 * step * gradient
    proposed = after - 0.5 * momentum.double().square().sum(-1)
    ratio = (proposed - energy).nan_to_num(nan=-math.inf, posinf=math.inf)
    ratio = ratio.masked_fill(after == math.inf, -math.inf)  # an overflow, no density
    accept = torch.rand_like(ratio).log() < ratio
    moved = torch.where(accept[..., None], position, v)
    return moved, ratio.clamp_max(0).exp().to(v.dtype)
