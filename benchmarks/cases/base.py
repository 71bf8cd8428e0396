"""What a case is, the table of all of them, and how a program is brought from Pyro's repository."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import ClippedAdam
from torch import Tensor, nn

from .references import Reference

__all__ = ["ARGUMENT", "CASES", "DISCRETE", "Brought", "Case", "Program", "Source", "case", "train"]

Program = Callable[..., Any]

DISCRETE = r"discrete|no density|continuous"
"""Words of a refusal of a method that needs continuous latents."""

ARGUMENT = r"must be a torch tensor.*got|is a dict|not tensors|no tensor|PackedSequence"
"""Words of a refusal of arguments that are no tensors."""


@dataclass(frozen=True)
class Brought:
    """A pair of programs as Pyro's users have it, trained, with its data.

    Attributes:
        model: Pyro program.
        guide: Pyro program.
        data: arguments of both, as a tuple.
        reference: log p(x) per datum, or one log p(D); None where it is not defined.
        objective: of Pyro, that the programs are trained with.
        ours: the package's objective in its place; by default ``pv.ELBO()``.
        options: keyword arguments of ``log_evidence``.
        number: of data, that ``fit`` takes its means over; by default the first argument's length.
        scale: of the programs' densities, which the package's ELBO leaves out.
        validated: False for programs written for MCMC, with batch dimensions outside plates.
        trains: False where ``pyro.infer.SVI`` cannot train them either.
    """

    model: Program
    guide: Program
    data: tuple[Any, ...]
    reference: Reference | None
    objective: Any = field(default_factory=Trace_ELBO)
    ours: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)
    number: int | None = None
    scale: float = 1.0
    validated: bool = True
    trains: bool = True

    def __len__(self) -> int:
        if self.number is not None:
            return self.number
        first = self.data[0] if self.data else None
        return len(first) if isinstance(first, Tensor) and first.dim() else 1


@dataclass(frozen=True)
class Case:
    """A program of Pyro's examples, tutorials or tests.

    Attributes:
        name: what it is, in the table.
        tries: what is peculiar to it.
        make: brings it from a checkout's folder; random state as it finds it.
        source: file in Pyro's repository; empty where the program is written anew.
        causes: by method (or ``"*"``), words of a refusal that names the true cause, as a regular
            expression; a refusal without them is misleading.
    """

    name: str
    tries: str
    make: Callable[[Source], Brought]
    source: str
    causes: Mapping[str, str]

    def build(self, folder: Path | None, seed: int = 0) -> Brought:
        """Bring it; the caller's random state is left as it was."""
        pyro.clear_param_store()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.make(Source(folder, self.source))

    def cause(self, method: str) -> str | None:
        """Words of a refusal by a method that names the true cause."""
        found = [self.causes[key] for key in (method, "*") if key in self.causes]
        return "|".join(found) or None


CASES: dict[str, Case] = {}
"""All cases by name."""


def case(
    name: str, tries: str, source: str = "", **causes: str
) -> Callable[[Callable[..., Brought]], Callable[..., Brought]]:
    """Enter the decorated function in the table.

    Args:
        name: of the case.
        tries: what is peculiar to it.
        source: file in Pyro's repository.
        causes: words of a true refusal by method; ``every`` stands for all methods.
    """

    def register(make: Callable[..., Brought]) -> Callable[..., Brought]:
        if name in CASES:
            raise ValueError(f"there is a case {name!r} already; give it another name.")
        own = {"*" if method == "every" else method: words for method, words in causes.items()}
        CASES[name] = Case(name, tries, make, source, own)
        return make

    return register


def train(
    model: Program,
    guide: Program,
    data: Sequence[Any],
    *,
    steps: int = 300,
    objective: Any = None,
    learning_rate: float = 0.02,
    validated: bool = True,
) -> None:
    """Train by ``pyro.infer.SVI``, with a step size that falls to a hundredth.

    Programs written for MCMC may have batch dimensions outside plates: ``validated=False``.
    """
    decay = 0.01 ** (1 / steps)
    optimizer = ClippedAdam({"lr": learning_rate, "lrd": decay})
    svi = SVI(model, guide, optimizer, objective or Trace_ELBO())
    with pyro.validation_enabled(validated):
        for _ in range(steps):
            svi.step(*data)
    for program in (model, guide):  # as a user does before an evaluation
        owner = getattr(program, "__self__", program)
        if isinstance(owner, nn.Module):
            owner.eval()


@dataclass(frozen=True)
class Source:
    """Where a case's program comes from.

    Attributes:
        folder: a checkout of Pyro's repository.
        path: the file in it.
    """

    folder: Path | None
    path: str

    @property
    def file(self) -> Path:
        """The file itself."""
        if self.folder is None:
            raise ValueError(f"{self.path} needs the folder of a checkout of Pyro.")
        return self.folder / self.path

    def module(self, path: str = "") -> Any:
        """Import the file (or another) by its path, without running its ``main()``.

        What it imports and this machine lacks (plots, downloads) is stood in for; the modules
        beside it are importable while it is imported, and forgotten then.
        """
        file = self.file if not path else self.folder / path  # type: ignore[operator]
        name = f"brought_{file.parent.name}_{file.stem}".replace("-", "_")
        spec = importlib.util.spec_from_file_location(name, file)
        if spec is None or spec.loader is None:
            raise ValueError(f"{file} is no Python module.")
        module = importlib.util.module_from_spec(spec)
        with _as_script(file.parent):
            spec.loader.exec_module(module)
        return module


class _Absent(types.ModuleType):
    """A module that is not installed, of which any name can be imported."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


_OPTIONAL = ("visdom", "wget", "seaborn", "scanpy")


@contextlib.contextmanager
def _as_script(folder: Path) -> Iterator[None]:
    """Import as a script of a folder would, and undo what importing changes."""
    before = set(sys.modules)
    root = logging.getLogger()
    handlers, level, dtype = root.handlers[:], root.level, torch.get_default_dtype()
    for name in _OPTIONAL:
        if name not in sys.modules and importlib.util.find_spec(name) is None:
            sys.modules[name] = _Absent(name)
    sys.path.insert(0, str(folder))
    try:
        with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(None):
            yield
    finally:
        sys.path.remove(str(folder))
        root.handlers[:], root.level = handlers, level
        torch.set_default_dtype(dtype)
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            beside = file is not None and Path(file).is_relative_to(folder)
            if beside or isinstance(sys.modules[name], _Absent):
                del sys.modules[name]
