"""A run as a folder for others: weights, config and a model card."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..common.errors import CheckpointError
from ..common.files import read_json, write_json, write_text
from ..common.verbs import verb
from ..training import checkpoint
from .card import model_card
from .certificate import statements
from .folder import load_run
from .results import CARD, EVIDENCE, METRICS, stored_evidence
from .weights import SUMS, WEIGHTS, write_sums, write_weights

__all__ = ["export_run"]


@verb
def export_run(folder: str | Path, out: str | Path | None = None) -> Path:
    """Write a run's weights, config and model card into a folder that stands alone.

    ``load_run`` reads it on another machine, without the data and the checkpoint, and log p(x) has
    the same bits, on a processor of the same kind with the same torch. The files are
    ``model.safetensors``, ``config.json``, ``README.md`` (the card), ``history.csv``,
    ``SHA256SUMS`` (of what ``load_run`` reads, which verifies it, as ``sha256sum -c`` does), and
    ``evidence.json`` and ``metrics.json`` if the run was evaluated. Of a path of the data only the
    last part is kept.

    Args:
        folder: run folder.
        out: folder to write: a new or an empty one, or an older export, which is replaced. By
            default ``export`` in the run folder.

    Returns:
        The folder written.

    Raises:
        CheckpointError: the run, or its evidence, is missing or damaged.
        FileExistsError: ``out`` holds something else.
        ImportError: safetensors is not installed.
        OSError: ``out`` cannot be written.
    """
    folder = Path(folder)
    out = folder / "export" if out is None else Path(out)
    run = load_run(folder)
    state = checkpoint.read(folder / checkpoint.CHECKPOINT)
    evidence, metrics = None, {}
    try:
        evidence = stored_evidence(folder)
        if evidence is not None:
            metrics = read_json(folder / METRICS)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{error} (pyro-vae evaluate {folder})") from error
    certified = statements(run)
    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or (out / SUMS).exists())):
        raise FileExistsError(f"{out} is not empty and no export; choose another folder (--out).")
    config = replace(run.config, data=Path(run.config.data).name)
    about = {"event_shape": list(state["event_shape"]), "finished": run.finished}
    weights = out / WEIGHTS
    if not (out / SUMS).exists():
        write_text(out / SUMS, "")  # so that the rest, left incomplete, can be written again
    write_weights(weights, run.vae.state_dict(), {**about, **run.history.to_state()})
    write_json(out / checkpoint.CONFIG, config.to_dict())
    write_text(out / checkpoint.HISTORY, run.history.to_csv())
    for name in (EVIDENCE, METRICS):
        if evidence is None:
            (out / name).unlink(missing_ok=True)
        else:
            write_text(out / name, (folder / name).read_text())
    exported = replace(run, config=config)
    write_text(out / CARD, model_card(exported, state, evidence, metrics, certified))
    write_sums(out)
    return out
