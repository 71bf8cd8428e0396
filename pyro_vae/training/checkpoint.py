"""The file of a checkpoint: written atomically, and read without running any code in it.

It is what ``torch.save`` writes, an archive with a checksum (CRC-32) of each of its parts, and
these are compared before anything is read. The checkpoint before is kept beside it.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO, NotRequired, TypedDict

import torch
from torch import Tensor, nn

from ..common.errors import CheckpointError
from ..common.files import write_atomically
from ..common.plain import misfits
from ..common.verbs import verb

__all__ = [
    "CHECKPOINT",
    "CONFIG",
    "DAMAGED",
    "FILES",
    "HISTORY",
    "PREVIOUS",
    "State",
    "check_parameters",
    "copy_of",
    "entries_of",
    "holds_run",
    "load_parameters",
    "newest",
    "read",
    "set_aside",
    "write",
]

CHECKPOINT, CONFIG, HISTORY = "checkpoint.pt", "config.json", "history.csv"
PREVIOUS, DAMAGED = "checkpoint.previous.pt", "checkpoint.damaged.pt"
FILES = (CHECKPOINT, PREVIOUS, CONFIG, HISTORY)
"""Files that training writes."""
_FORMAT, _VERSION = "pyro_vae checkpoint", 1


class _Settings(TypedDict):
    """Settings of training that decide whether a run can go on; the others are there, too."""

    epochs: int
    schedule: str
    patience: int | None


class State(TypedDict):
    """Entries of a checkpoint."""

    format: str
    version: int
    settings: _Settings
    parameters: dict[str, Tensor]
    best: dict[str, Tensor] | None
    last: NotRequired[dict[str, Tensor] | None]
    optimizer: dict[str, Any]
    scheduler: dict[str, Any] | None
    rng: list[dict[str, Tensor]]
    epoch: int
    step: int
    epoch_elbo: float
    epoch_data: int
    last_kl_weight: float
    seconds: float
    history: list[dict[str, Any]]
    stopped_early: bool
    restored_epoch: int | None
    finished: bool
    threads: NotRequired[int | None]
    config: dict[str, Any] | None
    event_shape: Sequence[int] | None


class _Damaged(CheckpointError):
    """A checkpoint that was a good one, and is not any more."""


def write(path: str | Path, state: Mapping[str, Any]) -> Path:
    """Write a checkpoint atomically: tensors and plain values only. The one before is kept.

    Raises:
        OSError: the file cannot be written; the older checkpoint is kept.
    """
    content = {"format": _FORMAT, "version": _VERSION, **state}
    keep = PREVIOUS if Path(path).name == CHECKPOINT else None
    with _checksums():
        return write_atomically(path, lambda file: torch.save(content, file), keep=keep)


@verb
def read(path: str | Path, *, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a checkpoint with ``weights_only=True``, so that no code in it can run.

    Raises:
        CheckpointError: missing, cut or changed since it was written, not a checkpoint of this
            package, with entries missing or of other types, or holding code.
    """
    path = Path(path)
    if not path.exists():
        there = _cure(path) if path.with_name(PREVIOUS).exists() else ""
        raise CheckpointError(
            f"no checkpoint {path}; train with `pyro-vae fit --out RUN`.{' ' * bool(there)}{there}"
        )
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            _compare_checksums(file)
            warnings.simplefilter("ignore")  # about other files; what matters is raised below
            content = torch.load(file, map_location=device, weights_only=True)
    except UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds objects other than tensors and plain values, or is no checkpoint; it "
            "was not loaded, since loading it could run foreign code."
        ) from error
    except Exception as error:  # a damaged file can break any part of a reader
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _Damaged(
            f"{path} is no checkpoint, or is cut or damaged ({words.rstrip('.')}); it was not "
            f"loaded. {_cure(path)}"
        ) from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of pyro_vae.")
    if content.get("version") != _VERSION:
        raise CheckpointError(
            f"{path} has checkpoint version {content.get('version')}; this package reads version "
            f"{_VERSION}."
        )
    if wrong := misfits(content, State):
        raise _Damaged(f"{path} has wrong entries: {_few(wrong)}. {_cure(path)}")
    return content


def newest(folder: str | Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest good checkpoint of a run folder and what it holds; ``None`` without any.

    Raises:
        CheckpointError: there are checkpoints, and none of them is good.
    """
    now, before = Path(folder) / CHECKPOINT, Path(folder) / PREVIOUS
    if not before.exists():
        return (now, read(now)) if now.exists() else None
    if now.exists():
        try:
            return now, read(now)
        except _Damaged as error:
            try:
                return before, read(before)
            except CheckpointError as other:
                raise CheckpointError(
                    f"both checkpoints of {folder} are damaged; restore one from a copy, or train "
                    f"again in another folder. {error} {other}"
                ) from error
    return before, read(before)


def set_aside(folder: Path) -> None:
    """Give the damaged checkpoint of a folder another name, so that it replaces no good one."""
    if (folder / CHECKPOINT).exists():
        (folder / CHECKPOINT).replace(folder / DAMAGED)


@contextmanager
def entries_of(source: object) -> Iterator[None]:
    """Turn what goes wrong with entries of a checkpoint into a :class:`CheckpointError`."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # whatever code trips over what is not there or of another kind
        words = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise CheckpointError(f"{source} has entries that do not fit ({words}).") from error


def _cure(path: Path) -> str:
    if path.name == CHECKPOINT and path.with_name(PREVIOUS).exists():
        return (
            f"The checkpoint before is there, {PREVIOUS}: resume the run, and it goes on from that."
        )
    return "Restore the file from a copy, or train again."


def _compare_checksums(file: BinaryIO) -> None:
    """Compare the checksum of each part of an archive, and return to its start."""
    with zipfile.ZipFile(file) as archive:
        if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
            raise zipfile.BadZipFile("it has compressed parts, which could be of any size")
        if (wrong := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"its part {wrong} has another checksum than was written")
    file.seek(0)


@contextmanager
def _checksums() -> Iterator[None]:
    """Let torch compute the checksums that are compared later, whatever the caller has set."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(True)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)


def copy_of(module: nn.Module) -> dict[str, Tensor]:
    """Return a copy of a module's parameters and buffers."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


@verb
def load_parameters(module: nn.Module, parameters: Mapping[str, Any], *, source: str) -> None:
    """Load parameters: all, or none.

    Raises:
        CheckpointError: names, shapes or types do not fit, or parameters are not finite; the
            message lists the first few.
    """
    check_parameters(module, parameters, source=source)
    module.load_state_dict(parameters)


def check_parameters(module: nn.Module, parameters: Mapping[str, Any], *, source: str) -> None:
    """Check parameters before they are loaded, see :func:`load_parameters`.

    A module on torch's meta device is enough, for which no memory is taken.
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
        raise CheckpointError(
            f"{source} is of another architecture: {_few(wrong)}. Build the model with the config "
            "it was trained with."
        )
    types = [
        f"{name} is of {parameters[name].dtype}, the model of {value.dtype}"
        for name, value in own.items()
        if parameters[name].dtype != value.dtype
    ]
    if types:
        raise CheckpointError(f"{source} has parameters of another type: {_few(types)}.")
    infinite = [n for n, _ in module.named_parameters() if not parameters[n].isfinite().all()]
    if infinite:
        raise CheckpointError(
            f"{source} has parameters that are NaN or infinite: {_few(infinite)}. Restore the file "
            "from a copy, or train again."
        )


def _few(words: Sequence[str]) -> str:
    more = f" and {len(words) - 3} more" if len(words) > 3 else ""
    return f"{'; '.join(words[:3])}{more}"


def holds_run(folder: str | Path) -> bool:
    """Whether a folder holds a run, started or finished."""
    return any((Path(folder) / name).exists() for name in (CHECKPOINT, PREVIOUS, CONFIG))
