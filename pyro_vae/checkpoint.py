"""Checkpoints and run folders: written atomically, loaded without executing anything."""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .checks import resolve_device
from .config import Config
from .errors import CheckpointError
from .files import write_atomically
from .history import History
from .programs import HierarchicalVAE, build_program
from .vae import VAE

__all__ = [
    "CHECKPOINT",
    "CONFIG",
    "HISTORY",
    "Run",
    "holds_run",
    "load_parameters",
    "load_run",
    "read",
    "read_config",
    "write",
]

CHECKPOINT, CONFIG, HISTORY = "checkpoint.pt", "config.json", "history.csv"
_FORMAT, _VERSION = "pyro_vae checkpoint", 1


@dataclass(frozen=True)
class Run:
    """A run folder, loaded.

    Attributes:
        vae: the trained model, on the device asked for.
        config: what was run.
        history: one row an epoch.
        folder: where it is.
        finished: whether training came to its end.
    """

    vae: VAE | HierarchicalVAE
    config: Config
    history: History
    folder: Path
    finished: bool


def write(path: str | Path, state: Mapping[str, Any]) -> Path:
    """Write a checkpoint atomically: tensors and plain values only.

    Raises:
        OSError: the file cannot be written; the older checkpoint is left as it was.
    """
    content = {"format": _FORMAT, "version": _VERSION, **state}
    return write_atomically(path, lambda file: torch.save(content, file))


def read(path: str | Path, *, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a checkpoint with ``weights_only=True``, so that no code in it can run.

    Raises:
        CheckpointError: absent, truncated, foreign, or holding code.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"no checkpoint {path}; train with `pyro-vae fit --out RUN`.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on foreign files; what matters is raised below
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


def load_parameters(module: nn.Module, parameters: Mapping[str, Any], *, source: str) -> None:
    """Load parameters, all or none.

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


def load_run(folder: str | Path, *, device: str | torch.device = "cpu") -> Run:
    """Load a run folder: the model that its config describes, with its trained parameters.

    Args:
        folder: folder that ``fit`` wrote.
        device: where to put the model.

    Raises:
        CheckpointError: the folder or its checkpoint is absent, damaged, or made by ``fit`` of a
            model that no config describes (load that one with ``checkpoint.read``).
    """
    folder = Path(folder)
    target = resolve_device(device)
    state = read(folder / CHECKPOINT)
    if state.get("config") is None:
        raise CheckpointError(
            f"{folder} holds a model that was not built from a config; build it yourself and load "
            "checkpoint.read(path)['parameters'] into it."
        )
    try:
        config = Config.from_dict(state["config"])
        vae = build_program(config, event_shape=state["event_shape"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / CHECKPOINT} has no valid config: {error}") from error
    load_parameters(vae, state["parameters"], source=str(folder / CHECKPOINT))
    return Run(
        vae=vae.to(target).eval(),
        config=config,
        history=History.from_rows(
            state["history"],
            stopped_early=state["stopped_early"],
            restored_epoch=state["restored_epoch"],
        ),
        folder=folder,
        finished=state["finished"],
    )


def holds_run(folder: str | Path) -> bool:
    """Whether a folder holds a run, begun or finished."""
    return any((Path(folder) / name).exists() for name in (CHECKPOINT, CONFIG))


def read_config(folder: str | Path) -> Config:
    """Read the config of a run, which is there before its first checkpoint.

    Args:
        folder: run folder, or a JSON file.

    Raises:
        CheckpointError: absent or not a config.
    """
    path = Path(folder)
    path = path / CONFIG if path.suffix != ".json" or path.is_dir() else path
    try:
        return Config.from_dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is not the config of a run: {error}") from error
