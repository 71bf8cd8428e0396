"""The file of a checkpoint: written atomically, and read without running any code in it."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..common.errors import CheckpointError
from ..common.files import write_atomically
from ..common.verbs import verb

__all__ = [
    "CHECKPOINT",
    "CONFIG",
    "HISTORY",
    "holds_run",
    "load_parameters",
    "read",
    "write",
]

CHECKPOINT, CONFIG, HISTORY = "checkpoint.pt", "config.json", "history.csv"
_FORMAT, _VERSION = "pyro_vae checkpoint", 1


def write(path: str | Path, state: Mapping[str, Any]) -> Path:
    """Write a checkpoint atomically: tensors and plain values only.

    Raises:
        OSError: the file cannot be written; the older checkpoint is kept.
    """
    content = {"format": _FORMAT, "version": _VERSION, **state}
    return write_atomically(path, lambda file: torch.save(content, file))


@verb
def read(path: str | Path, *, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a checkpoint with ``weights_only=True``, so that no code in it can run.

    Raises:
        CheckpointError: missing, truncated, not a checkpoint of this package, or holding code.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"no checkpoint {path}; train with `pyro-vae fit --out RUN`.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about other files; what matters is raised below
            content = torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds objects other than tensors and plain values, or is no checkpoint; it "
            "was not loaded, since loading it could run foreign code."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is truncated or damaged: {error}") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of pyro_vae.")
    if content.get("version") != _VERSION:
        raise CheckpointError(
            f"{path} has checkpoint version {content.get('version')}; this package reads version "
            f"{_VERSION}."
        )
    return content


@verb
def load_parameters(module: nn.Module, parameters: Mapping[str, Any], *, source: str) -> None:
    """Load parameters: all, or none.

    Raises:
        CheckpointError: names or shapes do not fit; the message lists the first few.
    """
    own = module.state_dict()
    wrong = [f"missing {name}" for name in own if name not in parameters]
    wrong += [f"unknown {name}" for name in parameters if name not in own]
    wrong += [
        f"{name} has shape {tuple(parameters[name].shape)}, the model {tuple(value.shape)}"
        for name, value in own.items()
        if name in parameters and parameters[name].shape != value.shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CheckpointError(
            f"{source} is of another architecture: {'; '.join(wrong[:3])}{more}. Build the model "
            "with the config it was trained with."
        )
    module.load_state_dict(parameters)


def holds_run(folder: str | Path) -> bool:
    """Whether a folder holds a run, started or finished."""
    return any((Path(folder) / name).exists() for name in (CHECKPOINT, CONFIG))
