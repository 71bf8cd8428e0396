"""Files that are whole or absent: written to a temporary name, then renamed. JSON is sealed."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

__all__ = ["read_json", "sweep", "write_atomically", "write_json", "write_text"]

_SEAL = "sha256"


def write_atomically(
    path: str | Path, write: Callable[[BinaryIO], object], *, keep: str | None = None
) -> Path:
    """Write a file so that at any moment either its old or its new content is there, complete.

    ``write`` is called with an open binary file. The folder is created if need be; the path is
    returned. With ``keep`` the old content stays in the folder under this name.

    Raises:
        OSError: the folder or the file cannot be written, or the disk is full; the message names
            the file, and its old content is kept.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.tmp-", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~_umask())
        if keep is not None and path.exists():
            _keep(path, path.with_name(keep))
        Path(temporary).replace(path)
    except BaseException as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError | RuntimeError):  # torch.save reports a full disk so
            raise OSError(
                f"cannot write {path}: {error}. Nothing was replaced; free some space or choose "
                "another folder."
            ) from error
        raise
    return path


def write_text(path: str | Path, text: str) -> Path:
    """Write a text file atomically, see :func:`write_atomically`."""
    return write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: str | Path, content: Any) -> Path:
    """Write JSON atomically, see :func:`write_atomically`; NaN and infinities become null.

    An object gets an entry ``sha256``, the hash of the others, which :func:`read_json` compares.
    """
    plain = json.loads(json.dumps(_finite(content), allow_nan=False))
    if isinstance(plain, dict):
        plain = {**plain, _SEAL: _digest(plain)}
    return write_text(path, json.dumps(plain, indent=1) + "\n")


def read_json(path: str | Path) -> Any:
    """Read JSON, without the checksum that :func:`write_json` gave it.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no JSON, or its content has changed since it was written.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: it is cut or damaged ({error})") from error
    if isinstance(content, dict) and _SEAL in content and content.pop(_SEAL) != _digest(content):
        raise ValueError(
            f"{path} has another content than was written: it is damaged, or was changed by hand "
            f'(then take its entry "{_SEAL}" out)'
        )
    return content


def sweep(folder: Path, *names: str) -> None:
    """Remove what a process that was killed while it wrote these files has left of them."""
    for name in names:
        for leftover in folder.glob(f".{name}.tmp-*"):
            leftover.unlink(missing_ok=True)


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _keep(path: Path, old: Path) -> None:
    """Give a file a second name, without a moment at which it has none."""
    link = old.with_name(f".{old.name}.tmp-{os.getpid()}")
    link.unlink(missing_ok=True)
    try:
        link.hardlink_to(path)
    except OSError:  # a file system without hard links
        path.replace(old)
        return
    link.replace(old)
    link.unlink(missing_ok=True)  # is left where both names were of the same file


def _finite(content: Any) -> Any:
    if isinstance(content, float):
        return content if abs(content) < float("inf") else None
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(item) for item in content]
    return content


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
