"""A run folder: its files, and the trained model that they describe."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..common.devices import resolve_device
from ..common.errors import CheckpointError
from ..common.verbs import verb
from ..config import Config
from ..models import Model, build_program
from ..training.checkpoint import CHECKPOINT, CONFIG, load_parameters, read
from ..training.history import History

__all__ = ["Run", "load_run", "read_config"]


@dataclass(frozen=True)
class Run:
    """A run folder, loaded.

    Attributes:
        vae: the trained model, on the device asked for.
        config: what was run.
        history: one row per epoch.
        folder: path of the run folder.
        finished: whether training was completed.
    """

    vae: Model
    config: Config
    history: History
    folder: Path
    finished: bool

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


@verb
def load_run(folder: str | Path, *, device: str | torch.device = "cpu") -> Run:
    """Load the model that a run folder's config describes, with its trained parameters.

    Args:
        folder: folder that ``fit`` wrote.
        device: device of the loaded model.

    Raises:
        CheckpointError: the folder or its checkpoint is missing, damaged, or made by ``fit`` of a
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
        history=History.from_state(state),
        folder=folder,
        finished=state["finished"],
    )


def read_config(folder: str | Path) -> Config:
    """Read the config of a run folder, which precedes the first checkpoint, or of a JSON file.

    Raises:
        CheckpointError: missing, or not a config.
    """
    path = Path(folder)
    path = path / CONFIG if path.suffix != ".json" or path.is_dir() else path
    try:
        return Config.from_dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is not the config of a run: {error}") from error
