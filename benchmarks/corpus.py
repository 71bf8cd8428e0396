"""What happens to the programs of Pyro's examples, tutorials and tests, given as they are.

``PYRO_CORPUS=folder python benchmarks/corpus.py`` takes a checkout of Pyro's repository, brings its
programs (`cases/`), asks for log p(x) by two methods, for a certificate and for training, and holds
the answers against Pyro's own; ``--out docs/corpus.md`` writes the table as a document.
``--own-tests`` runs Pyro's tests of inference with the package's objectives in place of Pyro's.
"""

from __future__ import annotations

import argparse
import dis
import math
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyro
import torch
from cases import CASES, Brought, Case
from pyro.poutine.runtime import _DIM_ALLOCATOR, _PYRO_STACK
from torch import Tensor, nn
from tqdm import tqdm

import pyro_vae as pv
from pyro_vae.common.tables import align

FOLDER = "PYRO_CORPUS"
METHODS = ("guide", "auto", "certify", "fit")
ERRORS = 5.0  # stated errors, of some three hundred comparisons
ALLOWANCE = 0.01  # nats
EVALUATIONS = 20  # of an ELBO
SAMPLES = 500

OUTCOMES = {
    "right": "a number that agrees with Pyro's within the errors of both",
    "flagged": "a number that disagrees, which the package itself marks as doubtful",
    "refused": "a sentence that names the true cause",
    "misleading": "a sentence that names another cause",
    "wrong": "a number that disagrees, and nothing says so",
    "foreign": "an exception raised outside the package's modules, or by a slip in them",
    "slow": "no answer within the time limit",
}
BAD = ("misleading", "wrong", "foreign")


@dataclass(frozen=True)
class Verdict:
    """What a method made of a case.

    Attributes:
        case: its name.
        method: of ``METHODS``.
        outcome: of ``OUTCOMES``.
        said: numbers, or the message.
        seconds: time taken, of the processor.
    """

    case: str
    method: str
    outcome: str
    said: str
    seconds: float


class OutOfTime(BaseException):
    """The time limit, which no ``except Exception`` takes for an answer."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Stop what takes longer, in seconds of the processor: a busy machine changes nothing."""

    def stop(signum: int, frame: Any) -> None:
        raise OutOfTime

    before, handlers = signal.signal(signal.SIGPROF, stop), list(_PYRO_STACK)
    plates = list(_DIM_ALLOCATOR._stack)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        # stopped as it left, a handler or a plate would stay for the next program
        _PYRO_STACK[:], _DIM_ALLOCATOR._stack[:] = handlers, plates


def refuses(problem: BaseException) -> bool:
    """Whether an exception is a sentence of the package: raised by a ``raise`` of its modules."""
    last = problem.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None:
        return False
    code = last.tb_frame.f_code
    own = Path(code.co_filename).is_relative_to(Path(pv.__file__).parent)
    raised = any(
        step.offset == last.tb_lasti and step.opname == "RAISE_VARARGS"
        for step in dis.get_instructions(code)
    )
    kinds = (ValueError, TypeError, NotImplementedError, pv.NonFiniteLoss)
    return own and raised and isinstance(problem, kinds)


def agree(value: Tensor, error: Tensor, other: Tensor, its_error: Tensor) -> Tensor:
    """Whether two estimates agree within the errors of both."""
    rounding = 1e-5 * other.abs()
    return (value - other).abs() <= ERRORS * error.hypot(its_error) + ALLOWANCE + rounding


def judged(
    case: Case, method: str, attempt: Callable[[], tuple[str, str]], limit: float
) -> Verdict:
    """Make an attempt within a time limit, and say what came of it."""
    start = time.process_time()
    try:
        with limited(limit), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcome, said = attempt()
    except OutOfTime:
        outcome, said = "slow", f"more than {limit:g} s"
    except Exception as problem:
        said = " ".join(f"{type(problem).__name__}: {problem}".split())
        cause = case.cause(method)
        if not refuses(problem):
            outcome, said = "foreign", f"{said} [{_place(problem)}]"
        else:
            named = cause is not None and re.search(cause, said, re.I)
            outcome = "refused" if named else "misleading"
    return Verdict(case.name, method, outcome, said, time.process_time() - start)


def _place(problem: BaseException) -> str:
    """Where the package called what raised, and where it was raised."""
    frames = traceback.extract_tb(problem.__traceback__)
    inside = [f for f in frames if Path(f.filename).is_relative_to(Path(pv.__file__).parent)]
    shown = [*inside[-1:], *frames[-1:]]
    return " > ".join(dict.fromkeys(f"{Path(f.filename).name}:{f.lineno}" for f in shown))


def evidence_of(brought: Brought, method: str) -> tuple[str, str]:
    """Ask for log p(x), and hold it against the reference."""
    options = {"samples": SAMPLES, **brought.options}
    evidence = pv.log_evidence(
        brought.model, brought.guide, _argument(brought), method=method, progress=False, **options
    )
    shown = _shown(evidence.log_px, evidence.standard_error)
    if brought.reference is None:
        return "wrong", f"{shown}, where log p(x) is not defined"
    value, error = brought.reference.value, brought.reference.error
    if evidence.log_px.shape != value.shape:
        return "wrong", f"{len(evidence)} values, where there are {len(value)}"
    good = agree(evidence.log_px, evidence.standard_error, value, error)
    said = f"{shown}; reference {_shown(value, error)}"
    if good.all():
        return "right", said
    doubted = evidence.unreliable() | bool(evidence.search.found)
    return ("flagged" if (good | doubted).all() else "wrong"), said


def certificate_of(brought: Brought) -> tuple[str, str]:
    """Ask for bounds: the upper one may not lie below the lower one, nor below the estimate."""
    certificate = pv.certify(
        brought.model,
        brought.guide,
        _argument(brought),
        number=8,
        samples=200,
        annealing=pv.Annealing(temperatures=15, chains=8),
        progress=False,
    )
    (gap, gap_error), (short, short_error) = certificate.gap, certificate.shortfall
    noise = certificate.lower_error.hypot(certificate.upper_error).square().mean().sqrt().item()
    said = f"gap {gap:+.3f} ± {gap_error:.3f}, shortfall {short:+.3f} ± {short_error:.3f}"
    allowed = [
        -ALLOWANCE - ERRORS * math.hypot(e, noise / math.sqrt(len(certificate)))
        for e in (gap_error, short_error)
    ]
    good = gap >= allowed[0] and (short >= allowed[1] or certificate.evidence.unreliable().any())
    return ("right" if good else "wrong"), said


def training_of(brought: Brought) -> tuple[str, str]:
    """Train: the ELBO is Pyro's own, and what is trained is what Pyro's store then holds."""
    model, guide, data = brought.model, brought.guide, brought.data
    with _training(model, guide):
        losses = [brought.objective.loss(model, guide, *data) for _ in range(EVALUATIONS)]
    own = -torch.tensor(losses, dtype=torch.float64) / brought.scale
    program = pv.as_program(model, guide, *data)
    options: dict[str, Any] = {
        "objective": brought.ours,
        "batch_size": 10**6,
        "device": "cpu",
        "progress": False,
    }
    still = pv.fit(program, _argument(brought), epochs=EVALUATIONS, learning_rate=1e-12, **options)
    column = torch.tensor([e.train_elbo for e in still.epochs], dtype=torch.float64)
    elbo = column * len(brought)
    moments = [(t.mean(), t.std() / math.sqrt(len(t))) for t in (elbo, own)]
    said = f"ELBO {_shown(*moments[0])}; Pyro's {_shown(*moments[1])}"
    if not agree(*moments[0], *moments[1]):
        return "wrong", said
    before = [p.detach().clone() for p in program.parameters()]
    pv.fit(program, _argument(brought), epochs=3, learning_rate=1e-3, **options)
    after = [p.detach() for p in program.parameters()]
    if not all(p.isfinite().all() for p in after):
        return "wrong", f"{said}; parameters are not finite then"
    if all(torch.equal(p, q) for p, q in zip(before, after, strict=True)):
        return "wrong", f"{said}; no parameter moves"
    return "right", said


@contextmanager
def _training(*programs: Any) -> Iterator[None]:
    """Modules in ``train()`` mode, as ``fit`` has them."""
    owners = [getattr(program, "__self__", program) for program in programs]
    modules = [m for owner in owners if isinstance(owner, nn.Module) for m in owner.modules()]
    flags = [module.training for module in modules]
    for module in modules:
        module.training = True
    try:
        yield
    finally:
        for module, flag in zip(modules, flags, strict=True):
            module.training = flag


def _argument(brought: Brought) -> Any:
    """Data as a user hands them over."""
    return brought.data[0] if len(brought.data) == 1 else brought.data


def _shown(value: Tensor, error: Tensor) -> str:
    """The sum with its error."""
    return f"{value.sum().item():.2f} ± {error.square().sum().sqrt().item():.2f}"


ATTEMPTS: dict[str, Callable[[Brought], tuple[str, str]]] = {
    "guide": lambda brought: evidence_of(brought, "guide"),
    "auto": lambda brought: evidence_of(brought, "auto"),
    "certify": certificate_of,
    "fit": training_of,
}


def judge(
    case: Case, folder: Path | None, methods: Sequence[str], limit: float
) -> Iterator[Verdict]:
    """Bring a case once, and try the methods in their order (training comes last)."""
    dtype = torch.get_default_dtype()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        brought = case.build(folder)
    for method in methods:
        if method == "fit" and not brought.trains:
            continue
        with torch.random.fork_rng(devices=[]), pyro.validation_enabled(brought.validated):
            torch.manual_seed(1)
            attempt = ATTEMPTS[method]
            verdict = judged(case, method, lambda a=attempt: a(brought), limit)
        yield verdict
    pyro.clear_param_store()
    torch.set_default_dtype(dtype)


HEAD = ("case", "method", "outcome", "s", "what it said")


def row(verdict: Verdict, width: int = 160) -> list[str]:
    """One line of the table."""
    seconds, said = f"{verdict.seconds:.1f}", _clipped(verdict.said, width)
    return [verdict.case, verdict.method, verdict.outcome, seconds, said]


def _clipped(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


SUMMARY_HEAD = ("method", *OUTCOMES)


def summary(verdicts: Sequence[Verdict]) -> list[list[str]]:
    """How many cases came out how, by method, and the share that is right untouched."""
    lines = []
    methods = [m for m in METHODS if any(v.method == m for v in verdicts)]
    for method in (*methods, "all"):
        own = [v for v in verdicts if method in (v.method, "all")]
        counts = [sum(v.outcome == outcome for v in own) for outcome in OUTCOMES]
        right = f"{counts[0]} of {len(own)} ({counts[0] / len(own):.0%})" if own else "–"
        lines.append([method, right, *map(str, counts[1:])])
    return lines


def report(verdicts: Sequence[Verdict]) -> str:
    """Everything as a Markdown document."""
    cases = list(dict.fromkeys(v.case for v in verdicts))
    bad = [v for v in verdicts if v.outcome in BAD]
    lines = [
        "# What happens to Pyro's own programs",
        "",
        "The programs of Pyro's examples, and others in the style of its tutorials and tests, are "
        "given to the package as they are: brought from a checkout of Pyro's repository, trained "
        "briefly by `pyro.infer.SVI` with small data, and not restated in any line. Each is asked "
        "for log p(x) from its guide and by `auto`, for a certificate, and for training by "
        "`fit(as_program(...))`; the answers are held against Pyro's own importance weights, its "
        "enumeration, or the exact value.",
        "",
        f"Written by `{FOLDER}=folder python benchmarks/corpus.py --out docs/corpus.md`: "
        f"{len(cases)} of {len(CASES)} cases, on {platform.machine()} with torch "
        f"{torch.__version__.partition('+')[0]} and Pyro {pyro.__version__}.",
        "",
        "## Summary",
        "",
        *_markdown([SUMMARY_HEAD, *summary(verdicts)]),
        "",
        *_markdown([("outcome", "meaning"), *OUTCOMES.items()]),
        "",
        "## Cases",
        "",
        *_markdown([("case", *METHODS, "what is peculiar to it"), *map(_line(verdicts), cases)]),
        "",
        "## Misleading, wrong or foreign",
        "",
        *([f"- {v.case}, `{v.method}`, {v.outcome}: {_cell(v.said)}" for v in bad] or ["None."]),
        "",
        "## Refused with the true cause",
        "",
        *(
            [
                f"- {v.case}, `{v.method}`: {_cell(v.said)}"
                for v in verdicts
                if v.outcome == "refused"
            ]
            or ["None."]
        ),
        "",
    ]
    return "\n".join(lines)


def _line(verdicts: Sequence[Verdict]) -> Callable[[str], list[str]]:
    outcomes = {(v.case, v.method): v.outcome for v in verdicts}

    def line(name: str) -> list[str]:
        tries = CASES[name].tries if name in CASES else ""
        return [name, *(outcomes.get((name, method), "–") for method in METHODS), tries]

    return line


def _cell(text: str) -> str:
    return _clipped(text, 300).replace("|", "\\|")


def _markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    head, *body = [f"| {' | '.join(map(_cell, cells))} |" for cells in rows]
    return [head, "|---" * len(rows[0]) + "|", *body]


def chosen(names: Sequence[str]) -> list[Case]:
    """Cases whose name holds one of some texts (all, by default).

    Raises:
        ValueError: a text that is in no name.
    """
    for text in names:
        if not any(text in name for name in CASES):
            raise ValueError(f"no case has {text!r} in its name; --list names all of them.")
    return [c for c in CASES.values() if not names or any(text in c.name for text in names)]


def main(
    cases: Sequence[Case],
    folder: Path | None,
    methods: Sequence[str] = METHODS,
    out: Path | None = None,
    limit: float = 60.0,
) -> list[Verdict]:
    """Try everything, print the tables, write them."""
    verdicts: list[Verdict] = []
    with tqdm(cases) as bar:
        for case in bar:
            bar.set_description(case.name)
            for verdict in judge(case, folder, methods, limit):
                bar.set_postfix_str(f"{verdict.method}: {verdict.outcome}")
                verdicts.append(verdict)
    print(*align([HEAD, *map(row, verdicts)]), "", sep="\n")
    print(*align([SUMMARY_HEAD, *summary(verdicts)]), sep="\n")
    if out is not None:
        out.write_text(report(verdicts))
        print(f"\ntable: {out}")
    return verdicts


TESTS = ("valid_models", "multi_sample_elbos", "gradient", "inference")


def own_tests(folder: Path, names: Sequence[str] = TESTS) -> dict[str, dict[str, str]]:
    """Run Pyro's tests with its objectives and with the package's.

    Returns:
        By ``"pyro"`` and ``"ours"``, the first line of each failure by the test's name.
    """
    found = {}
    here = Path(__file__).parent
    for whose in ("pyro", "ours"):
        with tempfile.TemporaryDirectory() as scratch:
            results = Path(scratch) / "results.xml"
            files = [f"tests/infer/test_{name}.py" for name in names]
            options = ["-p", "own_tests", "-p", "no:cacheprovider", "-q", "--tb=line"]
            subprocess.run(
                [sys.executable, "-P", "-m", "pytest", *options, f"--junitxml={results}", *files],
                cwd=folder,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join([str(here.parent), str(here)]),
                    "PYTHONDONTWRITEBYTECODE": "1",
                    "PYRO_CORPUS_OBJECTIVES": whose,
                },
                check=False,
            )
            found[whose] = failures(results)
    return found


def failures(results: Path) -> dict[str, str]:
    """First line of each failure in a JUnit file, by the test's name."""
    cases = ElementTree.parse(results).getroot().iter("testcase")
    found = {}
    for case in cases:
        for kind in ("failure", "error"):
            problem = case.find(kind)
            if problem is not None:
                name = f"{case.get('classname', '').rpartition('infer.')[2]}.{case.get('name')}"
                found[name] = " ".join((problem.get("message") or "").split())
    return found


def print_own_tests(found: dict[str, dict[str, str]]) -> None:
    """Name what fails with the package's objectives alone."""
    own, ours = found["pyro"], found["ours"]
    added = {name: said for name, said in ours.items() if name not in own}
    print(f"{len(own)} fail with Pyro's objectives, {len(ours)} with the package's; only with it:")
    print(*(f"  {name}: {said[:200]}" for name, said in added.items()), sep="\n")
    for name in own.keys() - ours.keys():
        print(f"  (fails with Pyro's alone: {name})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="parts of names")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="write the table as Markdown")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds of one attempt")
    parser.add_argument("--list", action="store_true", help="name the cases and end")
    parser.add_argument("--own-tests", action="store_true", help="run Pyro's tests of inference")
    arguments = parser.parse_args()
    if arguments.list:
        print(*(f"{c.name}: {c.tries}" for c in CASES.values()), sep="\n")
        parser.exit()
    if FOLDER not in os.environ:
        parser.error(
            f"{FOLDER} is not set: it names the folder of a checkout of Pyro's repository "
            "(git clone https://github.com/pyro-ppl/pyro), whose programs are brought from there."
        )
    folder = Path(os.environ[FOLDER]).resolve()
    if arguments.own_tests:
        print_own_tests(own_tests(folder))
        parser.exit()
    try:
        picked = chosen(arguments.only)
    except ValueError as error:
        parser.error(str(error))
    main(picked, folder, arguments.methods, arguments.out, arguments.limit)
