"""One writer for a folder: a lock that ends with its process, however that ends."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import ParamSpec, TypeVar

from .processes import Processes

try:
    import fcntl
except ImportError:  # Windows: no such locks, and nothing is locked there
    fcntl = None  # type: ignore[assignment]

__all__ = ["LOCK", "FolderLock", "held", "hold", "take_turns", "writes_to"]

P = ParamSpec("P")
T = TypeVar("T")

LOCK, _TURNS = ".lock", ".lock-results"
_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)  # a link could lead elsewhere
_TRIES = 20
_PATIENCE = 60.0  # seconds for a turn, of which each takes some milliseconds


@dataclass
class FolderLock:
    """A folder that this process alone may write to.

    The lock is the system's on the open file ``.lock``, which holds the name of the process; so it
    ends with the process, and a file that a killed one leaves behind locks nothing.
    """

    folder: Path
    name: str = LOCK
    makes: bool = True  # whether a folder that is not there is made
    descriptor: int = -1
    made: list[Path] = field(default_factory=list)  # folders that were not there before

    @property
    def path(self) -> Path:
        """Path of the file that is locked."""
        return self.folder / self.name

    def take(self, *, patience: float = 0.0) -> None:
        """Take the lock, and make the folder if need be.

        Raises:
            BlockingIOError: another process, or another thread of this one, has it.
            OSError: the folder cannot be written, or its file system has no locks.
        """
        if self.makes:
            self.made = [p for p in (self.folder, *self.folder.parents) if not p.exists()]
        until, tries = time.monotonic() + patience, 0
        while True:
            try:
                if self.makes:
                    self.folder.mkdir(parents=True, exist_ok=True)
                self.descriptor = os.open(self.path, _FLAGS, 0o666)
            except OSError as error:
                # Another process may have removed the folder between the two lines.
                if isinstance(error, FileNotFoundError) and self.makes and tries < _TRIES:
                    tries += 1
                    continue
                raise OSError(
                    f"cannot write {self.folder}: {error}. Choose another folder."
                ) from error
            if self._lock() and self.is_held():
                break
            os.close(self.descriptor)
            if time.monotonic() >= until and self.path.exists():
                raise BlockingIOError(
                    f"{self.folder} is in use by another process or thread, which writes to it "
                    f"({_owner(self.path)}); wait until that has ended, or choose another folder."
                )
            time.sleep(0.01)
        with contextlib.suppress(OSError):  # a full disk has room for an empty file
            os.ftruncate(self.descriptor, 0)
            os.write(self.descriptor, f"process {os.getpid()} on {platform.node()}\n".encode())

    def _lock(self) -> bool:
        if fcntl is None:
            return True
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            self.release()
            raise OSError(
                f"cannot lock {self.path}: {error}. Its file system has no locks, which keep two "
                "processes from writing over each other; choose a folder on another one."
            ) from error
        return True

    def is_held(self) -> bool:
        """Whether the folder is still the one that was locked."""
        try:
            there, own = self.path.stat(), os.fstat(self.descriptor)
        except FileNotFoundError:
            return False
        return (there.st_dev, there.st_ino) == (own.st_dev, own.st_ino)

    def check(self) -> None:
        """Check that the folder is still there.

        Raises:
            FileNotFoundError: it was deleted, moved or replaced since.
        """
        if not self.is_held():
            raise FileNotFoundError(
                f"{self.folder} was deleted, moved or replaced while it was written to (its file "
                f"{self.name} is gone); nothing more was written."
            )

    def release(self) -> None:
        """Give the folder back, and leave none that was made for nothing."""
        with contextlib.suppress(OSError):
            if self.is_held():
                self.path.unlink(missing_ok=True)
        os.close(self.descriptor)
        with contextlib.suppress(OSError):
            for folder in self.made:
                folder.rmdir()  # only if it is empty


_HELD: ContextVar[Mapping[str, FolderLock | None]] = ContextVar(
    "held", default=MappingProxyType({})
)


@contextmanager
def hold(folder: str | Path) -> Iterator[None]:
    """Be the only one to write to a folder for a while; inside another such block, stay it.

    Of several processes with one task the first holds the lock for all.

    Raises:
        BlockingIOError: another process has it; the message names it.
        OSError: the folder cannot be written or locked.
    """
    path = _key(folder)
    if path in _HELD.get():
        yield
        return
    processes = Processes.join()
    with ExitStack() as stack:
        lock = FolderLock(Path(folder).absolute()) if processes.is_first else None
        refusal: OSError | None = None
        if lock is not None:
            try:
                lock.take()
                stack.callback(lock.release)
            except OSError as error:
                refusal = error
        if (told := processes.gather(refusal)[0]) is not None:
            raise refusal or told
        token = _HELD.set({**_HELD.get(), path: lock})
        try:
            yield
        finally:
            _HELD.reset(token)


def held(folder: str | Path | None) -> FolderLock | None:
    """Return the lock of a folder that this process holds, if it does."""
    return None if folder is None else _HELD.get().get(_key(folder))


def writes_to(parameter: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Let a function :func:`hold` the folder in one of its arguments, unless that is ``None``."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            folder = signature.bind(*args, **kwargs).arguments.get(parameter)
            with nullcontext() if folder is None else hold(folder):
                return function(*args, **kwargs)

        return call

    return decorate


def _key(folder: str | Path) -> str:
    return os.path.realpath(folder)


@contextmanager
def take_turns(folder: str | Path) -> Iterator[None]:
    """Write several files of a folder that belong together, one process after the other.

    Where that cannot be had, for the folder is not there or has no locks, it is done all the same.
    """
    lock = FolderLock(Path(folder).absolute(), name=_TURNS, makes=False)
    with ExitStack() as stack:
        with contextlib.suppress(OSError):
            lock.take(patience=_PATIENCE)
            stack.callback(lock.release)
        yield


def _owner(path: Path) -> str:
    try:
        words = path.read_text(errors="replace")[:100].strip()
    except OSError:
        words = ""
    return words if words.isprintable() and words else "which has not said its name"
