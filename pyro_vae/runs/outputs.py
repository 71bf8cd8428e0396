"""Files that a user names for results: refused where they would replace what is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..training.checkpoint import CHECKPOINT, CONFIG, DAMAGED, HISTORY, PREVIOUS, holds_run
from .results import CARD, CERTIFICATE, CHECK, EVIDENCE, METRICS
from .weights import SUMS, WEIGHTS

__all__ = ["check_out"]

_OWN = {
    *(CHECKPOINT, CONFIG, DAMAGED, HISTORY, PREVIOUS),
    *(CERTIFICATE, CHECK, EVIDENCE, METRICS),
    *(CARD, SUMS, WEIGHTS),
    *("samples.csv", "samples.npy"),
}


def check_out(out: str | Path, *inputs: Any) -> None:
    """Check a file that results are to be written to, before there is work in them.

    Args:
        out: the file.
        inputs: what is read: paths; names of data sets and frames are no files.

    Raises:
        ValueError: a file that is read, or one of a run's own.
        IsADirectoryError: a folder.
    """
    out = Path(out)
    if out.is_dir():
        raise IsADirectoryError(f"cannot write {out}: it is a folder; give the name of a file.")
    for path in inputs:
        if isinstance(path, str | Path) and _is_same(out, Path(path)):
            raise ValueError(f"cannot write {out}: it is what is read; give another name.")
    if out.name in _OWN and holds_run(out.parent):
        raise ValueError(
            f"cannot write {out}: it is a file of the run in {out.parent}, which needs it; give "
            "another name."
        )


def _is_same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)
