"""Commands about trained runs: evaluate, certify, check, compare, sample, plot, export."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from ..common.settings import CertificateSettings, CheckSettings, EvaluationSettings
from .base import Command, Flat, Place, RunFolder

__all__ = ["Certify", "Check", "Compare", "Evaluate", "Export", "Plot", "Sample"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate(Command):
    """Estimate log p(x) of a run's test data, with errors and diagnostics."""

    folder: RunFolder
    """Run folder."""
    settings: Flat[EvaluationSettings] = dataclasses.field(default_factory=EvaluationSettings)
    place: Flat[Place] = dataclasses.field(default_factory=Place)

    def run(self) -> None:
        """Run the command."""
        from ..common.files import read_json
        from ..runs.results import EVIDENCE, METRICS
        from ..runs.run import evaluate_run

        evidence = evaluate_run(self.folder, self.settings, **vars(self.place))
        print(evidence)
        metrics = read_json(self.folder / METRICS)
        print(f"{'likelihood':<22} {metrics['likelihood']}")
        if "accuracy" in metrics:
            print(f"{'accuracy of labels':<22} {metrics['accuracy']:.1%}")
        print(f"{'time':<22} {evidence.seconds:.1f} s; saved to {self.folder / EVIDENCE}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Certify(Command):
    """Bound log p(x) from both sides on data simulated from a run: what its estimates achieve."""

    folder: RunFolder
    """Run folder."""
    settings: Flat[CertificateSettings] = dataclasses.field(default_factory=CertificateSettings)
    place: Flat[Place] = dataclasses.field(default_factory=Place)

    def run(self) -> None:
        """Run the command."""
        from ..runs.certificate import certify_run
        from ..runs.results import CERTIFICATE

        print(certify_run(self.folder, self.settings, **vars(self.place)))
        print(f"saved to {self.folder / CERTIFICATE}, which the run's report shows.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check(Command):
    """Check a run: does its model make data like the test data, and is its encoder calibrated?"""

    folder: RunFolder
    """Run folder."""
    settings: Flat[CheckSettings] = dataclasses.field(default_factory=CheckSettings)
    place: Flat[Place] = dataclasses.field(default_factory=Place)

    def run(self) -> None:
        """Run the command."""
        from ..runs.check import check_figures, check_run
        from ..runs.results import CHECK

        fitted, ranked = check_run(self.folder, self.settings, **vars(self.place))
        print(f"Does the model make data like these?\n\n{fitted}\n")
        print(f"Does the encoder find the latents of simulated data?\n\n{ranked}\n")
        for path in (self.folder / CHECK, *check_figures(self.folder)):
            print(path)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compare(Command):
    """Compare evaluated runs on the same data: paired differences with standard errors."""

    folders: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")
    ]
    """Run folders."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Also write the comparison as JSON."""

    def run(self) -> None:
        """Run the command."""
        from ..common.files import write_json
        from ..runs.outputs import check_out
        from ..runs.run import compare_runs

        if self.json is not None:
            check_out(self.json)
        comparison = compare_runs(self.folders)
        print(comparison)
        if self.json is not None:
            write_json(self.json, comparison.to_dict())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample(Command):
    """Draw new data from a run's p(x), as an array and as a figure."""

    folder: RunFolder
    """Run folder."""
    number: int = 100
    """Number of draws."""
    seed: int = 0
    """Seed of the draws."""
    device: str = Place.device
    """auto, cpu, cuda or cuda:N."""

    def run(self) -> None:
        """Run the command."""
        from ..runs.figures import sample_run

        for path in sample_run(self.folder, number=self.number, seed=self.seed, device=self.device):
            print(path)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plot(Command):
    """Draw every figure of a run."""

    folder: RunFolder
    """Run folder."""
    root: Annotated[Path | None, tyro.conf.arg(name="data-root", metavar="DIR")] = None
    """Folder of downloaded data sets [$PYRO_VAE_DATA]."""

    def run(self) -> None:
        """Run the command."""
        from ..runs.figures import draw_run

        for path in draw_run(self.folder, root=self.root):
            print(path)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export(Command):
    """Write a run's weights (safetensors), config and model card for another machine."""

    folder: RunFolder
    """Run folder."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder to write [RUN/export]; the package reads it as a run, without the data."""

    def run(self) -> None:
        """Run the command."""
        from ..runs.export import export_run

        for path in sorted(export_run(self.folder, self.out).iterdir()):
            print(path)
