"""What a trained model does with its latents: gaps of inference, active units, rate, collapse."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import kl_divergence

from .common.checks import check_data, module_device
from .common.errors import UnreliableEvidence
from .common.seeding import seeded
from .data.sets import Data
from .evidence.annealing import Annealing
from .evidence.importance import log_evidence
from .evidence.result import Evidence
from .programs.mode import evaluation_mode
from .programs.pair import Batch, Program, Values

__all__ = [
    "ActiveUnits",
    "Gaps",
    "Rate",
    "active_units",
    "inference_gaps",
    "kl_per_dimension",
    "rate",
]

_BLOCK = 64
_ACTIVE = 0.01


@dataclass(frozen=True, eq=False)
class Gaps:
    r"""Where the ELBO loses against log p(x), datum by datum, in nats, shape ``(N,)``.

    Attributes:
        inference: :math:`\log \hat p(x) - L[q]`, all of the gap.
        approximation: :math:`\log \hat p(x) - L[q^*]`, what the best diagonal normal still loses.
        amortization: :math:`L[q^*] - L[q]`, what the guide loses against it.
        evidence: the estimate of log p(x), biased low, so that the first two are too.
    """

    inference: Tensor
    approximation: Tensor
    amortization: Tensor
    evidence: Evidence

    def __str__(self) -> str:
        rows = []
        for name in ("inference", "approximation", "amortization"):
            values = getattr(self, name)
            error = values.std().item() / math.sqrt(len(values))
            rows.append(f"{name + ' gap':<18} {values.mean():.3f} ± {error:.3f} nats")
        return "\n".join(rows)


def inference_gaps(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    x: Tensor | Data | tuple[Tensor, ...],
    *,
    samples: int = 1000,
    seed: int = 0,
    annealing: Annealing | None = None,
) -> Gaps:
    r"""Split the gap between ELBO and log p(x) into approximation and amortization.

    :math:`q^*` is a diagonal normal of the unconstrained latents optimized for each datum, started
    at the guide's moments.

    Args:
        model: Pyro program.
        guide: Pyro program.
        x: data, as for ``log_evidence``.
        samples: draws for each datum and estimate.
        seed: seed of the draws.
        annealing: settings of the ladder's last rung.

    References:
        Cremer et al. (2018). https://arxiv.org/abs/1801.03558
    """
    results = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreliableEvidence)  # of the first two: gaps tell more
        for method in ("guide", "refined"):
            results[method] = log_evidence(
                model, guide, x, samples=samples, seed=seed, method=method
            ).elbo
    evidence = log_evidence(
        model, guide, x, samples=samples, seed=seed, method="auto", annealing=annealing
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
        variance: :math:`Var_x(E_q[z_d | x])` by site, each of shape ``(D,)``.
    """

    variance: dict[str, Tensor]

    @property
    def number(self) -> int:
        """Dimensions whose variance is above 0.01 (a rule for priors of unit scale)."""
        return sum(int((v > _ACTIVE).sum()) for v in self.variance.values())

    @property
    def total(self) -> int:
        """Number of latent dimensions."""
        return sum(v.numel() for v in self.variance.values())

    def __str__(self) -> str:
        return f"{self.number} of {self.total} latent dimensions active (Var E[z_d|x] > {_ACTIVE})"


def active_units(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    x: Tensor | Data | tuple[Tensor, ...],
    *,
    samples: int = 100,
    seed: int = 0,
) -> ActiveUnits:
    """Count the latent dimensions that tell data apart.

    The posterior means are means of ``samples`` draws; their noise adds at most the posterior
    variance over ``samples`` to each variance, and that is taken off again.

    Args:
        model: Pyro program.
        guide: Pyro program.
        x: data of shape ``(N, *event_shape)``, or the programs' arguments.
        samples: draws for each datum.
        seed: seed of the draws.

    References:
        Burda et al. (2016). https://arxiv.org/abs/1509.00519
    """
    means: dict[str, list[Tensor]] = {}
    noise: dict[str, list[Tensor]] = {}
    with evaluation_mode(model, guide):
        program, batches = _prepare(model, guide, x)
        for number, batch in enumerate(batches):
            with seeded("analysis", seed, number):
                values, _ = program.propose(batch, samples)
            for name, value in values.items():
                flat = (
                    value.movedim(1 + program.plate_dims + program.data_dim, 1).double().flatten(2)
                )
                means.setdefault(name, []).append(flat.mean(0))
                noise.setdefault(name, []).append(flat.var(0) / samples)
    variance = {
        name: (torch.cat(parts).var(0) - torch.cat(noise[name]).mean(0)).clamp_min(0).cpu()
        for name, parts in means.items()
    }
    return ActiveUnits(variance)


def kl_per_dimension(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    x: Tensor | Data | tuple[Tensor, ...],
    *,
    seed: int = 0,
) -> dict[str, Tensor]:
    r"""Mean over the data of :math:`KL(q(z_d | x) \,\|\, p(z_d))`, in nats, in closed form.

    A dimension near zero is not used, whatever the scale of its prior. For sites below others in a
    hierarchy the mean is over one draw of the latents above.

    Args:
        model: Pyro program.
        guide: Pyro program.
        x: data of shape ``(N, *event_shape)``, or the programs' arguments.
        seed: seed of the draws.

    Returns:
        KL by latent site, shape ``(D,)``, float64. Sites are left out whose dimensions are not
        independent in guide and prior (a mixture, a flow), or for which torch has no closed form.
    """
    sums: dict[str, Tensor] = {}
    count = 0
    with evaluation_mode(model, guide):
        program, batches = _prepare(model, guide, x)
        for number, batch in enumerate(batches):
            with seeded("analysis", seed, number):
                drawn = poutine.trace(guide).get_trace(*batch)
                replayed = poutine.trace(poutine.replay(model, drawn)).get_trace(*batch)
            q: Any = drawn.nodes
            p: Any = replayed.nodes
            count += len(batch[0])
            for name in program.latents:
                kl = _site_kl(q[name]["fn"], p[name]["fn"]) if name in p else None
                if kl is not None:
                    axis = kl.dim() - q[name]["fn"].event_dim + program.data_dim
                    total = kl.double().movedim(axis, 0).flatten(1).sum(0).cpu()
                    sums[name] = sums.get(name, torch.zeros_like(total)) + total
    return {name: total / count for name, total in sums.items()}


def _site_kl(q: Any, p: Any) -> Tensor | None:
    """KL value by value of two distributions of independent values."""
    if q.event_dim != p.event_dim or (q.event_dim and not hasattr(q, "base_dist")):
        return None
    try:
        kl: Tensor = kl_divergence(*((f.base_dist if f.event_dim else f) for f in (q, p)))
    except (NotImplementedError, AttributeError):
        return None
    return kl


@dataclass(frozen=True)
class Rate:
    r"""The KL term of the ELBO and its two parts, mean over the data, in nats.

    :math:`E_x KL(q(z|x) \,\|\, p(z)) = I(x; z) + KL(q(z) \,\|\, p(z))`

    Attributes:
        rate: the KL term; with ``error``, its standard error.
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


def rate(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    x: Tensor | Data | tuple[Tensor, ...],
    *,
    seed: int = 0,
) -> Rate:
    r"""Decompose the rate into mutual information and KL of the aggregate posterior.

    With one draw :math:`z_n \sim q(z | x_n)` per datum and
    :math:`q(z) = \frac{1}{N} \sum_m q(z | x_m)`: mutual information
    :math:`\frac{1}{N} \sum_n [\log q(z_n | x_n) - \log q(z_n)]`, at most log N.

    Args:
        model: Pyro program.
        guide: Pyro program.
        x: N data; every pair costs one density of the guide.
        seed: seed of the draws.

    References:
        Hoffman and Johnson (2016). http://approximateinference.org/accepted/HoffmanJohnson2016.pdf
    """
    conditional, prior, draws = [], [], []
    with evaluation_mode(model, guide):
        program, batches = _prepare(model, guide, x)
        for number, batch in enumerate(batches):
            with seeded("analysis", seed, number):
                values, log_q = program.propose(batch, 1)
            draws.append(values)
            conditional.append(log_q[0])
            prior.append(program.log_prior(batch, values)[0])
        log_q, log_p = torch.cat(conditional), torch.cat(prior)
        aggregate = torch.cat(
            [_log_aggregate(program, batches, values, len(log_q)) for values in draws]
        )
    difference = log_q - log_p
    return Rate(
        rate=difference.mean().item(),
        error=difference.std().item() / math.sqrt(len(log_q)),
        mutual_information=(log_q - aggregate).mean().item(),
        marginal=(aggregate - log_p).mean().item(),
        cap=math.log(len(log_q)),
    )


def _log_aggregate(program: Program, batches: list[Batch], values: Values, n: int) -> Tensor:
    """Log q(z) of each datum's draw under the guide's average over all data."""
    axis = 1 + program.plate_dims + program.data_dim
    terms = []
    for batch in batches:
        # Each datum's draw becomes a sample, the same for every datum of the batch.
        spread = {}
        for name, value in values.items():
            drawn = value.transpose(0, axis)
            shape = (*drawn.shape[:axis], len(batch[0]), *drawn.shape[axis + 1 :])
            spread[name] = drawn.expand(shape)
        terms.append(program.log_guide(batch, spread))
    return torch.cat(terms, 1).logsumexp(1) - math.log(n)


def _prepare(
    model: Callable[..., Any], guide: Callable[..., Any], x: Tensor | Data | tuple[Tensor, ...]
) -> tuple[Program, list[Batch]]:
    arguments = x if isinstance(x, tuple) else (x.x if isinstance(x, Data) else x,)
    for argument in arguments:
        check_data(argument)
    device = module_device(model, guide) or arguments[0].device
    parts = zip(*(argument.split(_BLOCK) for argument in arguments), strict=True)
    batches: list[Batch] = [tuple(part.to(device) for part in batch) for batch in parts]
    return Program.inspect(model, guide, batches[0]), batches
