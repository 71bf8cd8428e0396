"""The model card of a run: what it is, how good it is, how it was made, how to load it."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from importlib import metadata
from typing import Any

import torch

from ..config import Config
from ..evidence import Evidence
from .folder import Run

__all__ = ["model_card"]

_LOAD = """```python
import pyro_vae as pv

run = pv.load_run(".")  # this folder
run.sample(10)
evidence = pv.log_evidence(run.vae.model, run.vae.guide, x, method="auto")  # x: shape (N, {shape})
```

It needs `pip install "pyro-vae[export]"`. Checksums of the files are verified; `sha256sum -c
SHA256SUMS` does the same by hand."""


def model_card(
    run: Run,
    state: Mapping[str, Any],
    evidence: Evidence | None,
    metrics: Mapping[str, Any],
    certified: Sequence[tuple[str, str]] = (),
) -> str:
    """Return a model card in Markdown, in which every text that is not ours is escaped.

    Args:
        run: the run, with the config to describe.
        state: its checkpoint.
        evidence: its log p(x), if it was evaluated.
        metrics: the content of its metrics file.
        certified: what bounds on simulated data say of it, in pairs of a term and its value.
    """
    shape = ", ".join(map(str, state["event_shape"]))
    parameters = sum(parameter.numel() for parameter in run.vae.parameters())
    about = [
        ("program", run.config.program),
        ("p(z)", "learned" if run.config.learned_prior else run.config.prior),
        ("p(x given z)", metrics.get("likelihood", run.config.likelihood)),
        ("q(z given x)", run.config.posterior),
        ("shape of a datum", f"({shape})"),
        ("parameters", f"{parameters:,}"),
    ]
    parts = [
        f"# {_plain(run.config.program)} of {_plain(run.config.data)}",
        "A deep latent-variable model, trained and evaluated by pyro_vae.",
        _table(about),
        "## How good it is",
        _evidence(evidence, certified),
        "## How it was trained",
        _table(_training(run, state)),
        "## How to load it",
        _LOAD.format(shape=shape),
        "## Versions of this export",
        _table(_versions()),
    ]
    if run.config.prior == "exemplar":
        parts.insert(3, "The weights hold training data: the exemplars of p(z).")
    return "\n\n".join(parts) + "\n"


def _evidence(evidence: Evidence | None, certified: Sequence[tuple[str, str]]) -> str:
    if evidence is None:
        missing = "log p(x) was not evaluated (`pyro-vae evaluate RUN`, then export again)."
        return "\n\n".join([missing, *([_table(certified)] if certified else [])])
    mean, bits = evidence.mean(), evidence.bits_per_dim()
    heavy = evidence.doubts()["heavy tail"].double().mean().item()
    rows = [
        ("log p(x)", f"{mean.value:.3f} nats per datum ({bits.value:.4f} bits/dim)"),
        ("Monte-Carlo error", f"{mean.mc_error:.3f} (of importance sampling)"),
        ("sampling error", f"{mean.sampling_error:.3f} (of the finite number of test data)"),
        ("ELBO", f"{evidence.elbo.mean().item():.3f}"),
        ("Pareto k̂ too high", f"{heavy:.1%} of the data"),
        ("verdict", evidence.verdict),
        ("mass missed", str(evidence.search)),
        ("data", f"{evidence.data_set or len(evidence)}, {evidence.data or 'unnamed'}"),
        ("sha256 of the data", evidence.data_sha256),
        ("method", f"{evidence.method}, K = {evidence.samples}, seed {evidence.seed}"),
    ]
    return _table([*rows, *certified])


def _training(run: Run, state: Mapping[str, Any]) -> list[tuple[str, str]]:
    history, config = run.history, run.config
    rows = [("data", config.data), ("sha256 of the data", str(state["settings"]["train_data"]))]
    if history.epochs:
        last = history.epochs[-1]
        length = f"{len(history)} of {config.epochs} epochs, {last.seconds:.0f} s"
        rows += [
            ("length", length + ("" if run.finished else ", not finished")),
            ("ELBO at the end", f"{last.train_elbo:.2f}, validation {last.valid_elbo:.2f}"),
        ]
    if history.restored_epoch is not None:
        rows.append(("parameters", f"of epoch {history.restored_epoch}, the best in validation"))
    rows.append(("objective", str(state["settings"]["objective"])))
    return rows + [
        (field.name, str(getattr(config, field.name)))
        for field in fields(Config)
        if field.name != "data" and getattr(config, field.name) != field.default
    ]


def _versions() -> list[tuple[str, str]]:
    names = ("pyro-vae", "pyro-ppl", "numpy", "safetensors")
    return [
        ("torch", str(torch.__version__)),
        *((name, metadata.version(name)) for name in names),
        ("Python", platform.python_version()),
        ("machine", platform.platform()),
    ]


def _table(rows: Iterable[tuple[str, str]]) -> str:
    lines = [f"| {name} | {_plain(value)} |" for name, value in rows]
    return "\n".join(["| | |", "|---|---|", *lines])


def _plain(text: object) -> str:
    """Escape a text so that Markdown shows it as it is, in one line."""
    printable = "".join(c if c.isprintable() else " " for c in str(text))
    return re.sub(r"([\\`*_\[\]<>|~#&!:@$]|(?<=www)\.)", r"\\\1", printable)
