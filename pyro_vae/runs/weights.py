"""Weights of a run as safetensors, with checksums: read without the checkpoint and without code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..common.errors import CheckpointError
from ..common.files import write_atomically, write_text
from ..training.checkpoint import CONFIG

__all__ = ["SUMS", "WEIGHTS", "read_weights", "sha256_of", "write_sums", "write_weights"]

WEIGHTS, SUMS = "model.safetensors", "SHA256SUMS"
_SUMMED = (WEIGHTS, CONFIG)
"""What loading a run reads."""
_DESCRIPTION, _VERSION = "pyro_vae", 1
_ABOUT = {"event_shape", "finished", "history", "stopped_early", "restored_epoch"}


def write_weights(
    path: str | Path, parameters: Mapping[str, Any], about: Mapping[str, Any]
) -> Path:
    """Write parameters as safetensors, atomically; ``about`` are plain values kept beside them.

    Raises:
        ImportError: safetensors is not installed.
        OSError: the file cannot be written.
    """
    library = _library()
    tensors = {
        name: value.detach().cpu().clone().contiguous() for name, value in parameters.items()
    }
    words = json.dumps({"version": _VERSION, **about})
    content = library.torch.save(tensors, {"format": "pt", _DESCRIPTION: words})
    return write_atomically(path, lambda file: file.write(content))


def write_sums(folder: Path) -> Path:
    """Write the checksums of the files that :func:`read_weights` reads, as ``sha256sum`` does."""
    lines = [f"{sha256_of(folder / name)}  {name}\n" for name in _SUMMED]
    return write_text(folder / SUMS, "".join(lines))


def read_weights(folder: Path) -> dict[str, Any]:
    """Read an exported run as a checkpoint holds it, but for its config; verify its checksums.

    Raises:
        CheckpointError: a file is missing, changed or damaged; names it and says what to do.
        ImportError: safetensors is not installed.
    """
    sums = _read_sums(folder / SUMS)
    for name in _SUMMED:
        path = folder / name
        if not path.exists():
            raise CheckpointError(f"{path} is missing; {_ANEW}")
        if sums.get(name) != sha256_of(path):
            raise CheckpointError(
                f"{path} is damaged or was changed: its checksum is not that in {SUMS}; {_ANEW}"
            )
    library = _library()
    try:
        with library.safe_open(folder / WEIGHTS, "pt") as file:
            about = json.loads(file.metadata()[_DESCRIPTION])
            parameters = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if about.pop("version") != _VERSION:
            raise ValueError(f"another version than {_VERSION}")
        if missing := _ABOUT - about.keys():
            raise ValueError(f"without {', '.join(sorted(missing))}")
    except (library.SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise CheckpointError(f"{folder / WEIGHTS} is no exported run: {error}; {_ANEW}") from error
    return {**about, "parameters": parameters}


_ANEW = "copy the folder anew, or export the run again (pyro-vae export)."


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_sums(path: Path) -> dict[str, str]:
    if not path.exists():
        raise CheckpointError(f"{path} is missing; {_ANEW}")
    lines = path.read_text(errors="replace").splitlines()
    pairs = (line.split(maxsplit=1) for line in lines)
    return {pair[1].lstrip("*"): pair[0] for pair in pairs if len(pair) == 2}


def _library() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError(
            'exported runs need safetensors: pip install "pyro-vae[export]".'
        ) from error
    return safetensors
