"""A run folder: its files, and the trained model that they describe."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..common.devices import resolve_device
from ..common.errors import CheckpointError, warn
from ..common.files import read_json
from ..common.verbs import verb
from ..config import Config
from ..data import fingerprint
from ..models import Model, build_program
from ..training.checkpoint import (
    CHECKPOINT,
    CONFIG,
    check_parameters,
    entries_of,
    load_parameters,
    newest,
    read,
)
from ..training.history import History
from .weights import SUMS, WEIGHTS, read_weights

__all__ = ["Run", "hash_of", "load_run", "parameters_of", "read_config"]


@dataclass(frozen=True)
class Run:
    """A run folder, loaded.

    Attributes:
        vae: the trained model, on the device asked for.
        config: what was run.
        history: one row per epoch.
        folder: path of the run folder.
        finished: whether training was completed.
        event_shape: shape of one datum.
        train_data: hash of the data that it was trained on, if known.
    """

    vae: Model
    config: Config
    history: History
    folder: Path
    finished: bool
    event_shape: tuple[int, ...]
    train_data: str | None = None

    def sample(self, number: int, *, seed: int | None = None, mean: bool = False) -> Tensor:
        """Draw data from the model, going through the classes in turn if it has labels.

        Arguments are those of the model's own ``sample``.

        Returns:
            Tensor of shape ``(number, *event_shape)``, on the CPU.
        """
        if number < 1:
            raise ValueError(f"number of samples must be at least 1; got {number}.")
        given: Any = number
        if self.config.classes is not None:
            given = torch.arange(number) % self.config.classes
        return self.vae.sample(given, seed=seed, mean=mean).cpu()

    @property
    def sha256(self) -> str:
        """Hash of the model's parameters, by which results of it are known."""
        return hash_of(self.vae.state_dict())

    def check_folder(self) -> None:
        """Check that the folder is still there, before results are written to it.

        Raises:
            FileNotFoundError: it was deleted or moved since the run was loaded.
        """
        if not self.folder.is_dir():
            raise FileNotFoundError(
                f"{self.folder} was deleted or moved since the run was loaded; nothing was written."
            )


@verb
def load_run(folder: str | Path, *, device: str | torch.device = "cpu") -> Run:
    """Load the model that a run folder's config describes, with its trained parameters.

    Args:
        folder: folder that ``fit`` or ``export_run`` wrote.
        device: device of the loaded model.

    The checkpoint has the config, too, and that one counts; a warning says where ``config.json`` is
    another.

    Raises:
        CheckpointError: the folder or its checkpoint is missing, damaged, or made by ``fit`` of a
            model that no config describes (load that one with ``checkpoint.read``); an exported
            file is missing or has another checksum.
        ImportError: an exported run, and safetensors is not installed.
    """
    folder = Path(folder)
    target = resolve_device(device)
    path = folder / CHECKPOINT
    if _is_exported(folder):
        path, state = folder / WEIGHTS, read_weights(folder)
        state["config"] = read_config(folder).to_dict()
    else:
        state = read(path)
    if state.get("config") is None:
        raise CheckpointError(
            f"{folder} holds a model that was not built from a config; build it yourself and load "
            "checkpoint.read(path)['parameters'] into it."
        )
    config = _config_of(state, path)
    with entries_of(path):
        _check_sizes(config, state, path)
        vae = build_program(config, event_shape=state["event_shape"])
        load_parameters(vae, state["parameters"], source=str(path))
        history = History.from_state(state)
    _say_differences(folder, config)
    return Run(
        vae=vae.to(target).eval(),
        config=config,
        history=history,
        folder=folder,
        finished=state["finished"],
        event_shape=tuple(state["event_shape"]),
        train_data=state.get("settings", {}).get("train_data"),
    )


def hash_of(parameters: Mapping[str, Tensor]) -> str:
    """SHA-256 of a model's parameters and their names, as hexadecimal digits."""
    digest = hashlib.sha256()
    for name in sorted(parameters):
        digest.update(f"{name} {fingerprint(parameters[name])}\n".encode())
    return digest.hexdigest()


def parameters_of(folder: Path) -> dict[str, Tensor] | None:
    """Return the parameters of a run, without its model; ``None`` for a folder without any.

    Raises:
        CheckpointError: they are damaged.
    """
    if _is_exported(folder):
        found: dict[str, Tensor] = read_weights(folder)["parameters"]
        return found
    stored = newest(folder)
    return None if stored is None else stored[1]["parameters"]


def _is_exported(folder: Path) -> bool:
    return (folder / SUMS).exists() and not (folder / CHECKPOINT).exists()


def read_config(folder: str | Path) -> Config:
    """Read the config of a run folder, which its checkpoint has, or that of a JSON file.

    Raises:
        CheckpointError: missing, or not a config.
    """
    path = Path(folder)
    if path.suffix != ".json" or path.is_dir():
        if (found := newest(path)) is not None and found[1]["config"] is not None:
            config = _config_of(found[1], found[0])
            _say_differences(path, config)
            return config
        path = path / CONFIG
    return _read(path)


def _read(path: Path) -> Config:
    try:
        return Config.from_dict(read_json(path))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is not the config of a run: {error}") from error


def _config_of(state: dict[str, Any], path: Path) -> Config:
    try:
        return Config.from_dict(state["config"])
    except (TypeError, ValueError, ArithmeticError) as error:
        raise CheckpointError(f"{path} has no valid config: {error}") from error


def _say_differences(folder: Path, config: Config) -> None:
    """Warn where the file of a config is not what the run was trained with."""
    path = folder / CONFIG
    if not path.exists():
        return
    try:
        written = _read(path)
    except CheckpointError as error:
        words = str(error).rstrip(".")
    else:
        if written == config:
            return
        differ = [
            f"{field.name} {getattr(written, field.name)!r} (trained with "
            f"{getattr(config, field.name)!r})"
            for field in fields(Config)
            if getattr(written, field.name) != getattr(config, field.name)
        ]
        words = f"{path} was changed: {', '.join(differ)}"
    warn(f"{words}. It is ignored: the checkpoint has the config, too.")


def _check_sizes(config: Config, state: dict[str, Any], path: Path) -> None:
    """Check parameters against a model that takes no memory, before one that does is built."""
    try:
        with torch.device("meta"):
            model = build_program(config, event_shape=state["event_shape"])
    except NotImplementedError:  # flows are made of values
        return
    check_parameters(model, state["parameters"], source=str(path))
