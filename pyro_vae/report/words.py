"""What the page says of a run: the model in one sentence, what is doubtful, what to do next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..config import Config
from ..evidence import Comparison, Evidence
from ..evidence.doubts import DOUBTS
from .content import Subject

__all__ = ["advice", "facts", "lead", "sentence"]

Fact = tuple[str, str]
Advice = tuple[str, str]
_CLEAR = 0.975  # probability that the best model is the better one, from which it is called best
_PRIORS = {
    "normal": "a standard normal prior",
    "diagonal": "a normal prior of learned scales",
    "student-t": "a Student-t prior",
    "laplace": "a Laplace prior",
    "mixture": "a mixture of {} normals as prior",
    "vamp": "a VampPrior of {} pseudo-inputs",
    "exemplar": "an exemplar prior of {} training data",
    "flow": "a flow prior",
    "hierarchical": "a prior of two layers",
}
_NETWORKS = {"mlp": "fully connected", "conv": "convolutional"}
_OBJECTIVES = {"elbo": "the ELBO", "iwae": "IWAE", "renyi": "Rényi's bound"}
_PROGRAMS = {
    "vae": "variational autoencoder",
    "bottom-up": "hierarchical autoencoder (bottom-up)",
    "top-down": "hierarchical autoencoder (top-down)",
    "conditional": "autoencoder conditional on labels",
    "counts": "autoencoder of counts given their exposure",
    "semi-supervised": "semi-supervised autoencoder",
}


def sentence(config: Config, model: Any, *, epochs: int, data: str) -> str:
    """Say in one sentence what was trained on which data."""
    if config.learned_prior:
        prior = "a learned conditional prior"
    else:
        logits = getattr(getattr(model, "prior", None), "logits", None)
        components = "several" if logits is None else str(len(logits))
        prior = _PRIORS.get(config.prior, f"the prior {config.prior}").format(components)
    likelihood = getattr(getattr(model, "likelihood", None), "description", config.likelihood)
    program = _PROGRAMS.get(config.program, config.program)
    widths = " of " + "-".join(map(str, config.hidden)) if config.hidden else ""
    networks = _NETWORKS.get(config.network, config.network)
    objective = _OBJECTIVES.get(config.objective, config.objective)
    plural = "" if config.latent_dim == 1 else "s"
    return (
        f"A {program} of {config.latent_dim} latent{plural} with {prior}, the likelihood "
        f"{likelihood}, a {config.posterior} posterior and {networks} networks{widths}, trained by "
        f"{objective} for {epochs} epochs on {data}."
    )


def lead(subjects: Sequence[Subject], comparison: Comparison | None) -> str:
    """Say the result in a sentence: which model is best, or what is known of the only one."""
    if comparison is None or comparison.data_set:
        evidence = subjects[0].evidence
        if len(subjects) > 1 or evidence is None:
            return ""
        mean = evidence.mean()
        return (
            f"log p(x) of held-out data is {_minus(mean.value, 2)} nats per datum, with a "
            f"Monte-Carlo error of {mean.mc_error:.3f} and a sampling error of "
            f"{mean.sampling_error:.2f}.{_doubtful(evidence.share_unreliable())}"
        )
    best, second = comparison.rows[:2]
    verdict = _doubtful(max(best.share_unreliable, second.share_unreliable))
    difference = f"{-second.difference:.2f} ± {second.difference_error:.2f} nats"
    if second.probability_better >= _CLEAR:
        return (
            f"{best.name} predicts held-out data best: {difference} per datum above {second.name}, "
            f"the next.{verdict}"
        )
    return (
        f"{best.name} and {second.name} are not told apart by these data: {difference} per datum "
        f"between them.{verdict}"
    )


def facts(evidence: Evidence) -> list[Fact]:
    """Say what is known of log p(x), in pairs of a term and its value."""
    heavy = evidence.doubts()["heavy tail"].double().mean().item()
    bits = evidence.bits_per_dim()
    gap = (evidence.corrected() - evidence.elbo).mean().item()
    return [
        ("ELBO", f"{_minus(evidence.elbo.mean().item(), 2)} nats, {gap:.2f} below log p(x)"),
        ("bits per dimension", f"{bits.value:.4f}"),
        ("Pareto k̂", f"good for {f'{1 - heavy:.1%} of the' if heavy else 'all'} data"),
        (
            "effective sample size",
            f"median {evidence.ess.median().item():,.0f} of {evidence.samples:,}",
        ),
        ("mass missed", str(evidence.search)),
        ("method", f"{evidence.method}, K = {evidence.samples:,}, seed {evidence.seed}"),
        ("proposals", ", ".join(f"{name} {count}" for name, count in evidence.rungs().items())),
        (
            "data",
            f"{len(evidence):,}, {evidence.data or 'unnamed'}, sha256 {evidence.data_sha256[:12]}",
        ),
    ]


def advice(evidence: Evidence | None, *, run: str, finished: bool) -> list[Advice]:
    """Say what to do next, for whatever is not done or doubtful; empty where nothing is.

    Returns:
        Pairs of a sentence and a command, which may be empty.
    """
    return list(_advice(evidence, run, finished))


def _advice(evidence: Evidence | None, run: str, finished: bool) -> Iterator[Advice]:
    if not finished:
        yield "Training has not finished. Go on:", f"pyro-vae fit --out {run} --resume"
    if evidence is None:
        yield "log p(x) was not estimated. Estimate it:", f"pyro-vae evaluate {run}"
        return
    found = {name: int(which.sum()) for name, which in evidence.doubts().items() if which.any()}
    for name, count in found.items():
        yield f"{_upper(DOUBTS[name])} ({count:,} of {len(evidence):,} data).", ""
    if "missed" in found:
        yield "Look for several modes:", f"pyro-vae evaluate {run} --method modes"
    elif found and evidence.method == "guide":
        yield "Fit a proposal to each datum:", f"pyro-vae evaluate {run} --method auto"
    elif found:
        more = f"--method {evidence.method} --samples {4 * evidence.samples}"
        yield "Take more samples:", f"pyro-vae evaluate {run} {more}"


def _doubtful(share: float) -> str:
    return f" Up to {max(share, 0.01):.0%} of the estimates are doubtful." if share else ""


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]


def _minus(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".replace("-", "−")
