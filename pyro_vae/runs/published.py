"""Published tables of log p(x), trained and evaluated here: what was reported, what we get."""

from __future__ import annotations

import os
import platform
import shlex
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..common.errors import UnreliableEvidence
from ..common.files import write_json, write_text
from ..common.locks import writes_to
from ..common.registry import lookup
from ..common.settings import CertificateSettings
from ..common.tables import align
from ..config import Config
from ..data import Data
from ..evidence import Evidence, log_evidence
from ..evidence.diagnostics import error_of_mean
from .certificate import certify_run, stored_certificate
from .folder import Run, load_run
from .inputs import load_data
from .publications import PUBLISHED, Published
from .run import train_run

__all__ = ["reproduce"]


@dataclass(frozen=True)
class _Effort:
    """How much of the test data is evaluated, and how."""

    by_guide: int | None
    by_auto: int
    certificate: CertificateSettings
    samples: int = 5000


_FULL = _Effort(by_guide=None, by_auto=1000, certificate=CertificateSettings(number=100))
_SHORT = _Effort(by_guide=2000, by_auto=100, certificate=CertificateSettings(number=20))
_HEAD = (
    "model",
    "published",
    "log p(x), guide",
    "± MC",
    "k̂ too high",
    "auto",
    "guide − auto",
    "doubtful",
    "certified gap",
    "training",
)


@writes_to("out")
def reproduce(
    table: str,
    out: str | Path,
    *,
    rows: Sequence[str] = (),
    short: bool = False,
    epochs: int | None = None,
    data: str | None = None,
    root: str | Path | None = None,
    device: str = "auto",
    say: Callable[[str], None] = print,
    progress: bool | None = None,
) -> str:
    """Train and evaluate the models of a published table; what is done already is not repeated.

    Each is evaluated by the literature's protocol (the guide, K = 5,000), by ``auto`` with as many
    draws on some of the data, where the difference of both is paired, and certified on data
    simulated from it: what a bound from above leaves between itself and the estimate. All is kept
    in a folder for each model; ``out`` gets ``table.md``, ``table.json``.

    Args:
        table: a name of ``PUBLISHED``.
        out: folder; one that was interrupted is gone on with.
        rows: names of some of its models, if not all.
        short: few epochs and fewer data, minutes to an hour for each model.
        epochs: another number of epochs.
        data: another data set, such as ``"fashion-mnist"``, for which nothing was published there.
        root: folder of downloaded data.
        device: where to compute.
        say: prints a line of progress.
        progress: show progress bars; by default if the output is a terminal.

    Returns:
        The table as text.

    Raises:
        ValueError: an unknown table or model.
    """
    published, out = lookup("table", table, PUBLISHED), Path(out)
    wanted = {name: lookup("model", name, published.rows) for name in rows or published.rows}
    config = replace(published.config, data=data or published.config.data)
    if short or epochs is not None:
        length = epochs or published.short
        warmup = min(config.kl_warmup, length // 4)
        patience = None if short else config.patience
        config = replace(
            config, epochs=length, kl_warmup=warmup, schedule="one-cycle", patience=patience
        )
    effort = _SHORT if short else _FULL
    lines: list[tuple[str, ...]] = [_HEAD]
    records: dict[str, dict[str, Any]] = {}
    test = load_data(config, root=root).test
    for name, row in wanted.items():
        own = replace(config, **row.settings)
        if own.prior not in ("mixture", "vamp", "exemplar"):
            own = replace(own, prior_components=None)
        folder = out / name.replace(" ", "-").replace(",", "")
        say(f"{name}: training, {own.epochs} epochs")
        train_run(own, folder, root=root, device=device, resume=True, progress=progress)
        run = load_run(folder, device=device)
        record = _record(run, test, effort, say=partial(_say, say, name), root=root, device=device)
        reported = row.published if data is None else float("nan")
        record = {"published": reported, "epochs": len(run.history), **record}
        records[name] = record
        lines.append(_cells(name, record))
        write_json(out / "table.json", _about(table, published, config, effort) | {"rows": records})
    text = "\n".join([*(line.rstrip() for line in align(lines)), "", *_notes(config, effort)])
    command = f"pyro-vae reproduce {table}{' --short' * short} --out {shlex.quote(str(out))}"
    if data is not None:
        command += f" --data {shlex.quote(data)}"
    if epochs is not None:
        command += f" --epochs {epochs}"
    if rows:
        command += f" --rows {shlex.join(rows)}"
    write_text(out / "table.md", _markdown(table, published, lines, config, effort, command))
    return text


def _say(say: Callable[[str], None], name: str, words: str) -> None:
    say(f"{name}: {words}")


def _record(
    run: Run, test: Data, effort: _Effort, *, say: Callable[[str], None], **place: Any
) -> dict[str, Any]:
    """Evaluate a model in three ways, and return its row."""
    few = test.head(effort.by_auto)
    many = test if effort.by_guide is None else test.head(effort.by_guide)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreliableEvidence)  # the table says it
        say(f"log p(x) of {len(many)} test data by the guide")
        by_guide = _stored(run, "guide", many, samples=effort.samples, method="guide")
        say(f"log p(x) of {len(few)} of them by auto")
        by_auto = _stored(run, "auto", few, samples=effort.samples, method="auto")
        same = _stored(run, "guide-same", few, samples=effort.samples, method="guide")
        say(f"bounds from both sides on {effort.certificate.number} simulated data")
        certified = _certified(run, effort.certificate, **place)
    mean = by_guide.mean()
    paired = same.log_px - by_auto.corrected()
    return {
        "log_px": mean.value,
        "uncorrected": by_guide.log_px.mean().item(),
        "mc_error": mean.mc_error,
        "sampling_error": mean.sampling_error,
        "k_too_high": by_guide.doubts()["heavy tail"].double().mean().item(),
        "auto": by_auto.mean().value,
        "auto_mc_error": by_auto.mean().mc_error,
        "auto_doubtful": by_auto.share_unreliable(),
        "guide_minus_auto": paired.mean().item(),
        "difference_error": error_of_mean(paired),
        "certified_gap": certified["gap"],
        "certified_gap_error": certified["gap_error"],
        "training_seconds": run.history.epochs[-1].seconds,
        "evaluation_seconds": by_guide.seconds + by_auto.seconds,
    }


def _stored(run: Run, name: str, data: Data, **options: Any) -> Evidence:
    """Estimate log p(x), or read what was estimated before of the same data in the same way."""
    path, model = run.folder / f"{name}.json", run.sha256
    if path.exists():
        found = Evidence.load(path)
        stored = (found.model_sha256, found.data_sha256, found.samples)
        if stored == (model, data.sha256, options["samples"]):
            return found
    evidence = log_evidence(run.vae.model, run.vae.guide, data, seed=0, **options)
    evidence = replace(evidence, data=data.description, data_sha256=data.sha256, model_sha256=model)
    evidence.save(path)
    return evidence


def _certified(run: Run, wanted: CertificateSettings, **place: Any) -> Mapping[str, Any]:
    """Certify a run, or read what was certified before."""
    found = stored_certificate(run, wanted)
    return certify_run(run.folder, wanted, **place).summary() if found is None else found


def _cells(name: str, record: Mapping[str, Any]) -> tuple[str, ...]:
    published = record["published"]
    return (
        name,
        f"{published:.2f}" if published == published else "—",
        f"{record['log_px']:.2f}",
        f"{record['mc_error']:.2f}",
        f"{record['k_too_high']:.0%}",
        f"{record['auto']:.2f} ± {record['auto_mc_error']:.3f}",
        f"{record['guide_minus_auto']:+.2f} ± {record['difference_error']:.2f}",
        f"{record['auto_doubtful']:.0%}",
        f"{record['certified_gap']:.3f} ± {record['certified_gap_error']:.3f}",
        f"{record['training_seconds'] / 60:.1f} min",
    )


def _notes(config: Config, effort: _Effort) -> list[str]:
    many = "all" if effort.by_guide is None else f"the first {effort.by_guide:,}"
    return [
        f"nats; guide: K = {effort.samples:,}, {many} test data, corrected for the bias of order "
        f"1/K. auto: the first {effort.by_auto:,}, K = {effort.samples:,}; guide − auto: on the "
        "same data, the guide's uncorrected value as in the literature; paired, with its standard "
        "error.",
        "certified gap: upper minus lower bound of log p(x) on "
        f"{effort.certificate.number} data simulated from the model.",
        f"{config.epochs} epochs at most, {config.schedule} schedule; {_machine()}.",
    ]


def _machine() -> str:
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        known = dict(line.split(":", 1) for line in lines if ":" in line)
        found = {key.strip(): value.strip() for key, value in known.items()}
        family, number = found.get("cpu family", "?"), found.get("model", "?")
        model = f"{found['model name']} (family {family}, model {number})"
    except (OSError, KeyError, ValueError):
        pass
    return f"{os.cpu_count()} cores, {model}, torch {torch.__version__}"


def _about(table: str, published: Published, config: Config, effort: _Effort) -> dict[str, Any]:
    return {
        "table": table,
        "source": published.source,
        "differs": published.differs,
        "config": config.to_dict(),
        "effort": asdict(effort),
        "machine": _machine(),
        "date": time.strftime("%Y-%m-%d"),
    }


def _markdown(
    table: str,
    published: Published,
    lines: Sequence[Sequence[str]],
    config: Config,
    effort: _Effort,
    command: str,
) -> str:
    head, *body = [f"| {' | '.join(line)} |" for line in lines]
    rule = "|".join(["---"] * len(lines[0]))
    differs = f" Not as published: {published.differs}" if published.differs else ""
    return "\n".join(
        [
            f"## {table}",
            "",
            f"Published: {published.source}.{differs}",
            "",
            head,
            f"|{rule}|",
            *body,
            "",
            *(f"{note}\n" for note in _notes(config, effort)),
            f"{time.strftime('%Y-%m-%d')}, `{command}`.",
            "",
        ]
    )
