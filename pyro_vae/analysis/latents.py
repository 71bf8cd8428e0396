"""What a trained model does with its latents: inference gaps, active units, rate, collapse."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import kl_divergence

from ..common.errors import UnreliableEvidence
from ..common.seeding import seeded
from ..common.verbs import verb
from ..data import AnyData
from ..evidence.annealing import Annealing
from ..evidence.diagnostics import error_of_mean
from ..evidence.importance import log_evidence
from ..evidence.result import Evidence
from ..programs.evaluation import BLOCK, Block, Evaluation, evaluating
from ..programs.pair import Values
from ..programs.traces import Fn, run_both

__all__ = [
    "ActiveUnits",
    "Gaps",
    "Rate",
    "active_units",
    "inference_gaps",
    "kl_per_dimension",
    "rate",
]

_ACTIVE = 0.01


@dataclass(frozen=True, eq=False)
class Gaps:
    r"""How the ELBO falls short of log p(x), datum by datum, in nats, shape ``(N,)``.

    Attributes:
        inference: :math:`\log \hat p(x) - L[q]`, the whole gap.
        approximation: :math:`\log \hat p(x) - L[q^*]`, the gap of the best diagonal normal.
        amortization: :math:`L[q^*] - L[q]`, the guide's loss against that normal.
        evidence: the estimate of log p(x); where it is doubtful, the first two are too.
    """

    inference: Tensor
    approximation: Tensor
    amortization: Tensor
    evidence: Evidence

    def __str__(self) -> str:
        rows = []
        for name in ("inference", "approximation", "amortization"):
            values = getattr(self, name)
            error = error_of_mean(values)
            rows.append(f"{name + ' gap':<18} {values.mean():.3f} ± {error:.3f} nats")
        return "\n".join(rows)


@verb
def inference_gaps(
    model: Fn,
    guide: Fn,
    x: AnyData,
    *,
    samples: int = 1000,
    mask: Tensor | None = None,
    seed: int = 0,
    annealing: Annealing | None = None,
) -> Gaps:
    """Split the gap between ELBO and log p(x) into approximation and amortization.

    :math:`q^*` is a diagonal normal over the unconstrained latents, optimized for each datum from
    the guide's moments.

    Args:
        model: Pyro program.
        guide: Pyro program.
        x: data, as for ``log_evidence``.
        samples: draws for each datum and estimate.
        mask: True where a value is observed, as for ``log_evidence``.
        seed: seed of the draws.
        annealing: settings of the ladder's last rung.

    References:
        Cremer et al. (2018). https://arxiv.org/abs/1801.03558
    """
    results = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreliableEvidence)  # of these two: the gaps say it better
        for method in ("guide", "refined"):
            results[method] = log_evidence(
                model, guide, x, samples=samples, mask=mask, seed=seed, method=method
            ).elbo
    evidence = log_evidence(
        model,
        guide,
        x,
        samples=samples,
        mask=mask,
        seed=seed,
        method="auto",
        annealing=annealing,
    )
    return Gaps(
        inference=evidence.log_px - results["guide"],
        approximation=evidence.log_px - results["refined"],
        amortization=results["refined"] - results["guide"],
        evidence=evidence,
    )


@dataclass(frozen=True, eq=False)
class ActiveUnits:
    """Variance over the data of the posterior mean of each latent dimension.

    Attributes:
        variance: Var_x(E[z_d | x]) by site, each of shape ``(D,)``.
    """

    variance: dict[str, Tensor]

    @property
    def number(self) -> int:
        """Number of dimensions with a variance above 0.01, a rule for priors of unit scale."""
        return sum(int((v > _ACTIVE).sum()) for v in self.variance.values())

    @property
    def total(self) -> int:
        """Number of latent dimensions."""
        return sum(v.numel() for v in self.variance.values())

    def __str__(self) -> str:
        return f"{self.number} of {self.total} latent dimensions active (Var E[z_d|x] > {_ACTIVE})"


@verb
def active_units(
    model: Fn,
    guide: Fn,
    x: AnyData,
    *,
    samples: int = 100,
    mask: Tensor | None = None,
    seed: int = 0,
) -> ActiveUnits:
    """Count the latent dimensions that tell data apart.

    Each posterior mean is that of ``samples`` draws. Their noise adds about the posterior variance
    over ``samples`` to each variance, and its estimate is subtracted. Latents of integers, such as
    a class, are left out. Other arguments are those of :func:`inference_gaps`.

    Raises:
        ValueError: a single datum, whose means have no variance.

    References:
        Burda et al. (2016). https://arxiv.org/abs/1509.00519
    """
    with evaluating(
        model, guide, x, mask=mask, checked=False, narrow=True, each="active_units"
    ) as evaluation:
        pair = evaluation.pair
        if len(evaluation) < 2:
            raise ValueError("active units tell data apart, so they need at least two; got one.")

        def work(block: Block) -> dict[str, tuple[Tensor, Tensor]]:
            with seeded("analysis", seed, block.first // BLOCK):
                values, _ = pair.propose(block.batch, samples)
            moments = {}
            for name, value in values.items():
                if not value.is_floating_point():
                    continue  # a class index has no mean
                rows = value.movedim(pair.data_axis, 1).double()[:, : block.count]
                flat = rows.reshape(*rows.shape[:2], -1)  # of scalars, too
                moments[name] = flat.mean(0).cpu(), (flat.var(0) / samples).cpu()
            return moments

        parts = evaluation.map(work)
    variance = {}
    for name in parts[0]:
        means, noise = (torch.cat([part[name][i] for part in parts]) for i in range(2))
        variance[name] = (means.var(0) - noise.mean(0)).clamp_min(0)
    return ActiveUnits(variance)


@verb
def kl_per_dimension(
    model: Fn,
    guide: Fn,
    x: AnyData,
    *,
    mask: Tensor | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    r"""Mean over the data of :math:`KL(q(z_d | x) \,\|\, p(z_d))`, in nats, in closed form.

    A dimension near zero is not used, whatever the scale of its prior. For sites below others in a
    hierarchy the mean is over one draw of the latents above. Arguments are those of
    :func:`inference_gaps`.

    Returns:
        KL by latent site, shape ``(D,)``, float64. Sites are left out whose dimensions are not
        independent in guide and prior (a mixture, a flow), or for which torch has no closed form.
    """
    with evaluating(
        model, guide, x, mask=mask, checked=False, narrow=True, each="kl_per_dimension"
    ) as evaluation:
        pair = evaluation.pair

        def work(block: Block) -> dict[str, Tensor]:
            with seeded("analysis", seed, block.first // BLOCK):
                p_trace, q_trace = run_both(pair.model, pair.guide, block.batch)
            p: Any = p_trace.nodes
            q: Any = q_trace.nodes
            sums = {}
            for name in (name for name in pair.latents if name in p):
                kl = _site_kl(q[name]["fn"], p[name]["fn"])
                if kl is not None:
                    axis = kl.dim() - q[name]["fn"].event_dim + pair.data_dim
                    rows = kl.double().movedim(axis, 0).reshape(kl.shape[axis], -1)
                    sums[name] = rows[: block.count].sum(0).cpu()
            return sums

        parts = evaluation.map(work)
        totals = {name: sum(part[name] for part in parts) for name in parts[0]}
        return {name: torch.as_tensor(total) / len(evaluation) for name, total in totals.items()}


def _site_kl(q: Any, p: Any) -> Tensor | None:
    """KL value by value of two distributions of independent values, if it has a closed form."""
    if q.event_dim != p.event_dim or (q.event_dim and not hasattr(q, "base_dist")):
        return None
    try:
        kl: Tensor = kl_divergence(*((f.base_dist if f.event_dim else f) for f in (q, p)))
    except (NotImplementedError, AttributeError):
        return None
    return kl


@dataclass(frozen=True)
class Rate:
    r"""The KL term of the ELBO and its two parts, means over the data, in nats.

    :math:`E_x KL(q(z|x) \,\|\, p(z)) = I(x; z) + KL(q(z) \,\|\, p(z))`

    Attributes:
        rate: the KL term.
        error: standard error of ``rate``.
        mutual_information: I(x; z) under the aggregate posterior of these data.
        marginal: KL of the aggregate posterior from the prior.
        cap: log N, which the estimate of the mutual information cannot exceed.
    """

    rate: float
    error: float
    mutual_information: float
    marginal: float
    cap: float

    @property
    def verdict(self) -> str:
        """What the numbers say, in words."""
        if self.rate < 0.1:
            return "collapsed: the guide is the prior, and z says nothing of x"
        if self.mutual_information > self.cap - 0.5:
            return f"informative; I(x; z) is at its cap log N = {self.cap:.2f}, so really larger"
        if self.marginal > self.mutual_information:
            return "the codes do not fill the prior: samples from it decode where no data are"
        return "informative"

    def __str__(self) -> str:
        return (
            f"rate {self.rate:.3f} ± {self.error:.3f} nats = mutual information "
            f"{self.mutual_information:.3f} (cap {self.cap:.2f}) + marginal KL "
            f"{self.marginal:.3f}: {self.verdict}"
        )


@verb
def rate(
    model: Fn,
    guide: Fn,
    x: AnyData,
    *,
    mask: Tensor | None = None,
    seed: int = 0,
) -> Rate:
    r"""Decompose the rate into mutual information and KL of the aggregate posterior.

    With one draw :math:`z_n \sim q(z | x_n)` per datum and
    :math:`q(z) = \frac{1}{N} \sum_m q(z | x_m)`, the mutual information is
    :math:`\frac{1}{N} \sum_n [\log q(z_n | x_n) - \log q(z_n)]`, at most log N. Each of the
    :math:`N^2` pairs costs one density of the guide. Arguments are those of :func:`inference_gaps`.

    References:
        Hoffman and Johnson (2016). http://approximateinference.org/accepted/HoffmanJohnson2016.pdf
    """
    with evaluating(
        model, guide, x, mask=mask, checked=False, narrow=True, each="rate"
    ) as evaluation:
        pair = evaluation.pair

        def draw(block: Block) -> tuple[Values, Tensor, Tensor]:
            with seeded("analysis", seed, block.first // BLOCK):
                values, log_q = pair.propose(block.batch, 1)
            log_p = pair.log_prior(block.batch, values)
            pair.check_finite(block.batch, values, log_q, log_p)
            return values, log_q[0, : block.count], log_p[0, : block.count]

        parts = evaluation.map(draw)
        draws, of_guide, of_prior = map(list, zip(*parts, strict=True))
        log_q, log_p = torch.cat(of_guide), torch.cat(of_prior)
        aggregate = _log_aggregate(evaluation, draws, len(log_q))
    difference = log_q - log_p
    return Rate(
        rate=difference.mean().item(),
        error=error_of_mean(difference),
        mutual_information=(log_q - aggregate).mean().item(),
        marginal=(aggregate - log_p).mean().item(),
        cap=math.log(len(log_q)),
    )


def _log_aggregate(evaluation: Evaluation, draws: list[Values], n: int) -> Tensor:
    """Log q(z) at each datum's draw, q(z) the guide's average over all data."""
    pair, axis = evaluation.pair, evaluation.pair.data_axis

    def work(block: Block) -> Tensor:
        columns = []
        for values in draws:
            # Each datum's draw becomes a sample, the same for every datum of the block.
            spread = {}
            for name, value in values.items():
                drawn = value.transpose(0, axis)
                shape = (*drawn.shape[:axis], len(block.batch[0]), *drawn.shape[axis + 1 :])
                spread[name] = drawn.to(block.batch[0].device).expand(shape)
            columns.append(pair.log_guide(block.batch, spread))
        return torch.cat(columns)[:n, : block.count]

    return torch.cat(evaluation.map(work), 1).logsumexp(1) - math.log(n)
