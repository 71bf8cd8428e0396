"""Where the promise holds: log p(x) with an error to trust, a warning, or a refusal.

``python benchmarks/torture.py`` estimates log p(x) by every method in situations whose log p(x) is
known exactly (`situations/`) and prints a table; ``--out docs/torture.md`` writes it as a document
that says how to read it.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import platform
import time
import traceback
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pyro
import torch
from situations import SITUATIONS, Posed, Situation
from torch import Tensor
from tqdm import tqdm

import pyro_vae as pv
from pyro_vae.common.tables import align

METHODS = ("guide", "refined", "laplace", "modes", "annealed", "auto")
CHEAP = ("guide", "laplace")
ALLOWANCE = 0.001  # nats
WRONG = 4.0  # stated errors
GOOD_WEIGHTS = 0.5  # of ESS / K
GOAL = 0.005  # share of silent data
GOAL_METHOD = "auto"


@dataclass(frozen=True)
class Outcome:
    """One method in one situation.

    Attributes:
        situation: its name.
        method: of ``log_evidence``.
        seconds: time taken.
        warned: whether the package warned.
        doubts: reasons for the flags.
        refusal: what it said instead of an estimate.
        failure: an exception that is no refusal.
        error: estimates minus exact values in nats, shape ``(N,)``, as all that follow.
        stated: their standard errors.
        flagged: data that the package doubts.
        weights: ESS / K.
        mean_error: error of the mean.
        mean_stated: its Monte-Carlo error.
    """

    situation: str
    method: str
    seconds: float
    warned: bool = False
    doubts: tuple[str, ...] = ()
    refusal: str = ""
    failure: str = ""
    error: Tensor = field(default_factory=lambda: torch.empty(0))
    stated: Tensor = field(default_factory=lambda: torch.empty(0))
    flagged: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.bool))
    weights: Tensor = field(default_factory=lambda: torch.empty(0))
    mean_error: float = math.nan
    mean_stated: float = math.nan

    @property
    def answered(self) -> bool:
        """Whether there is an estimate."""
        return not (self.refusal or self.failure)

    def within(self, errors: float) -> Tensor:
        """Whether each estimate is within so many stated errors of the exact value."""
        return self.error.abs() <= errors * self.stated + ALLOWANCE

    @property
    def silent(self) -> Tensor:
        """Data that are wrong and not flagged."""
        return ~self.within(WRONG) & ~self.flagged

    @property
    def deviation(self) -> Tensor:
        """Errors in stated errors, of the data that are not flagged."""
        return (self.error / self.stated.hypot(torch.tensor(ALLOWANCE)))[~self.flagged]

    @property
    def mean_deviation(self) -> float:
        """Error of the mean in its own errors."""
        return self.mean_error / math.hypot(self.mean_stated, ALLOWANCE)

    @property
    def wrong_mean(self) -> bool:
        """Whether the mean is wrong."""
        return self.answered and not (abs(self.mean_error) <= WRONG * self.mean_stated + ALLOWANCE)

    @property
    def silent_mean(self) -> bool:
        """Whether the mean is wrong, and nothing says so."""
        return self.wrong_mean and not (self.warned or bool(self.flagged.any()))


def evaluate(situation: Situation, method: str, posed: Posed, seed: int = 0) -> Outcome:
    """Estimate log p(x) and compare."""
    start = time.perf_counter()
    data = posed.data if len(posed.data) > 1 else posed.data[0]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            evidence = pv.log_evidence(
                posed.model, posed.guide, data, method=method, seed=seed, **posed.options
            )
        except Exception as problem:
            kind = "refusal" if _refuses(problem) else "failure"
            said = f"{type(problem).__name__}: {problem}".splitlines()[0]
            seconds = time.perf_counter() - start
            return Outcome(situation.name, method, seconds, **{kind: said})
    mean = evidence.mean()
    return Outcome(
        situation.name,
        method,
        time.perf_counter() - start,
        warned=any(issubclass(w.category, pv.PyroVAEWarning) for w in caught),
        doubts=tuple(reason for reason, which in evidence.doubts().items() if which.any()),
        error=evidence.log_px - posed.exact,
        stated=evidence.standard_error,
        flagged=evidence.unreliable(),
        weights=evidence.ess / evidence.draws,
        mean_error=mean.value - posed.exact.mean().item(),
        mean_stated=mean.mc_error,
    )


COLUMNS = {
    "situation": "the programs and data",
    "method": "of `log_evidence`",
    "bias": "mean of `log_px` minus exact value, in nats, over the data with a finite estimate",
    "rms z": "root mean square of the error in stated errors, of data that are not flagged; near 1",
    "coverage": "share of the data that are not flagged within 1.96 stated errors; near 95 %",
    "mean z": "error of the mean over the data in its Monte-Carlo errors",
    "flagged": "share of the data whose verdict is doubtful (`Evidence.unreliable()`)",
    "doubts": "why: the reasons of `Evidence.doubts()`",
    "warned": "whether the package warned",
    "silent": f"share of the data that are wrong and not flagged: more than {WRONG:g} stated "
    f"errors plus {ALLOWANCE:g} nat from the exact value, or not a number",
    "silent mean": "SILENT: the mean is wrong by that measure, with no flag and no warning",
    "s": "seconds",
}
HEAD = tuple(COLUMNS)


def row(outcome: Outcome) -> list[str]:
    """One line of the table."""
    first, last = [outcome.situation, outcome.method], f"{outcome.seconds:.1f}"
    if not outcome.answered:
        return [*first, "refused" if outcome.refusal else "FAILED", *["–"] * 8, last]
    finite = outcome.error[outcome.error.isfinite()]
    return [
        *first,
        _number(_mean(finite), "+.3f"),
        _number(_mean(outcome.deviation.square()) ** 0.5, ".2f"),
        _percent(outcome.within(1.96)[~outcome.flagged]),
        _number(outcome.mean_deviation, "+.1f"),
        _percent(outcome.flagged),
        ", ".join(outcome.doubts),
        "yes" if outcome.warned else "no",
        _percent(outcome.silent),
        "SILENT" if outcome.silent_mean else "",
        last,
    ]


SUMMARY_HEAD = (
    "method", "worst silent share", f"rows > {GOAL:.1%}", "wrong means", "silent means", "coverage",
    "false alarms", "refused", "failed", "s",
)  # fmt: skip


def summary_row(method: str, outcomes: Sequence[Outcome]) -> list[str]:
    """What a method did over all situations."""
    own = [outcome for outcome in outcomes if outcome.method == method]
    answered = [outcome for outcome in own if outcome.answered]
    shares = [_mean(outcome.silent) for outcome in answered]
    worst = max(shares, default=math.nan)
    good = [(o.weights > GOOD_WEIGHTS) & o.within(WRONG) for o in answered]
    return [
        method,
        f"{worst:.0%}" + f" ({sum(share == worst for share in shares)} rows)" * (worst > 0),
        f"{sum(share > GOAL for share in shares)}",
        f"{sum(o.wrong_mean for o in answered)}",
        f"{sum(o.silent_mean for o in answered)}",
        _percent(_shares(o.within(1.96)[~o.flagged] for o in answered)),
        _percent(_shares(o.flagged[g] for o, g in zip(answered, good, strict=True))),
        f"{sum(bool(o.refusal) for o in own)}",
        f"{sum(bool(o.failure) for o in own)}",
        f"{sum(o.seconds for o in own):.0f}",
    ]


SUMMARY_NOTE = (
    f"rows > {GOAL:.1%}: situations with more silent data than that; wrong means, silent means: "
    "situations whose mean is wrong, and of these the ones with no flag and no warning; coverage: "
    "of the intervals of 1.96 errors of data that are not flagged, mean over the situations; false "
    f"alarms: share flagged of the data with ESS/K > {GOOD_WEIGHTS} that are not wrong, likewise."
)


def misses(outcomes: Sequence[Outcome], method: str) -> list[Outcome]:
    """Answers of a method with more silent data than the goal allows, most first."""
    found = [o for o in outcomes if o.method == method and _mean(o.silent) > GOAL]
    return sorted(found, key=lambda o: -_mean(o.silent))


def reason(outcome: Outcome) -> str:
    """How the silent data of an outcome are wrong, in words."""
    error, stated = outcome.error[outcome.silent], outcome.stated[outcome.silent]
    finite = error.isfinite() & stated.isfinite()
    parts = []
    if not finite.all():
        parts.append(f"{int((~finite).sum())} have no finite estimate or error")
    if finite.any():
        error, stated = error[finite], stated[finite]
        side = "low" if (error < 0).all() else "high" if (error > 0).all() else "low or high"
        size = error.abs().median()
        times = _number((error.abs() / stated).median().item(), ".0f")
        parts.append(f"{side} by {size:.3f} nats or {times.lstrip('+')} stated errors (medians)")
    others = ", ".join(outcome.doubts)
    parts.append(f"others are flagged: {others}" if others else "none is flagged")
    parts.append("with a warning" if outcome.warned else "without a warning")
    return "; ".join(parts)


def silent_rows(outcomes: Sequence[Outcome], method: str) -> list[str]:
    """Situations that miss the goal under a method, with the reasons, most silent first."""
    return [
        f"{o.situation}: {_mean(o.silent):.1%} silent, {reason(o)}"
        for o in misses(outcomes, method)
    ]


def report(outcomes: Sequence[Outcome], methods: Sequence[str], seed: int = 0) -> str:
    """Everything as a Markdown document."""
    tried = list(dict.fromkeys(o.situation for o in outcomes))
    kinds = dict.fromkeys(SITUATIONS[name].kind for name in tried)
    lines = [
        "# Where log p(x) can be trusted",
        "",
        "`log_evidence` promises log p(x) per datum with an error bar to trust, or a verdict that "
        "says which data are doubtful and why, or a refusal. Here the promise is put to the test, "
        "where log p(x) is known exactly: in closed form, or by quadrature in float64. The "
        "programs are in float32, most data are simulated from the model, and every setting but "
        "`method` is the default, unless a situation is about it.",
        "",
        f"Written by `python benchmarks/torture.py --out docs/torture.md`: {len(tried)} of "
        f"{len(SITUATIONS)} situations, seed {seed}, on {platform.machine()} with torch "
        f"{torch.__version__.partition('+')[0]} and Pyro {pyro.__version__}.",
        "",
        f"**The goal:** with `method={GOAL_METHOD!r}`, no situation has more than {GOAL:.1%} of "
        "silent data: wrong by more than the error says, and not flagged. An estimate that is "
        "flagged or refused is a loss; one that is silently wrong is a broken promise.",
        "",
        "## Summary",
        "",
        *_markdown([SUMMARY_HEAD, *(summary_row(method, outcomes) for method in methods)]),
        "",
        SUMMARY_NOTE[0].upper() + SUMMARY_NOTE[1:],
        "",
    ]
    if GOAL_METHOD in methods:
        own = [o for o in outcomes if o.method == GOAL_METHOD and o.answered]
        met = len(own) - len(misses(outcomes, GOAL_METHOD))
        lines += [f"`{GOAL_METHOD}` meets the goal in {met} of the {len(own)} situations that it "]
        lines[-1] += "answers."
        lines += [""]
    lines += ["## How to read the tables", "", *_markdown(list(_of_columns())), ""]
    for kind in kinds:
        names = [name for name in tried if SITUATIONS[name].kind == kind]
        lines += [f"## {kind}", ""]
        lines += [f"- *{name}*: {SITUATIONS[name].tries}" for name in names]
        lines += ["", *_markdown([HEAD, *(row(o) for o in outcomes if o.situation in names)]), ""]
    lines += ["## Rows that miss the goal", ""]
    for method in sorted(methods, key=lambda name: name != GOAL_METHOD):
        own = silent_rows(outcomes, method)
        lines += [f"`{method}`: {'' if own else 'none.'}".rstrip(), ""]
        lines += [*(f"- {line}" for line in own), *[""] * bool(own)]
    lines += ["## Refused or failed", "", "A refusal says in a sentence what to do instead.", ""]
    said = [o for o in outcomes if not o.answered]
    lines += [f"- {o.situation}, `{o.method}`: {o.refusal or o.failure}" for o in said] or ["None."]
    return "\n".join([*lines, ""])


def _of_columns() -> Iterable[tuple[str, str]]:
    yield "column", "meaning"
    yield from COLUMNS.items()


def chosen(names: Sequence[str], *, short: bool) -> list[Situation]:
    """Situations whose name holds one of some texts (all, by default).

    Raises:
        ValueError: a text that is in no name.
    """
    for text in names:
        if not any(text in name for name in SITUATIONS):
            raise ValueError(f"no situation has {text!r} in its name; --list names all of them.")
    return [
        s
        for s in SITUATIONS.values()
        if (s.short or not short) and (not names or any(text in s.name for text in names))
    ]


def tried(name: str, methods: Sequence[str], seed: int) -> list[Outcome]:
    """Every method in one situation."""
    torch.set_num_threads(1)
    posed = SITUATIONS[name].build(seed)
    return [evaluate(SITUATIONS[name], method, posed, seed) for method in methods]


def main(
    situations: Sequence[Situation],
    methods: Sequence[str],
    out: Path | None,
    seed: int = 0,
    jobs: int = 1,
) -> None:
    """Estimate, in some processes of one thread each; print the tables, write them."""
    names = [situation.name for situation in situations]
    work = partial(tried, methods=methods, seed=seed)
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        done = tqdm(pool.map(work, names), total=len(names), unit="situation")
        outcomes = [outcome for part in done for outcome in part]
    print(*align([HEAD, *map(row, outcomes)]), "", sep="\n")
    print(*align([SUMMARY_HEAD, *(summary_row(m, outcomes) for m in methods)]), sep="\n")
    print(f"\n{SUMMARY_NOTE}")
    for method in methods:
        found = silent_rows(outcomes, method) or ["none"]
        print(f"\nmore than {GOAL:.1%} silent with {method}:", *found, sep="\n  ")
    if out is not None:
        out.write_text(report(outcomes, methods, seed))
        print(f"\ntable: {out}")


def _refuses(problem: Exception) -> bool:
    """Whether an exception is a sentence of the package itself."""
    raised_in = Path(traceback.extract_tb(problem.__traceback__)[-1].filename)
    return isinstance(problem, ValueError) and raised_in.is_relative_to(Path(pv.__file__).parent)


def _mean(values: Tensor) -> float:
    return values.double().mean().item() if len(values) else math.nan


def _number(value: float, form: str) -> str:
    """A number in its form, or with its power of ten, or nothing."""
    if math.isnan(value):
        return "–"
    return f"{value:+.0e}" if abs(value) >= 1e5 else f"{value:{form}}"


def _percent(values: Tensor) -> str:
    return f"{_mean(values):.0%}" if len(values) else "–"


def _shares(parts: Iterable[Tensor]) -> Tensor:
    """Share of True in each part that is not empty."""
    return torch.tensor([_mean(part) for part in parts if len(part)])


def _markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    head, *body = [f"| {' | '.join(cells)} |" for cells in rows]
    return [head, "|---" * len(rows[0]) + "|", *body]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="parts of names")
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="by default all")
    parser.add_argument("--short", action="store_true", help="few situations, cheap methods")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="write the table as Markdown")
    parser.add_argument("--seed", type=int, default=0, help="of the data and of the draws")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--list", action="store_true", help="name the situations and end")
    arguments = parser.parse_args()
    if arguments.list:
        print(*(f"{s.name}: {s.tries}" for s in SITUATIONS.values()), sep="\n")
        parser.exit()
    try:
        picked = chosen(arguments.only, short=arguments.short)
    except ValueError as error:
        parser.error(str(error))
    methods = arguments.methods or (CHEAP if arguments.short else METHODS)
    main(picked, methods, arguments.out, arguments.seed, arguments.jobs)
