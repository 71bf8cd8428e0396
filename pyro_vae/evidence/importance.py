"""log p(x) per datum by importance sampling, from the guide or a fitted proposal."""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import replace
from typing import get_args

import torch
from torch import Tensor

from ..common.errors import UnreliableEvidence
from ..common.options import Method, Precision
from ..common.registry import check_choice
from ..data import AnyData, fingerprint_of
from ..programs.evaluation import BLOCK, Block, evaluating
from ..programs.traces import Fn
from .annealing import Annealing
from .compiled import CompiledPair
from .diagnostics import effective_sample_size, jackknife, log_mean_exp, pareto_k, standard_error
from .ladder import Ladder, Weighed
from .result import COLUMNS, Evidence

__all__ = ["log_evidence"]

_MOST_WEIGHTS = 2**23  # log weights in memory at once: 64 MiB
_DEFAULT_ROWS = {"cpu": 1024, "cuda": 65536}


def log_evidence(
    model: Fn,
    guide: Fn,
    x: AnyData,
    *,
    samples: int = 1000,
    method: Method = "guide",
    defensive: float = 0.0,
    annealing: Annealing | None = None,
    target_error: float | None = None,
    datum_error: float | None = None,
    max_samples: int = 100_000,
    mask: Tensor | None = None,
    chunk: int | None = None,
    compiled: bool = False,
    precision: Precision = "float32",
    seed: int = 0,
    progress: bool | None = None,
) -> Evidence:
    r"""Estimate :math:`\log p(x_n)` of each datum by importance sampling.

    .. math:: \log \hat p(x_n) = \log \frac{1}{K} \sum_{k=1}^{K}
        \frac{p(x_n, z_k)}{q_n(z_k)}, \qquad z_k \sim q_n

    The proposal :math:`q_n` is a rung of a ladder, by name or, with ``method="auto"``, climbed
    datum by datum until a pilot finds k̂ and the effective sample size good enough; the estimate
    takes fresh draws:

    - ``guide``: the guide, :math:`q(z \mid x_n)`, the protocol of the literature;
    - ``refined``: a diagonal normal of the unconstrained latents that maximizes the datum's ELBO;
    - ``laplace``: a normal at its mean, with the inverse Gauss-Newton precision (times 1.1²);
    - ``annealed``: annealed importance sampling with Hamiltonian moves, started at ``laplace``.

    :math:`\hat p` is unbiased; its logarithm is biased low, a stochastic lower bound that rises to
    log p(x) with K. Log weights are added up in float64 over the sites of the programs' traces, so
    any Pyro pair will do: any site names, any number of latents, inner plates. Scales left in the
    programs (a subsampled plate, ``poutine.scale``) do not count; masks do.

    The result depends on ``seed``, ``samples`` and the order of the data, not on ``chunk`` (up to
    rounding). Memory is bounded: by ``chunk`` for the programs, and by 64 MiB for the weights up
    to eight million samples. The caller's random state is left as it was. Modules that own
    the programs are evaluated in ``eval()`` mode and on the device where their parameters are.

    Under ``torchrun`` the processes share the data, and all return the whole result: the same
    numbers as of one process.

    Args:
        model: Pyro program; every site inside one outermost plate over the data.
        guide: Pyro program with the model's latent sites.
        x: data of shape ``(N, *event_shape)``; a tuple of tensors if the programs take several
            arguments, each with the data along dimension 0; or, as for ``fit``, ``Data``, a
            dataset or a loader (one that does not shuffle), which are read block by block.
        samples: importance samples K for each datum (on the last rung: ``annealing.chains``).
        method: rung of the ladder, or ``"auto"``.
        defensive: share of the draws to take from the prior, mixed into the proposal; bounds the
            weights of discrete data by :math:`\max_z p(x \mid z)` over that share.
        annealing: settings of the last rung.
        target_error: Monte-Carlo error of the mean over the data to reach, in nats; a pilot then
            decides how many samples each datum takes (between 64 and ``max_samples``), and the
            estimate uses fresh ones.
        datum_error: Monte-Carlo error of each datum to reach, likewise.
        max_samples: most samples of a datum under a target.
        mask: True where a value of x is observed, shape of x: log p of the observed values.
        chunk: samples of 64 data that go through the model at once; bounds the memory. By
            default 16 on a CPU and 1024 on a GPU. (The guide is asked for 64 samples of 64 data at
            once, 1024 on a GPU.)
        compiled: compile the guide's draws and log p(x, z) first (some seconds); the estimates stay
            the same up to rounding.
        precision: of matrix products in a compiled evaluation. ``"bfloat16"`` rounds their factors
            and results to 8 bits, and what that does to log p(x) is measured on the first 64 data,
            against float32 with the same draws, and stands in the result.
        seed: seed of the draws.
        progress: show a progress bar; by default if the output is a terminal.

    Returns:
        Evidence with fields of shape ``(N,)``, in nats.

    Raises:
        ValueError: no samples or no data; NaN in the data; data outside the likelihood's support;
            sites that do not match between model and guide, or lie outside the data plate, or give
            more than one log density per datum; a log density of NaN or +infinity; a discrete
            latent with another method than ``"guide"``.

    Warns:
        UnreliableEvidence: the weights of some data have too heavy a tail (k̂) to trust the errors.

    References:
        Burda et al. (2016). https://arxiv.org/abs/1509.00519
    """
    for name, target in (("target_error", target_error), ("datum_error", datum_error)):
        if target is not None and not target > 0:
            raise ValueError(f"{name} must be positive; got {target}.")
    check_choice("precision", precision, get_args(Precision))
    if precision != "float32" and not compiled:
        raise ValueError("precision is of a compiled evaluation; add compiled=True (--compiled).")
    start = time.perf_counter()
    ladder = Ladder(
        method=method,
        samples=samples,
        chunk=1 if chunk is None else chunk,
        defensive=defensive,
        annealing=annealing or Annealing(),
        mean_error=target_error,
        datum_error=datum_error,
        max_samples=max_samples,
    )
    with evaluating(model, guide, x, mask=mask) as evaluation:
        pair, n = evaluation.pair, len(evaluation)
        if pair.fixed_rows and method != "guide":
            raise ValueError(
                f"method {method!r} needs programs that take any number of data; theirs is "
                f"{pair.fixed_rows}. Give the data plate size len(x)."
            )
        most = max_samples if ladder.adaptive else samples
        rows = pair.fixed_rows or min(BLOCK, max(1, _MOST_WEIGHTS // most))
        default = max(1, _DEFAULT_ROWS.get(evaluation.device.type, 1024) // rows)
        mean_error = None if target_error is None else target_error * math.sqrt(n)
        ladder = replace(ladder, chunk=chunk or default, mean_error=mean_error)
        reference = None
        if compiled:
            pair = CompiledPair.of(evaluation.pair, precision=precision)
        if precision != "float32":
            reference = CompiledPair.of(evaluation.pair)

        def work(block: Block) -> dict[str, Tensor]:
            key = (seed, block.first)
            columns = {name: torch.empty(block.count, dtype=torch.float64) for name in _MEASURED}
            for weighed in ladder.weigh(pair, block.batch, key):
                keep = weighed.fitted.index < block.count  # the rest is padding
                found = _summary(weighed)
                if reference is not None and block.first < BLOCK:
                    exact = log_mean_exp(ladder.again(weighed, reference, key))
                    found["added"] = found["log_px"] - exact
                for name, values in found.items():
                    columns[name][weighed.fitted.index[keep].cpu()] = values[keep].cpu()
                block.done(int(keep.sum()))
            return columns

        parts = evaluation.map(work, rows=rows, desc="log p(x)", progress=progress)
        columns = {name: torch.cat([part[name] for part in parts]) for name in _MEASURED}
        added = columns.pop("added")[: BLOCK if reference is not None else 0]
        evidence = Evidence(
            **columns,
            samples=samples,
            method=method,
            seed=seed,
            event_size=math.prod(next(evaluation.source.blocks(1))[0].shape[1:]),
            data_sha256=fingerprint_of(evaluation.source),
            data=evaluation.source.description,
            seconds=time.perf_counter() - start,
            precision=precision,
            precision_bias=added.mean().item() if len(added) else 0.0,
            precision_bias_error=_error_of_mean(added),
        )
    _warn_if_unreliable(evidence)
    _warn_if_short(evidence, target_error, datum_error)
    return evidence


_MEASURED = (*COLUMNS, "added")


def _summary(weighed: Weighed) -> dict[str, Tensor]:
    """Columns of a result from log weights."""
    log_weights = weighed.log_weights
    return {
        "log_px": log_mean_exp(log_weights),
        "standard_error": standard_error(log_weights),
        "ess": effective_sample_size(log_weights),
        "pareto_k": pareto_k(log_weights),
        "jackknife": jackknife(log_weights),
        "elbo": weighed.elbo,
        "draws": torch.full_like(log_weights[0], len(log_weights)),
        "rung": torch.full_like(log_weights[0], weighed.rung),
    }


def _error_of_mean(values: Tensor) -> float:
    if len(values) == 0:
        return 0.0
    return values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.inf


def _warn_if_short(
    evidence: Evidence, target_error: float | None, datum_error: float | None
) -> None:
    """Say what was reached where a target was not."""
    most = int(evidence.draws.max())
    reached = evidence.mean().mc_error
    if target_error is not None and reached > target_error:
        warnings.warn(
            f"the Monte-Carlo error of the mean is {reached:.4f} nats, above the target of "
            f"{target_error} (up to {most} samples for a datum). Raise max_samples, or use "
            "method='auto'.",
            UnreliableEvidence,
            stacklevel=3,
        )
    if datum_error is not None and (evidence.standard_error > datum_error).any():
        missed = evidence.standard_error > datum_error
        warnings.warn(
            f"the Monte-Carlo error of {int(missed.sum())} data is above the target of "
            f"{datum_error} nats, at most {evidence.standard_error.max():.4f} (up to {most} "
            "samples). Raise max_samples, or use method='auto'.",
            UnreliableEvidence,
            stacklevel=3,
        )


_ADVICE = {
    True: "Use method='auto' (--method auto), which fits a proposal to each datum.",
    False: "Take more samples, or more temperatures and chains: annealing=Annealing(...).",
}


def _warn_if_unreliable(evidence: Evidence) -> None:
    empty = (evidence.log_px == -math.inf).nonzero().flatten().tolist()
    if empty:
        warnings.warn(
            f"every importance weight of {len(empty)} data ({', '.join(map(str, empty[:5]))}) is "
            "zero, so log p(x) is estimated as -infinity: the support of the proposal misses that "
            "of the posterior. Widen the guide, or mix the prior in: defensive=0.1.",
            UnreliableEvidence,
            stacklevel=3,
        )
    bad = [n for n in evidence.unreliable().nonzero().flatten().tolist() if n not in set(empty)]
    if bad:
        shown = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
        warnings.warn(
            f"Pareto k̂ is too high for {len(bad)} of {len(evidence)} data ({shown}): their "
            "log p(x) is likely too low and its standard error too small. "
            + _ADVICE[evidence.method == "guide"],
            UnreliableEvidence,
            stacklevel=3,
        )
