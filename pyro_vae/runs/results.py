"""What was found of a run's model, kept in its folder, and whether it still is of that model."""

from __future__ import annotations

from pathlib import Path

from ..common.errors import warn
from ..evidence import Evidence
from .folder import hash_of, parameters_of

__all__ = ["CARD", "CERTIFICATE", "CHECK", "EVIDENCE", "METRICS", "stored_evidence"]

EVIDENCE, METRICS = "evidence.json", "metrics.json"
CERTIFICATE, CHECK, CARD = "certificate.json", "check.json", "README.md"


def stored_evidence(folder: Path) -> Evidence | None:
    """Read an estimate of a run; ``None`` if there is none of its present parameters.

    Warns where there is one of others: the run was trained on, or it was copied from another.

    Raises:
        CheckpointError: the run is damaged.
        ValueError: the file is not a result of ours.
    """
    path = folder / EVIDENCE
    if not path.exists():
        return None
    evidence = Evidence.load(path)
    parameters = parameters_of(folder)
    if not evidence.model_sha256 or parameters is None:  # of a user's own, or alone in its folder
        return evidence
    if evidence.model_sha256 == hash_of(parameters):
        return evidence
    warn(
        f"{path} is of other parameters than the run has now, and is left out; evaluate it again "
        f"(pyro-vae evaluate {folder}).",
    )
    return None
