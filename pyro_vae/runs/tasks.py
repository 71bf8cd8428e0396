"""Runs of a study, one after the other or in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

from ..common.errors import Interrupted, UnreliableEvidence, warn
from ..common.host import use_threads
from ..common.settings import EvaluationSettings
from ..config import Config
from ..data.sets import Data
from ..evidence import Evidence
from ..training import checkpoint
from ..training.resuming import is_complete
from .folder import read_config
from .inputs import identity, load_data
from .results import stored_evidence
from .run import evaluate_run, train_run

__all__ = ["Task", "in_processes", "in_turn"]

_LOOK_EVERY, _PATIENCE = 0.1, 60.0  # seconds
_OF_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR")
_START = (
    "import json, sys; path, task = map(json.loads, sys.argv[1:]); sys.path[:] = path; "
    "from pyro_vae.runs.worker import main; main(task)"
)


@dataclass(frozen=True)
class Task:
    """A run to train and to evaluate.

    Attributes:
        label: what it is called in lines of progress.
        folder: its run folder.
        config: what to train.
        settings: how to estimate log p(x).
        resume: whether to go on with what is there.
        root: folder of downloaded data.
        device: where to compute.
    """

    label: str
    folder: Path
    config: Config
    settings: EvaluationSettings
    resume: bool
    root: str | Path | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        again = self.resume and checkpoint.holds_run(self.folder)
        object.__setattr__(self, "resume", again)
        if again:  # a file's path was made absolute; older runs have no names of classes
            stored = read_config(self.folder)
            config = replace(self.config, data=stored.data, class_names=stored.class_names)
            object.__setattr__(self, "config", config)

    def run(self, say: Callable[[str], None], progress: bool | None) -> None:
        """Do what is left to do, on one thread, so that numbers depend on no other process."""
        with use_threads(1):
            say(f"{self.label}: training")
            options: dict[str, Any] = {
                "root": self.root,
                "device": self.device,
                "progress": progress,
            }
            train_run(self.config, self.folder, resume=self.resume, **options)
            if self.resume and self.evidence(load_data(self.config, root=self.root).test):
                return
            samples = self.settings.samples
            say(f"{self.label}: log p(x) of the test data, {samples} samples each")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UnreliableEvidence)  # the table says it
                evaluate_run(self.folder, self.settings, **options)

    def is_done(self, test: Data) -> bool:
        """Whether nothing is left to do."""
        if not (self.resume and self.evidence(test)):
            return False
        found = checkpoint.newest(self.folder)
        return found is not None and is_complete(found[1], asdict(self.config.training))

    def evidence(self, test: Data) -> Evidence | None:
        """Read the run's estimate, if made with these settings and data."""
        wanted = self.settings
        try:
            found = stored_evidence(self.folder)
        except ValueError as error:
            warn(f"{error} That is done now.")
            return None
        if found is None:
            return None
        stored = (found.samples, found.method, found.search.done, found.seed, found.data_sha256)
        some = test if wanted.number is None else test.head(wanted.number)
        sha256, _ = identity(self.config, some)
        same = (wanted.samples, wanted.method, wanted.search, wanted.seed, sha256)
        return found if stored == same else None

    def to_dict(self) -> dict[str, Any]:
        """Return the task as plain values, for another process."""
        return {
            "label": self.label,
            "folder": str(self.folder.resolve()),
            "config": self.config.to_dict(),
            "settings": asdict(self.settings),
            "resume": self.resume,
            "root": None if self.root is None else str(self.root),
            "device": self.device,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Task:
        """Build a task from the values of :meth:`to_dict`."""
        made = {
            "folder": Path(values["folder"]),
            "config": Config.from_dict(values["config"]),
            "settings": EvaluationSettings(**values["settings"]),
        }
        return cls(**{**values, **made})


def in_turn(
    tasks: Sequence[Task], say: Callable[[str], None], progress: bool | None
) -> dict[str, str]:
    """Do tasks one after the other.

    Returns:
        By label, why a task failed.
    """
    failures = {}
    for task in tasks:
        try:
            task.run(say, progress)
        except Exception as error:
            failures[task.label] = cause_of(error)
            say(f"{task.label}: failed: {failures[task.label]}")
    return failures


def in_processes(
    tasks: Sequence[Task], jobs: int, test: Data, say: Callable[[str], None]
) -> dict[str, str]:
    """Do tasks in so many processes at once, each of which ends with this one.

    Returns:
        By label, why a task failed.

    Raises:
        Interrupted: Ctrl-C; every process has saved its state.
    """
    waiting = [task for task in tasks if not task.is_done(test)]
    failures: dict[str, str] = {}
    running: list[_Process] = []
    done = len(tasks) - len(waiting)
    if done:
        say(f"{done} of {len(tasks)} runs are done")
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                task = waiting.pop(0)
                say(f"{task.label}: training")
                running.append(_Process.start(task))
            time.sleep(_LOOK_EVERY)
            for process in [one for one in running if one.popen.poll() is not None]:
                running.remove(process)
                done += 1
                label, cause = process.task.label, process.outcome()
                if cause:
                    failures[label] = cause
                how = f"failed: {cause}" if cause else "done"
                seconds = time.monotonic() - process.started
                say(f"{label}: {how} ({seconds:.0f} s; {done} of {len(tasks)} runs)")
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped with {done} of {len(tasks)} runs done; what the others had done is saved. "
            "Go on with --resume (resume=True)."
        ) from None
    finally:
        for process in running:
            process.let_go()
        for process in running:
            process.end()
    return failures


def cause_of(error: Exception) -> str:
    """Say in a line why a run failed."""
    text = " ".join(str(error).split())
    ours = isinstance(error, ValueError | TypeError | OSError | ImportError | ArithmeticError)
    return text if ours and text else f"{type(error).__name__}: {text}"


@dataclass(frozen=True)
class _Process:
    """A process that does one task.

    Its standard input is a lifeline: it stops and saves when that is closed, on purpose or since
    this process was killed. It says on its standard output, in lines of JSON, what went wrong.
    """

    task: Task
    popen: subprocess.Popen[bytes]
    out: IO[str]  # files, as pipes can be full
    log: IO[str]
    started: float

    @classmethod
    def start(cls, task: Task) -> _Process:
        out, log = (tempfile.TemporaryFile("w+", errors="replace") for _ in range(2))  # noqa: SIM115 end() closes them
        environment = {k: v for k, v in os.environ.items() if k not in _OF_TORCHRUN}
        popen = subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps(sys.path), json.dumps(task.to_dict())],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=log,
            env=environment | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C in a terminal is for this process alone
        )
        return cls(task, popen, out, log, time.monotonic())

    def outcome(self) -> str:
        """Say why the process failed, if it did; show its warnings."""
        self.out.seek(0)
        said = [json.loads(line) for line in self.out]
        for text in (one["warning"] for one in said if "warning" in one):
            warn(f"{self.task.label}: {text}")
        causes = [one["error"] for one in said if "error" in one]
        code = self.popen.returncode
        if code < 0:
            causes = [f"its process was killed by signal {-code}" + " (no memory?)" * (code == -9)]
        elif code and not causes:
            self.log.seek(0)
            causes = [(self.log.read().splitlines() or [f"exit code {code}"])[-1]]
        self.end()
        return "; ".join(causes)

    def let_go(self) -> None:
        """Ask the process to save and stop."""
        assert self.popen.stdin is not None
        with suppress(OSError):
            self.popen.stdin.close()

    def end(self) -> None:
        """Wait for the end of the process, or end it."""
        self.let_go()
        try:
            self.popen.wait(_PATIENCE)
        except BaseException:  # too slow, or a second Ctrl-C
            self.popen.kill()
            self.popen.wait()
        self.out.close()
        self.log.close()
