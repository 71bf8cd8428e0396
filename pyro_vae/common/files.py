"""Files that are whole or absent: written to a temporary name, then renamed."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

__all__ = ["write_atomically", "write_json", "write_text"]


def write_atomically(path: str | Path, write: Callable[[BinaryIO], object]) -> Path:
    """Write a file so that at any moment either its old or its new content is there, complete.

    ``write`` is called with an open binary file. The folder is created if need be; the path is
    returned.

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
    """Write JSON atomically, see :func:`write_atomically`; NaN and infinities become null."""
    return write_text(path, json.dumps(_finite(content), indent=1, allow_nan=False) + "\n")


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
