"""Commands about new data: encode, score, reconstruct."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from ..common.settings import EncodingSettings, EvaluationSettings, ReconstructionSettings
from .base import Command, Flat, Place, RunFolder

__all__ = ["Encode", "Reconstruct", "Score"]

_SHOWN = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class _NewData(Command):
    """Base of the commands that read new data."""

    folder: RunFolder
    """Run folder."""
    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """New data, a file or a name as for `fit --data`: all rows in their order, prepared as in
    training (the same binarization)."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """File to write: .npz, .parquet or .csv."""
    place: Flat[Place] = dataclasses.field(default_factory=Place)

    def given(self) -> dict[str, Any]:
        """Return the arguments that all of them have."""
        named = {"folder": self.folder, "data": self.data, "out": self.out}
        return {**named, **vars(self.place)}

    def tell(self, found: Any, new: Any) -> None:
        """Print what was found, of what, and where it is."""
        print(f"{found}\n{'data':<8} {new.about()['data']}, {len(new.data)} rows\n{self.out}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encode(_NewData):
    """Encode new data: means, scales and draws of the latents under the encoder q(z|x)."""

    settings: Flat[EncodingSettings] = dataclasses.field(default_factory=EncodingSettings)

    def run(self) -> None:
        """Run the command."""
        from ..runs.new_data import encode_run

        self.tell(*encode_run(settings=self.settings, **self.given()))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reconstruct(_NewData):
    """Reconstruct new data: the mean of x given its latents, averaged over q(z|x)."""

    settings: Flat[ReconstructionSettings] = dataclasses.field(
        default_factory=ReconstructionSettings
    )

    def run(self) -> None:
        """Run the command."""
        from ..runs.new_data import reconstruct_run

        self.tell(*reconstruct_run(settings=self.settings, **self.given()))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score(_NewData):
    """Estimate log p(x) of new data row by row, with errors and verdicts, sorted by surprise."""

    settings: Flat[EvaluationSettings] = dataclasses.field(default_factory=EvaluationSettings)

    def run(self) -> None:
        """Run the command."""
        from ..runs.new_data import score_run, surprises

        evidence, new = score_run(settings=self.settings, **self.given())
        print(f"{evidence}\n\nmost surprising rows")
        table = surprises(evidence, new.columns())
        names = ("row", "log_px", "standard_error", "verdict")
        for row, log_px, error, verdict in list(zip(*map(table.get, names), strict=True))[:_SHOWN]:
            print(f"{row:>9}  {log_px:.3f} ± {error:.3f} nats, {verdict}")
        print(self.out)
