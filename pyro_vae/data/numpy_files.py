"""NumPy's files, read with care: what they declare is checked before anything is allocated."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from ..common.errors import warn
from ..common.memory import free_memory
from .cells import is_sparse, read_sparse
from .sets import Data

__all__ = ["read_numpy"]

_SPLITS = ("train", "valid", "test")
_AT_ONCE = 2**20  # bytes read at once
_LARGEST = 2**63 - 1
# Types that torch computes with; the others become the next larger one that holds their values.
_OTHERS = {"u2": "i4", "u4": "i8", "u8": "i8", "f12": "f8", "f16": "f8"}


def read_numpy(path: Path) -> dict[str, Data]:
    """Read an ``.npy`` file as ``x``, or an ``.npz`` archive's ``x`` or ``train`` and what goes by.

    Nothing but numbers is read, and no code in the file can run. Sizes and types are compared with
    the file before memory is taken; an archive's checksums are compared while it is read. Reading
    takes the declared size, or twice that for unsigned integers, of which torch has 8 bits only.

    Raises:
        ValueError: not a NumPy file of numbers; cut, changed or damaged; larger than the memory
            there is; arrays of other names, or that leave open what to train on.
    """
    with _named(path), _open(path) as file:
        start = file.read(len(npy.MAGIC_PREFIX))
        file.seek(0)
        if start == npy.MAGIC_PREFIX:
            header = _Header.read(file, path.stat().st_size)
            _check_memory([header])
            return {"x": Data(header.values(file))}
        if not zipfile.is_zipfile(file):
            raise ValueError("it is neither an .npy file nor a complete .npz archive")
        with zipfile.ZipFile(file) as archive:
            return _read_archive(path, archive)


def _open(path: Path) -> BinaryIO:
    if not path.is_file():  # a pipe would be waited for
        raise ValueError("it is no file")
    return path.open("rb")


def _read_archive(path: Path, archive: zipfile.ZipFile) -> dict[str, Data]:
    members = [member.removesuffix(".npy") for member in archive.namelist()]
    if is_sparse(members):
        return {"x": Data(read_sparse(path))}
    if len(set(members)) < len(members):
        raise ValueError("it holds several arrays of one name")
    there = {name for name in ("x", *_SPLITS) if name in members}
    if "x" in there and "train" in there:
        raise ValueError("it holds both x and train; name what to train on x or train, not both")
    if not there & {"x", "train"}:
        raise ValueError(
            f"it holds {', '.join(members) or 'nothing'}; expected arrays named x, or train (and "
            "valid, test)"
        )
    beside = {name: "" if name == "x" else f"{name}_" for name in there}
    others = (start + key for start in beside.values() for key in ("y", "exposure"))
    wanted = [*there, *(name for name in others if name in members)]
    if unused := sorted(set(members) - set(wanted)):
        warn(
            f"{path} also holds {', '.join(unused[:5])}{', ...' * (len(unused) > 5)}, which is not "
            "used; arrays that are have the names x, train, valid, test, y, train_y, ..., "
            "exposure, train_exposure, ....",
        )
    headers, tensors = {}, {}
    for name in wanted:
        with _array(archive, name) as (file, size):
            headers[name] = _Header.read(file, size)
    _check_memory(list(headers.values()))
    for name in wanted:
        with _array(archive, name) as (file, size):
            tensors[name] = _Header.read(file, size).values(file)
    return {
        name: Data(
            tensors[name], tensors.get(f"{start}y"), exposure=tensors.get(f"{start}exposure")
        )
        for name, start in beside.items()
    }


@contextmanager
def _array(archive: zipfile.ZipFile, name: str) -> Iterator[tuple[IO[bytes], int]]:
    """Open an array of an archive, of this size, and name it in whatever goes wrong with it."""
    try:
        member = archive.getinfo(f"{name}.npy")
        with archive.open(member) as file:
            yield file, member.file_size
    except Exception as error:
        raise ValueError(f"array {name}: {error}") from error


@dataclass(frozen=True)
class _Header:
    """What the header of an array declares."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]

    @classmethod
    def read(cls, file: IO[bytes], size: int) -> _Header:
        """Read a header, and check that the file is as long as it says."""
        version = npy.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"it has version {version} of the format, which is for named columns")
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        header = cls(*read(file))
        if header.dtype.hasobject:
            raise ValueError("it holds Python objects, which are not loaded: they could run code")
        if header.dtype.kind not in "buif":
            raise ValueError(f"it has type {header.dtype}; expected numbers")
        if any(length < 0 for length in header.shape):
            raise ValueError(f"it has shape {header.shape}")
        declared, there = header.number * header.dtype.itemsize, size - file.tell()
        if declared != there:
            raise ValueError(
                f"it is cut or damaged: its header declares {declared:,} bytes of values, and "
                f"{there:,} are there"
            )
        return header

    @property
    def number(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def target(self) -> np.dtype[Any]:
        """The type of this machine and of torch in which the values are kept."""
        own = self.dtype.newbyteorder("=")
        return np.dtype(_OTHERS.get(own.str[1:], own))

    @property
    def needed(self) -> int:
        """Bytes that reading takes."""
        return self.number * self.target.itemsize

    def values(self, file: IO[bytes]) -> Tensor:
        """Read the values, a block at a time."""
        array = np.empty(self.shape, dtype=self.target)
        flat = array.T.flat if self.fortran else array.reshape(-1)
        rows = max(1, _AT_ONCE // self.dtype.itemsize)
        for start in range(0, self.number, rows):
            size = min(rows, self.number - start) * self.dtype.itemsize
            block = np.frombuffer(_exactly(file, size), dtype=self.dtype)
            if self.dtype.str[1:] == "u8" and block.max() > _LARGEST:
                raise ValueError("it has integers above 2^63 - 1; give them as type float64")
            flat[start : start + len(block)] = block
        if file.read(1):  # at its end an archive compares the checksum
            raise ValueError("it is longer than its header declares")
        return torch.from_numpy(array)


def _exactly(file: IO[bytes], size: int) -> bytes:
    block = file.read(size)
    while len(block) < size:
        if not (more := file.read(size - len(block))):
            raise ValueError("it is cut: values are missing")
        block += more
    return block


def _check_memory(headers: list[_Header]) -> None:
    needed, free = sum(header.needed for header in headers), free_memory()
    if free is not None and needed > free:
        raise ValueError(
            f"its values need {needed / 1e9:,.1f} GB of memory, and {free / 1e9:,.1f} GB are free"
        )


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Name the file in whatever goes wrong with it: a damaged one can break any reader."""
    try:
        yield
    except Warning:
        raise
    except Exception as error:
        words = str(error) or type(error).__name__
        raise ValueError(
            f"{path} cannot be read as a NumPy file of numbers: {words.rstrip('.')}."
        ) from error
