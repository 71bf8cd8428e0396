"""The command that writes one HTML file about runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from .base import Command

__all__ = ["Report"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report(Command):
    """Write one HTML file about runs: it opens from disk, and computes log p(x) in the page."""

    folders: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")
    ]
    """Run folders of the same data, or a folder with runs in it, such as a study's."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("report.html")
    """The HTML file."""
    number: Annotated[int, tyro.conf.arg(metavar="N")] = 500
    """Test data in it, the first N."""
    weights: Literal["float32", "float16"] = "float32"
    """Precision of the networks' weights in it; float16 halves the file."""
    root: Annotated[Path | None, tyro.conf.arg(name="data-root", metavar="DIR")] = None
    """Folder of downloaded data sets [$PYRO_VAE_DATA]."""

    def run(self) -> None:
        """Run the command."""
        from ..runs.report import report_runs

        path = report_runs(
            self.folders, self.out, number=self.number, weights=self.weights, root=self.root
        )
        print(f"open {path}")
