"""What a run says of new data: codes, log p(x) row by row, reconstructions, as files."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..analysis import Encoding, Reconstruction, encode, reconstruct
from ..common.columns import check_columns_file, write_columns
from ..common.errors import warn
from ..common.options import takes
from ..common.settings import EncodingSettings, EvaluationSettings, ReconstructionSettings
from ..data import Data, load_rows
from ..data.classes import as_in, label_column
from ..data.exposure import with_exposure
from ..data.frames import TABLES, is_frame
from ..evidence import Evidence, log_evidence
from ..evidence.result import METHODS
from .folder import Run, load_run
from .inputs import arguments, identity
from .outputs import check_out
from .tables import columns_of

__all__ = ["NewData", "encode_run", "read_new", "reconstruct_run", "score_run", "surprises"]


@dataclass(frozen=True)
class NewData:
    """A run and new data, prepared as those that it was trained on.

    Attributes:
        run: the run.
        data: all rows, in the file's order.
        arguments: of the run's programs.
    """

    run: Run
    data: Data
    arguments: tuple[Tensor, ...]

    def about(self, **settings: Any) -> dict[str, Any]:
        """Where results come from, as plain values."""
        sha256, description = identity(self.run.config, self.data)
        likelihood: Any = self.run.vae.likelihood
        return {
            "data": description,
            "data_sha256": sha256,
            "program": self.run.config.program,
            "likelihood": getattr(likelihood, "description", type(likelihood).__name__),
            **settings,
        }

    def columns(self) -> dict[str, Any]:
        """Columns that every file begins with: the row's number, from 0, and any label.

        Labels of classes with names are these.
        """
        labels = {} if self.data.y is None else {"label": label_column(self.data)}
        return {"row": list(range(len(self.data))), **labels}


def read_new(
    folder: str | Path,
    data: str | Path,
    *,
    root: str | Path | None = None,
    device: str = "auto",
    number: int | None = None,
) -> NewData:
    """Load a run, and new data as its program wants them.

    All rows are read, in their order, and prepared like the run's own data: the same binarization,
    drawn once with the run's ``data_seed``. Labels of classes with names are numbered by the run's.

    Args:
        folder: run folder.
        data: name or path of the data; of the files and arrays that :func:`pyro_vae.load` reads.
        root: folder of downloaded data.
        device: where to compute.
        number: take the first rows only.

    Raises:
        CheckpointError: no run.
        ValueError: data of another shape than the run's, or of other columns; no labels where the
            program needs them, or a class that the run does not know.
        FileNotFoundError: no such data.
    """
    run = load_run(folder, device=device)
    config = run.config
    table = is_frame(data) or Path(data).suffix in TABLES
    if table != (config.likelihood_schema is not None):
        kinds = ("a table", "no table") if table else ("no table", "a table")
        raise ValueError(f"{data} is {kinds[0]}, and the data of the run in {folder} {kinds[1]}.")
    rows = load_rows(
        data,
        like=config.data,
        columns=columns_of(config),
        layout=config.layout,
        binarize=config.binarize,
        seed=config.data_seed,
        root=root,
    )
    if takes(config, "exposure"):
        rows = with_exposure(rows, config.exposure)
    if tuple(rows.event_shape) != run.event_shape:
        raise ValueError(
            f"{data} holds data of shape {tuple(rows.event_shape)}; the run in {folder} was "
            f"trained on data of shape {run.event_shape}. Give rows of that shape."
        )
    if takes(config, "classes") and not takes(config, "labels") and rows.y is None:
        raise ValueError(
            f"program {config.program!r} needs labels, which {data} has not; give them as y in a "
            ".npz file."
        )
    if takes(config, "classes") and rows.class_names and config.class_names is None:
        warn(
            f"the run in {folder} has no names of its classes; those of {data} are taken to be its "
            f"0, 1, ... in this order: {', '.join(rows.class_names)}."
        )
    rows = as_in(config.class_names, rows, str(data))
    rows = rows if number is None else rows.head(number)
    return NewData(run, rows, arguments(config, rows))


def encode_run(
    folder: str | Path,
    data: str | Path,
    out: str | Path,
    settings: EncodingSettings | None = None,
    *,
    root: str | Path | None = None,
    device: str = "auto",
    progress: bool | None = None,
) -> tuple[Encoding, NewData]:
    """Encode new data by a run: means, scales and draws of q(z|x), written to a file.

    Args:
        folder: run folder.
        data: name or path of the data.
        out: file to write, ``.npz``, ``.parquet`` or ``.csv``: columns ``row``, any ``label``, and
            those of :meth:`Encoding.columns`.
        settings: number of draws, seed.
        root: folder of downloaded data.
        device: where to compute.
        progress: show a progress bar; by default if the output is a terminal.

    Raises:
        ValueError: another suffix; a file that is read, or a run's own; what :func:`read_new` and
            :func:`~pyro_vae.analysis.encode` refuse.
        OSError: the file cannot be written.
    """
    check_out(out, data)
    check_columns_file(out)
    settings = settings or EncodingSettings()
    new = read_new(folder, data, root=root, device=device)
    model, guide = new.run.vae.model, new.run.vae.guide
    found = encode(model, guide, new.arguments, **asdict(settings), progress=progress)
    write_columns(out, {**new.columns(), **found.columns()}, new.about(**asdict(settings)))
    return found, new


def reconstruct_run(
    folder: str | Path,
    data: str | Path,
    out: str | Path,
    settings: ReconstructionSettings | None = None,
    *,
    root: str | Path | None = None,
    device: str = "auto",
    progress: bool | None = None,
) -> tuple[Reconstruction, NewData]:
    """Reconstruct new data by a run, E[x|z] over q(z|x), written to a file.

    Arguments and errors are those of :func:`encode_run`; tables are refused.
    """
    check_out(out, data)
    check_columns_file(out)
    given = asdict(settings or ReconstructionSettings())
    new = read_new(folder, data, root=root, device=device)
    if new.data.schema is not None:  # a mean of codes of categories says nothing
        raise ValueError(
            f"{data} is a table, whose columns have no mean of one kind; pyro-vae impute fills its "
            "missing cells, and encode and score take it."
        )
    model, guide = new.run.vae.model, new.run.vae.guide
    found = reconstruct(model, guide, new.arguments, **given, progress=progress)
    write_columns(out, {**new.columns(), **found.columns()}, new.about(**given))
    return found, new


def score_run(
    folder: str | Path,
    data: str | Path,
    out: str | Path,
    settings: EvaluationSettings | None = None,
    *,
    root: str | Path | None = None,
    device: str = "auto",
    progress: bool | None = None,
) -> tuple[Evidence, NewData]:
    """Estimate log p(x) of new data, row by row; write them sorted by surprise.

    Estimates are those of :func:`~pyro_vae.runs.run.evaluate_run`, of p(x|y) for a conditional
    program. Arguments are those of :func:`encode_run`; the columns are those of :func:`surprises`.

    Returns:
        The evidence, in the file's order.

    Raises:
        ValueError: also a method that the program cannot use.
    """
    check_out(out, data)
    check_columns_file(out)
    given = asdict(settings or EvaluationSettings())
    new = read_new(folder, data, root=root, device=device, number=given.pop("number"))
    model, guide = new.run.vae.model, new.run.vae.guide
    evidence = log_evidence(model, guide, new.arguments, **given, progress=progress)
    about = new.about(**given)
    evidence = replace(evidence, data_sha256=about["data_sha256"], data=about["data"])
    write_columns(out, surprises(evidence, new.columns()), about)
    return evidence, new


def surprises(evidence: Evidence, beside: dict[str, Any]) -> dict[str, Any]:
    """Return columns of a result, the least probable datum first.

    ``log_px`` is without its bias of order 1/K, in nats (``log_px_uncorrected`` is with it), with
    its ``standard_error``, ``ess``, ``pareto_k``, ``verdict``, ``elbo`` and ``proposal``.

    Args:
        evidence: the result.
        beside: further columns of the data, in its order, which come first.
    """
    log_px = evidence.corrected()
    order = log_px.argsort(stable=True)
    proposals = [METHODS[number] for number in evidence.rung.long().tolist()]
    columns = {
        **beside,
        "log_px": log_px,
        "standard_error": evidence.standard_error,
        "ess": evidence.ess,
        "pareto_k": evidence.pareto_k,
        "verdict": evidence.verdicts(),
        "elbo": evidence.elbo,
        "proposal": proposals,
        "log_px_uncorrected": evidence.log_px,
    }
    return {
        name: values[order] if isinstance(values, Tensor) else [values[n] for n in order.tolist()]
        for name, values in columns.items()
    }
