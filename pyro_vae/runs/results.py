"""What was found of a run's model, kept in its folder, and whether it still is of that model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ..common.errors import PyroVAEWarning, warn
from ..data import fingerprint
from ..evidence import Evidence
from .folder import parameters_of

__all__ = ["CERTIFICATE", "EVIDENCE", "METRICS", "hash_of", "stored_evidence"]

EVIDENCE, METRICS, CERTIFICATE = "evidence.json", "metrics.json", "certificate.json"


def hash_of(parameters: Mapping[str, Tensor]) -> str:
    """SHA-256 of a model's parameters and their names, as hexadecimal digits."""
    digest = hashlib.sha256()
    for name in sorted(parameters):
        digest.update(f"{name} {fingerprint(parameters[name])}\n".encode())
    return digest.hexdigest()


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
        PyroVAEWarning,
    )
    return None
