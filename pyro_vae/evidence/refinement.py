"""Proposals fitted to each datum: refined normals, and Gauss-Newton Laplace approximations."""

from __future__ import annotations

import torch
from torch import Tensor

from ..compiled import Recorded
from ..programs.pair import Values
from ..programs.traces import Batch
from .diagnostics import log_mean_exp
from .proposals import MixtureProposal, NormalProposal
from .space import Space

__all__ = ["fitted_from", "laplace", "modes", "moments_of_guide", "moments_of_prior", "refine"]

_LEAST_SCALE = 1e-4
_LEAST_CURVATURE = 1e-2


@torch.no_grad()
def moments_of_guide(space: Space, batch: Batch, *, samples: int = 100) -> NormalProposal:
    """Return the diagonal normal with the guide's means and variances, from draws."""
    return _moments(space, space.pair.propose(batch, samples)[0])


@torch.no_grad()
def moments_of_prior(space: Space, batch: Batch, *, samples: int = 1000) -> NormalProposal:
    """Return the diagonal normal with the prior's means and variances, from draws."""
    return _moments(space, space.pair.propose_prior(batch, samples)[0])


def _moments(space: Space, values: Values) -> NormalProposal:
    u = space.vector(values)
    finite = u.isfinite()  # rounding can put a value on the edge of its support
    count = finite.sum(0).clamp_min(1)
    mean = u.where(finite, 0.0).sum(0) / count
    variance = (u - mean).where(finite, 0.0).square().sum(0) / (count - 1).clamp_min(1)
    scale = variance.sqrt().clamp_min(_LEAST_SCALE)
    if space.idle is not None:
        mean, scale = mean.where(~space.idle, 0.0), scale.where(~space.idle, 1.0)
    return NormalProposal(space, mean, torch.diag_embed(scale))


def refine(
    space: Space,
    batch: Batch,
    start: NormalProposal,
    *,
    steps: int = 200,
    particles: int = 5,
    learning_rate: float = 0.05,
    unit: Tensor | float = 1.0,
) -> NormalProposal:
    r"""Maximize the ELBO of each datum over a diagonal normal of its own.

    .. math:: L[q] = E_{q}[\log p(x, u) - \log q(u)], \qquad q = N(m_n, \mathrm{diag}(s_n^2))

    by reparameterized gradients and Adam, for all data at once. The draws used here are not used
    again: an estimate from the proposal takes fresh ones.

    Args:
        space: the unconstrained latents.
        batch: N data.
        start: where to begin, such as :func:`moments_of_guide`.
        steps: gradient steps.
        particles: draws for each step.
        learning_rate: Adam's, falling to zero along a cosine.
        unit: length that a mean moves by, in steps of the learning rate.

    References:
        Kim et al. (2018), Semi-amortized variational autoencoders. https://arxiv.org/abs/1802.02550
    """
    place = torch.zeros_like(start.mean).requires_grad_()
    space.check_slopes(batch, start.mean)
    log_scale = start.tril.diagonal(dim1=-2, dim2=-1).log().detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([place, log_scale], lr=learning_rate)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    def slopes(*given: Tensor) -> tuple[Tensor, ...]:
        """Of minus the ELBO, at a place, a scale's logarithm and noise."""
        with torch.enable_grad():
            at, log_width = (t.detach().requires_grad_() for t in given[:2])
            u = start.mean + unit * at + log_width.exp() * given[2]
            elbo = space.log_joint(batch, u).mean(0) + log_width.sum(-1)
            return torch.autograd.grad(-elbo.sum(), (at, log_width))

    gradients = Recorded(slopes)
    for _ in range(steps):
        noise = torch.randn(particles, *place.shape, dtype=place.dtype, device=place.device)
        found = gradients(place, log_scale, noise)
        # One datum's bad draw must not end the others' refinement.
        place.grad, log_scale.grad = (g.nan_to_num(0.0, 0.0, 0.0) for g in found)
        optimizer.step()
        scheduler.step()
    scale = log_scale.detach().exp().clamp_min(_LEAST_SCALE)
    mean = (start.mean + unit * place).detach()
    return NormalProposal(space, mean, torch.diag_embed(scale))


def fitted_from(space: Space, batch: Batch, start: NormalProposal) -> NormalProposal:
    """Refine a normal; one from the prior, which may be far, by steps in units of its scale."""
    wide = start.tril.diagonal(dim1=-2, dim2=-1)
    return refine(space, batch, start, unit=wide if space.pair.blind else 1.0)


@torch.no_grad()
def modes(batch: Batch, centre: NormalProposal, starts: int, *, draws: int = 64) -> MixtureProposal:
    r"""Mixture of normals at the modes that are found from several starts, for each datum.

    From each of ``starts`` draws of the prior a normal is refined, as by :func:`refine`, and given
    the Gauss-Newton precision, as by :func:`laplace`; with ``centre`` they make a mixture. Their
    shares are, by nine tenths, the masses that each finds alone, divided among those that found
    the same one; a tenth is shared evenly.

    .. math:: \hat p_j = \frac{1}{K} \sum_k \frac{p(x, u_k)}{q_j(u_k)}, \qquad u_k \sim q_j

    Args:
        batch: N data.
        centre: a normal fitted to each datum.
        starts: number of starts.
        draws: draws K that decide the shares.
    """
    space, n = centre.space, len(centre.mean)
    prior = moments_of_prior(space, batch)
    values, _ = space.pair.propose_prior(batch, starts)
    u = space.vector(values)
    usable = u.isfinite() if space.idle is None else u.isfinite() & ~space.idle
    u = u.where(usable, prior.mean)
    index = torch.arange(n, device=u.device).repeat(starts)
    copies = space.pair.copies(batch, index)
    many = space.select(index)
    scale = prior.tril.diagonal(dim1=-2, dim2=-1)[index]
    begin = NormalProposal(many, u.flatten(0, 1), torch.diag_embed(0.3 * scale))
    found = laplace(many, copies, refine(many, copies, begin, unit=scale)).widened()
    parts = [
        centre,
        *(found.select(rows) for rows in torch.arange(starts * n, device=u.device).split(n)),
    ]
    masses = []
    for part in parts:
        drawn, log_q = part.draw(draws)
        log_weights = (space.pair.log_joint(batch, drawn) - log_q).nan_to_num(-torch.inf)
        masses.append(log_mean_exp(log_weights))
    mass = torch.stack(masses).nan_to_num(neginf=-1e300)
    shares = (mass - _number_alike(parts).log()).softmax(0)
    shares = 0.9 * shares + 0.1 / len(parts)
    return MixtureProposal(tuple(parts), shares.log())


def laplace(space: Space, batch: Batch, centre: NormalProposal) -> NormalProposal:
    r"""Normal with the Gauss-Newton precision of each datum's posterior, at a given centre.

    .. math:: N(m, H^{-1}), \qquad H = J^T F J - \nabla^2 \log p(u) \quad \text{at } u = m

    :math:`J^T F J` is the Fisher information of the observed sites seen from u (for a Bernoulli
    decoder :math:`J^T \mathrm{diag}(p (1 - p)) J`), the Hessian of
    :math:`KL(p(\cdot \mid m) \,\|\, p(\cdot \mid u))` at m, through torch's closed forms; where
    torch has none, the Hessian of the log density is taken. Directions whose curvature is less than
    a hundredth of the centre's keep the centre's scale.

    The centre is the mean of the refined normal rather than the posterior's mode, which is what
    Laplace's method takes: posteriors of decoders are skewed, and a normal at the mode misses mass
    that one at the mean covers.

    Args:
        space: the unconstrained latents.
        batch: N data.
        centre: diagonal normal whose mean is the centre, such as that of :func:`refine`.

    References:
        MacKay (2003), chapter 27. https://www.inference.org.uk/mackay/itila
    """
    scale = centre.tril.diagonal(dim1=-2, dim2=-1).double()
    relative = scale[:, :, None] * _precision(space, batch, centre.mean) * scale[:, None, :]
    tril = (scale[:, :, None] * _factor(relative)).to(centre.mean.dtype)
    return NormalProposal(space, centre.mean, tril)


def _number_alike(parts: list[NormalProposal]) -> Tensor:
    """How many of the normals lie where each does, itself included, ``(J, N)``."""
    alike = []
    for part in parts:
        steps = [part.whiten(other.mean).square().mean(-1) for other in parts]
        alike.append((-0.5 * torch.stack(steps).double()).exp().sum(0))
    return torch.stack(alike)


def _precision(space: Space, batch: Batch, u: Tensor) -> Tensor:
    """Gauss-Newton precision at ``u``, shape ``(N, D, D)``, float64, symmetric."""
    with torch.enable_grad():
        v = u.clone().requires_grad_()
        curvature = space.divergence(batch, v)
        (slope,) = torch.autograd.grad(curvature.sum(), v, create_graph=True)
        rows = []
        for d in range(space.size):
            (row,) = torch.autograd.grad(slope[:, d].sum(), v, retain_graph=True)
            rows.append(row)
    hessian = torch.stack(rows, 1).double().nan_to_num(0.0, 0.0, 0.0)
    return (hessian + hessian.mT) / 2


def _factor(precision: Tensor) -> Tensor:
    """Cholesky factor of the inverse; curvatures that vanish are replaced by one."""
    values, vectors = torch.linalg.eigh(precision)
    values = torch.where(values > _LEAST_CURVATURE, values, torch.ones_like(values))
    covariance = vectors / values[:, None, :] @ vectors.mT
    tril: Tensor = torch.linalg.cholesky((covariance + covariance.mT) / 2)
    return tril
