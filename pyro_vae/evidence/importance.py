"""log p(x) per datum by importance sampling, from the guide or a fitted proposal."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any, get_args

import torch
from torch import Tensor

from ..common.errors import UnreliableEvidence, warn
from ..common.options import Method, Precision
from ..common.progress import announce
from ..common.registry import check_choice
from ..common.verbs import verb
from ..data import AnyData
from ..programs.evaluation import BLOCK, Block, Evaluation, evaluating
from ..programs.pair import Values
from ..programs.traces import Fn
from .annealing import Annealing
from .compiled import CompiledPair
from .diagnostics import error_of_mean
from .doubts import DOUBTS
from .ladder import Ladder
from .result import COLUMNS, Evidence, Search
from .search import search as look_for_missed
from .sizes import check_sizes, chunk_for, data_for
from .space import made_fit
from .weighing import seconds_for

__all__ = ["estimate", "log_evidence", "warn_if_unreliable"]

_LONG = 10**8  # draws of all data together, of which it is said beforehand how long they take


@verb
def log_evidence(
    model: Fn,
    guide: Fn,
    x: AnyData,
    *,
    samples: int = 1000,
    method: Method = "guide",
    defensive: float | None = None,
    annealing: Annealing | None = None,
    target_error: float | None = None,
    datum_error: float | None = None,
    max_samples: int = 100_000,
    mask: Tensor | None = None,
    chunk: int | None = None,
    compiled: bool = False,
    precision: Precision = "float32",
    search: bool = True,
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
    - ``laplace``: a normal at its mean, with the inverse Gauss-Newton precision, a little wider;
    - ``modes``: a mixture of such normals, fitted from twelve draws of the prior;
    - ``annealed``: annealed importance sampling with Hamiltonian moves, started at ``laplace``.

    :math:`\hat p` is unbiased, or, where draws of the prior are mixed in, a ratio whose bias is of
    order 1/K; its logarithm has a bias of that order, which :meth:`Evidence.mean` takes out. The
    result is no bound: it errs to either side, by what its error says, unless it is marked as
    doubtful (:meth:`Evidence.verdicts`). Log weights are added up in float64 over the sites of the
    programs' traces, so any Pyro pair will do: any site names, any number of latents, inner plates.
    Scales left in the programs (a subsampled plate, ``poutine.scale``) do not count; masks do.
    Discrete latents of the guide are summed out of both programs by other methods than ``guide``
    (:func:`~pyro_vae.programs.discrete.without_discrete`), where that can be done.

    Where latents belong to all the data (a mean, weights, a mixture's centres: sites outside the
    plate over the data), p(x) is that of the whole data set, :math:`p(x_1, \dots, x_N)`, and the
    result has this one value (``Evidence.data_set``): two of them give a Bayes factor
    (:func:`compare`). All latents, those of single data included, are drawn together.

    The result depends on ``seed``, ``samples`` and the order of the data, not on ``chunk`` (up to
    rounding). Memory is bounded: by ``chunk`` for the programs, and by 64 MiB for the weights up
    to eight million samples. The caller's random state is left as it was. Modules that own
    the programs are evaluated in ``eval()`` mode and on the device where their parameters are; data
    and mask may lie anywhere, and the result is on the CPU.

    Under ``torchrun`` the processes share the data, and all return the whole result: the same
    numbers as of one process.

    Args:
        model: Pyro program; every site inside one outermost plate over the data.
        guide: Pyro program with the model's latent sites.
        x: data of shape ``(N, *event_shape)``; a tuple of tensors if the programs take several
            arguments, each with the data along dimension 0, beside others that are the same for
            all data (numbers, ``None``), or a dictionary of them by name; or ``Data``, a dataset or
            a loader (one that does not shuffle), which are read block by block.
        samples: importance samples K for each datum (on the last rung: ``annealing.chains``).
        method: rung of the ladder, or ``"auto"``.
        defensive: share of the draws to take from the prior, mixed into the proposal; bounds the
            weights by :math:`\max_z p(x \mid z)` over that share. By default 0.1 where a proposal
            is fitted, whose tails can be lighter than the posterior's, and 0 with the guide.
        annealing: settings of the last rung.
        target_error: Monte-Carlo error of the mean over the data to reach, in nats; a pilot then
            decides how many samples each datum takes (between 64 and ``max_samples``), and the
            estimate uses fresh ones.
        datum_error: Monte-Carlo error of each datum to reach, likewise.
        max_samples: most samples of a datum under a target.
        mask: True where a value of x is observed, shape of x: log p of the observed values.
        chunk: samples of 64 data that go through the model at once; bounds the memory. By
            default 16 on a CPU, and up to 1024 on a GPU, fewer where their tensors are large. (The
            guide is asked for 64 samples of 64 data at once, 1024 on a GPU. Proposals are fitted to
            64 data at once, or to thousands on a GPU, so that the draws of a datum, which depend on
            the data beside it, are other ones there.)
        compiled: compile the guide's draws and log p(x, z) first (some seconds); the estimates stay
            the same up to rounding.
        precision: of matrix products in a compiled evaluation. ``"bfloat16"`` rounds their factors
            and results to 8 bits, and what that does to log p(x) is measured on the first 64 data,
            against float32 with the same draws, and stands in the result.
        search: look for posterior mass that the proposal misses, on 16 data simulated from the
            model and on 12 to 64 of the given ones (:func:`~pyro_vae.evidence.search.search`); a
            second or two, or up to a tenth of the work. If some is found, ``"auto"`` begins at
            ``"modes"`` and looks again. What is found then, or with another method, makes every
            datum doubtful.
        seed: seed of the draws.
        progress: show a progress bar; by default if the output is a terminal.

    Returns:
        Evidence with fields of shape ``(N,)``, in nats.

    Raises:
        ValueError: no samples or no data; NaN in the data; data outside the likelihood's support;
            sites that do not match between model and guide, or lie outside the data plate, or give
            more than one log density per datum; a log density of NaN or +infinity; a fitted method
            with a discrete latent that cannot be summed out; ``defensive`` where discrete latents
            are given with the data.

    Warns:
        UnreliableEvidence: estimates are to doubt; says why, for how many data, and what to do.

    References:
        Burda et al. (2016). https://arxiv.org/abs/1509.00519
    """
    for name, target in (("target_error", target_error), ("datum_error", datum_error)):
        if target is not None and not target > 0:
            raise ValueError(f"{name} must be positive; got {target}.")
    check_choice("precision", precision, get_args(Precision))
    if precision != "float32" and not compiled:
        raise ValueError("precision is of a compiled evaluation; add compiled=True (--compiled).")
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
    narrow = method != "guide" or bool(defensive)  # other draws than the guide's reach the rest
    with evaluating(model, guide, x, mask=mask, narrow=narrow) as evaluation:
        evidence, _ = estimate(
            evaluation,
            ladder,
            chunk=chunk,
            compiled=compiled,
            precision=precision,
            search=search,
            seed=seed,
            progress=progress,
        )
    warn_if_unreliable(evidence)
    _warn_if_short(evidence, target_error, datum_error)
    return evidence


def estimate(
    evaluation: Evaluation,
    ladder: Ladder,
    *,
    chunk: int | None = None,
    compiled: bool = False,
    precision: Precision = "float32",
    search: bool = True,
    seed: int = 0,
    progress: bool | None = None,
) -> tuple[Evidence, Values]:
    """Weigh draws of every datum; see :func:`log_evidence` for the arguments.

    Returns:
        The evidence, and draws of the posterior, as many as ``ladder.keep`` asks for: by site, of
        shape ``(keep, N, ...)``, on the CPU.
    """
    start = time.perf_counter()
    n, method = len(evaluation), ladder.method
    evaluation.check_method(method)
    if method != "guide" and not ladder.keep:
        evaluation = made_fit(evaluation, exact=method == "auto")
    pair = evaluation.pair
    most = ladder.max_samples if ladder.adaptive else ladder.samples
    rows = data_for(evaluation, most, fitted=method != "guide")
    mean_error = None if ladder.mean_error is None else ladder.mean_error * math.sqrt(n)
    if chunk is None:
        chunk = chunk_for(evaluation, rows)
    elif rows > BLOCK:  # it is of 64 data
        chunk = max(1, chunk * BLOCK // rows)
    ladder = replace(ladder, chunk=chunk, mean_error=mean_error)
    if ladder.samples * n > _LONG:
        block = next(evaluation.blocks(rows)).batch
        seconds = seconds_for(pair, block, ladder.samples, chunk) * n / len(block[0])
        announce("log p(x)", seconds / evaluation.processes.world, show=progress)
    check_sizes(evaluation, rows, most, keep=ladder.keep)
    missed = Search()
    if search:
        few = replace(ladder, keep=0)
        missed = look_for_missed(evaluation, few, seed)
        if missed.found and method == "auto":  # nothing below would do, nor one start of chains
            wide = replace(ladder.annealing, start="prior")
            ladder = replace(ladder, lowest="modes", annealing=wide)
            missed = look_for_missed(evaluation, replace(ladder, keep=0), seed)
    # what a guide draws besides is no latent of the model
    latents = evaluation.pair.supports(next(evaluation.blocks()).batch) if ladder.keep else {}
    reference = None
    if compiled and evaluation.data_set:
        raise ValueError(
            "compiled=True is for programs whose every site lies in one plate over the data; "
            "these have latents of all the data: leave it out."
        )
    if compiled:
        pair = CompiledPair.of(evaluation.pair, precision=precision)
    if precision != "float32":
        reference = CompiledPair.of(evaluation.pair)

    def work(block: Block) -> tuple[dict[str, Tensor], Values]:
        key = (seed, block.first)
        columns = {name: torch.empty(block.count, dtype=torch.float64) for name in _MEASURED}
        draws: Values = {}
        for weighed in ladder.weigh(pair, block.batch, key):
            keep = weighed.fitted.index < block.count  # the rest is padding
            index = weighed.fitted.index[keep]
            found = dict(weighed.columns)
            if reference is not None and block.first < BLOCK:
                exact = ladder.again(weighed, reference, key).columns
                found["added"] = found["log_px"] - exact["log_px"]
            for name, values in found.items():
                columns[name][index] = values[keep]
            drawn = weighed.draws or {}
            for name in (name for name in latents if name in drawn):
                part = drawn[name].movedim(pair.data_axis, 1).cpu()[:, keep]
                if name not in draws:
                    draws[name] = part.new_empty(len(part), block.count, *part.shape[2:])
                draws[name][:, index] = part
            block.done(int(keep.sum()))
        return columns, draws

    parts = evaluation.map(work, rows=rows, desc="log p(x)", progress=progress)
    columns: dict[str, Any] = {
        name: torch.cat([part[name] for part, _ in parts]) for name in _MEASURED
    }
    draws = {name: torch.cat([part[name] for _, part in parts], 1) for name in parts[0][1]}
    added = columns.pop("added")[: BLOCK if reference is not None else 0]
    rounding = added.std().item() if len(added) > 1 else 0.0
    columns["standard_error"] = columns["standard_error"].square().add(rounding**2).sqrt()
    evidence = Evidence(
        **columns,
        samples=ladder.samples,
        method=method,
        seed=seed,
        **evaluation.identity(),
        seconds=time.perf_counter() - start,
        precision=precision,
        precision_bias=added.mean().item() if len(added) else 0.0,
        precision_bias_error=_error_of_mean(added),
        precision_noise=rounding,
        search=missed,
    )
    return evidence, draws


_MEASURED = (*COLUMNS, "added")


def _error_of_mean(values: Tensor) -> float:
    if len(values) == 0:
        return 0.0
    return error_of_mean(values) if len(values) > 1 else math.inf


def _warn_if_short(
    evidence: Evidence, target_error: float | None, datum_error: float | None
) -> None:
    """Say what was reached where a target was not."""
    most = int(evidence.draws.max())
    reached = evidence.mean().mc_error
    if target_error is not None and reached > target_error:
        warn(
            f"the Monte-Carlo error of the mean is {reached:.4f} nats, above the target of "
            f"{target_error} (up to {most} samples for a datum). Raise max_samples, or use "
            "method='auto'.",
            UnreliableEvidence,
        )
    if datum_error is not None and (evidence.standard_error > datum_error).any():
        missed = evidence.standard_error > datum_error
        warn(
            f"the Monte-Carlo error of {int(missed.sum())} data is above the target of "
            f"{datum_error} nats, at most {evidence.standard_error.max():.4f} (up to {most} "
            "samples). Raise max_samples, or use method='auto'.",
            UnreliableEvidence,
        )


_CURES = {
    "heavy tail": "Use method='auto' (--method auto), which fits a proposal to each datum.",
    "one weight": "Use method='auto' (--method auto), which fits a proposal to each datum.",
    "few draws": "Take more samples.",
    "rounding": "Keep such latents away from the edge of their support, or write the program in "
    "float64.",
    "missed": "Use method='modes' (--method modes), which starts from several places, or anneal "
    "from the prior: method='annealed', annealing=Annealing(start='prior', temperatures=300).",
}
_CURES_OF_FITTED = {
    "heavy tail": "Take more samples, or more temperatures and chains: annealing=Annealing(...).",
    "one weight": "Take more samples, or more temperatures and chains: annealing=Annealing(...).",
}


def warn_if_unreliable(evidence: Evidence) -> None:
    """Say which estimates are to doubt, why, and what to do."""
    empty = (evidence.log_px == -math.inf).nonzero().flatten()
    if len(empty):
        warn(
            f"every importance weight of {len(empty)} data ({_shown(empty)}) is zero, so log p(x) "
            "is estimated as -infinity: the support of the proposal misses that of the posterior. "
            "Widen the guide, or mix the prior in: defensive=0.1.",
            UnreliableEvidence,
        )
    known = evidence.log_px == -math.inf
    for reason, which in evidence.doubts().items():
        if reason == "missed":
            continue
        bad = (which & ~known).nonzero().flatten()
        known = known | which
        if len(bad):
            cures = _CURES if evidence.method == "guide" else _CURES | _CURES_OF_FITTED
            warn(
                f"{len(bad)} of {len(evidence)} data ({_shown(bad)}): {DOUBTS[reason]}. "
                f"{cures[reason]}",
                UnreliableEvidence,
            )
    if evidence.search.found:
        warn(
            f"a search found posterior mass that the proposal misses, at {evidence.search}: "
            f"log p(x) lacks some {evidence.search.shortfall:.2f} nats on average, which its error "
            f"does not show. {_CURES['missed']}",
            UnreliableEvidence,
        )
    if evidence.precision_noise > evidence.standard_error.median() / 2:
        warn(
            f"{evidence.precision} products add noise of {evidence.precision_noise:.3f} nats to "
            "each log p(x), which is more than the Monte-Carlo error (it is part of the standard "
            "errors). Use precision='float32'.",
            UnreliableEvidence,
        )


def _shown(index: Tensor) -> str:
    """Some positions, as text."""
    return ", ".join(map(str, index[:5].tolist())) + (", ..." if len(index) > 5 else "")
