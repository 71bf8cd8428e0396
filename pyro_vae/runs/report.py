"""The report of one or several runs: what the page needs to know of their folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..data.sets import Data
from ..evidence import Evidence, compare
from ..report import Subject, write_report
from ..report.packing import Weights
from ..report.words import advice, facts, lead, sentence
from ..training.checkpoint import CONFIG, holds_run
from .certificate import statements
from .figures import encode
from .folder import Run, load_run
from .inputs import data_of, identity
from .outputs import check_out
from .results import EVIDENCE, stored_evidence

__all__ = ["report_runs"]


def report_runs(
    folders: Sequence[str | Path],
    out: str | Path,
    *,
    number: int = 500,
    weights: Weights = "float32",
    root: str | Path | None = None,
) -> Path:
    """Write one HTML file about runs on the same data; it opens from disk, see ``report``.

    Runs that were evaluated on the same data are compared. Those that were not evaluated are in the
    page, too: it says so.

    Args:
        folders: run folders; of any other folder, such as a study's, the runs in it.
        out: the HTML file.
        number: how many of the first test data the page holds.
        weights: precision of the networks' weights in it.
        root: folder of downloaded data.

    Returns:
        Path of the file.

    Raises:
        CheckpointError: a folder that holds no run.
        ValueError: no runs; fewer than one datum; runs on different data, or evaluated on other
            data than the present; ``out`` is the data, or a file of a run.
    """
    if not folders:
        raise ValueError("a report needs at least one run; got none.")
    if number < 1:
        raise ValueError(f"a report needs at least one datum; got number={number}.")
    runs = [load_run(path) for folder in folders for path in _runs_in(Path(folder))]
    check_out(out, *(run.config.data for run in runs))
    names = _names([run.folder for run in runs])
    tests = [data_of(run, root=root).test for run in runs]
    for run, test in zip(runs, tests, strict=True):
        if test.sha256 != tests[0].sha256:
            raise ValueError(
                f"the test data of {run.folder} ({test.description}) are not those of "
                f"{runs[0].folder} ({tests[0].description}); make a report of each."
            )
    evidences = [_evidence(run, tests[0]) for run in runs]
    found = {name: one for name, one in zip(names, evidences, strict=True) if one is not None}
    comparison = compare(found) if len(found) > 1 else None
    data = tests[0].head(number).in_memory()
    subjects = [
        _subject(run, name, data, one)
        for run, name, one in zip(runs, names, evidences, strict=True)
    ]
    if comparison is not None:  # best first, then those that were not evaluated
        order = [row.name for row in comparison.rows]
        rank = {name: place for place, name in enumerate(order)}
        subjects.sort(key=lambda subject: rank.get(subject.name, len(rank)))
    return write_report(
        out,
        subjects,
        data,
        comparison=comparison,
        title=_title(names, tests[0]),
        lead=lead(subjects, comparison),
        weights=weights,
    )


def _subject(run: Run, name: str, data: Data, evidence: Evidence | None) -> Subject:
    vae: Any = run.vae
    codes, labels = encode(run, data)

    def decode(z: Tensor) -> Tensor:
        return vae.decode(z)

    return Subject(
        name=name,
        model=vae,
        sentence=sentence(run.config, vae, epochs=len(run.history), data=data.name),
        codes=codes[0],
        reconstructions=vae.decode(*codes, *labels),
        # A program that can interpolate can decode any point of its one latent space.
        decode=decode if hasattr(vae, "interpolate") else None,
        evidence=evidence,
        history=run.history.columns(),
        facts=[*([] if evidence is None else facts(evidence)), *statements(run)],
        advice=advice(evidence, run=str(run.folder), finished=run.finished),
    )


def _evidence(run: Run, test: Data) -> Evidence | None:
    """Read the estimate of a run, if there is one.

    Raises:
        ValueError: it is of other data, which have changed since.
    """
    evidence = stored_evidence(run.folder)
    if evidence is None:
        return None
    sha256, description = identity(run.config, test.head(len(evidence)))
    if evidence.data_sha256 != sha256:
        raise ValueError(
            f"{run.folder / EVIDENCE} is of other data than {description} (sha256 "
            f"{evidence.data_sha256[:12]} against {sha256[:12]}); run "
            f"`pyro-vae evaluate {run.folder}` again."
        )
    return evidence


def _runs_in(folder: Path) -> list[Path]:
    """The folder, or the runs in one that is none itself."""
    if holds_run(folder):
        return [folder]
    return sorted(path.parent for path in folder.rglob(CONFIG)) or [folder]


def _names(folders: Sequence[Path]) -> list[str]:
    """Names of the folders, as paths from the one that holds them all."""
    paths = [folder.resolve() for folder in folders]
    if len(paths) == 1:
        return [paths[0].name]
    common = os.path.commonpath([path.parent for path in paths])
    return [path.relative_to(common).as_posix() for path in paths]


def _title(names: Sequence[str], data: Data) -> str:
    several = len(names) > 1
    return (
        f"{len(names)} models of {data.name}" if several else f"{names[0]}, a model of {data.name}"
    )
