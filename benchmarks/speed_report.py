"""Tables and figure of ``speed.py``."""

import statistics
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from speed_peers import EVENT, HIDDEN, LATENT

from pyro_vae.common.tables import align
from pyro_vae.plots import Figure
from pyro_vae.plots.style import BLUE, EDGE, INK, MUTED, ORANGE, SKY, styled, titled

PYRO, EAGER, NUMPYRO, PYTHAE = (
    "Pyro, as in its tutorial",
    "PyTorch, eager",
    "NumPyro, jitted",
    "Pythae",
)
OURS, HALF, LIMIT = "pyro_vae, fp32", "pyro_vae, bf16", "matrix product"
FIT, BARE = "fit, compiled", "bare compiled steps"
PLAIN, COMPILED = "by handlers", "compiled"

STEP = (PYRO, EAGER, "PyTorch, torch.compile", NUMPYRO, OURS, HALF)
EVIDENCE = (EAGER, PYTHAE, NUMPYRO, OURS, HALF)

_ENCODER = EVENT * HIDDEN + 2 * HIDDEN * LATENT
_DECODER = LATENT * HIDDEN + HIDDEN * EVENT
_FIRST = EVENT * HIDDEN
STEP_FLOP = 2 * (3 * (_ENCODER + _DECODER) - _FIRST)  # a datum; nobody needs the gradient of x
WEIGHT_FLOP = 2 * _DECODER  # an importance sample
LIMIT_FLOP = 2 * 2048 * 400 * 784


def speedup(results: dict[str, dict], label: str, reference: str) -> float | None:
    """How many times faster than a reference: median of the ratios within rounds."""
    if label not in results or reference not in results:
        return None
    pairs = zip(results[reference]["seconds"], results[label]["seconds"], strict=True)
    return statistics.median(theirs / ours for theirs, ours in pairs)


def gflops(results: dict[str, dict], label: str, flop: float) -> float:
    """Arithmetic per second at the median, in GFLOP/s."""
    return flop / results[label]["median"] / 1e9


def limit(results: dict[str, dict]) -> float:
    """The measured limit in the same rounds, in GFLOP/s."""
    return gflops(results, LIMIT, LIMIT_FLOP)


def step_table(results: dict[str, dict], batch: int) -> list[str]:
    """Table of a training step."""
    head = ["", "ms", "quartiles", "× Pyro", "× NumPyro", "GFLOP/s", "of limit", "first call, s"]
    rows = [[f"one training step, batch {batch}", *head[1:]]]
    for label in (name for name in STEP if name in results):
        low, high = (1e3 * value for value in results[label]["quartiles"])
        rows.append(
            [
                label,
                f"{1e3 * results[label]['median']:.2f}",
                f"{low:.2f} – {high:.2f}",
                times(speedup(results, label, PYRO)),
                times(speedup(results, label, NUMPYRO)),
                *_arithmetic(results, label, batch * STEP_FLOP),
            ]
        )
    return align(rows)


def evidence_table(results: dict[str, dict], samples: int) -> list[str]:
    """Table of log p(x)."""
    title = f"log p(x), K = {samples:,}"
    head = ["data/s", "quartiles", "million weights/s", "× eager", "× NumPyro", "GFLOP/s"]
    rows = [[title, *head, "of limit", "first call, s"]]
    for label in (name for name in EVIDENCE if name in results):
        low, high = sorted(1 / value for value in results[label]["quartiles"])
        rate = 1 / results[label]["median"]
        rows.append(
            [
                label,
                f"{rate:.1f}",
                f"{low:.1f} – {high:.1f}",
                f"{rate * samples / 1e6:.3f}",
                times(speedup(results, label, EAGER)),
                times(speedup(results, label, NUMPYRO)),
                *_arithmetic(results, label, samples * WEIGHT_FLOP),
            ]
        )
    return align(rows)


def parts_table(results: dict[str, dict], batch: int) -> list[str]:
    """Table of steps of models with other parts."""
    head = ["by Pyro's handlers, ms", "compiled, ms", "×", "first call, s"]
    rows = [[f"one training step, batch {batch}", *head]]
    for label in (name for name in results if name.endswith(f": {COMPILED}")):
        part = label.removesuffix(f": {COMPILED}")
        plain = f"{part}: {PLAIN}"
        rows.append(
            [
                part,
                *(f"{1e3 * results[name]['median']:.2f}" for name in (plain, label)),
                times(speedup(results, label, plain)),
                f"{results[label]['first_call']:.1f}",
            ]
        )
    return align(rows)


def epoch_lines(results: dict[str, dict], rows: int, batch: int) -> list[str]:
    """An epoch of fit against the steps it is made of."""
    fit, bare = results[FIT], results[BARE]
    batches = rows / batch
    overhead = [
        100 * (ours / steps - 1)
        for ours, steps in zip(fit["seconds"], bare["seconds"], strict=True)
    ]
    low, median, high = np.quantile(overhead, (0.25, 0.5, 0.75))
    return [
        f"an epoch of {rows:,} data in batches of {batch}: "
        f"fit {batches * fit['median']:.3f} s, as many bare steps "
        f"{batches * bare['median']:.3f} s: {median:+.1f} % (quartiles {low:+.1f} – {high:+.1f})",
        "(epochs after the first of a run, which compiles: "
        f"{fit['first_call']:.1f} s; bare, first call {bare['first_call']:.1f} s)",
    ]


def times(ratio: float | None) -> str:
    """Write a speed-up."""
    return "–" if ratio is None else f"{ratio:.2f}" if ratio < 10 else f"{ratio:.1f}"


def _arithmetic(results: dict[str, dict], label: str, flop: float) -> list[str]:
    """Columns that every table ends with."""
    rate = gflops(results, label, flop)
    share = rate / limit(results)
    return [f"{rate:.0f}", f"{share:.0%}", f"{results[label]['first_call']:.1f}"]


def machine_line(about: dict[str, Any]) -> str:
    """The machine in a line."""
    parts = [
        about["processor"],
        f"{about['cores']} core{'s' * (about['cores'] > 1)}, {threads(about)}",
        about["gpu"] or "no GPU",
        *(f"{name} {number}" for name, number in about["versions"].items()),
    ]
    return ", ".join(parts)


def threads(about: dict[str, Any]) -> str:
    """Write the number of threads; libraries that choose for themselves may differ."""
    numbers = " or ".join(map(str, about["threads"]))
    return f"{numbers} thread{'s' * (numbers != '1')}"


@styled()
def speed_figure(tasks: dict[str, dict[str, dict]], about: dict[str, Any]) -> Figure:
    """Draw data per second by contender: a panel for each batch size, and one for log p(x).

    Args:
        tasks: results by contender of each task, ``step B`` or ``evidence K``.
        about: the machine.
    """
    shown = [task.split() for task in tasks if task != "epoch"]
    columns, rows = min(2, len(shown)), (len(shown) + 1) // 2
    figure = Figure((6.2 * columns, 0.8 + 2.9 * rows), layout="constrained")
    figure.get_layout_engine().set(wspace=0.06, hspace=0.08)
    for place, (what, size) in enumerate(shown):
        axes, results = figure.add_subplot(rows, columns, place + 1), tasks[f"{what} {size}"]
        number = int(size)
        if what == "step":
            axes.set_title(f"training, batch size {number:,}")
            axes.set_xlabel("data per second (× Pyro's tutorial)")
            _bars(axes, results, STEP, PYRO, number, number * STEP_FLOP)
        else:
            axes.set_title(f"log p(x), K = {number:,}")
            axes.set_xlabel("data per second (× eager PyTorch)")
            _bars(axes, results, EVIDENCE, EAGER, 1, number * WEIGHT_FLOP)
    where = about["processor"] if about["device"] == "cpu" else about["gpu"]
    figure.supxlabel(
        f"Medians and quartiles. Limit: the fastest float32 matrix product here. {where}, "
        f"{threads(about)}.",
        x=0.01,
        ha="left",
        fontsize=9.5,
        color=MUTED,
    )
    return titled(figure, _message(tasks), "")


def _bars(
    axes: Axes,
    results: dict[str, dict],
    contenders: tuple[str, ...],
    reference: str,
    data: int,
    flop: float,
) -> None:
    """Draw a bar for each contender, with its rate and its ratio to the reference."""
    names = [name for name in contenders if name in results]
    rates = {name: data / results[name]["median"] for name in names}
    ends = {name: [data / value for value in results[name]["quartiles"]] for name in names}
    bound = data * limit(results) * 1e9 / flop
    right = max(bound, *(max(pair) for pair in ends.values()))
    axes.axvline(bound, color=ORANGE, linewidth=1.2, linestyle="--", zorder=1)
    axes.annotate(
        "limit",
        (bound, 1),
        (0, 3),
        xycoords=axes.get_xaxis_transform(),
        textcoords="offset points",
        color=ORANGE,
        ha="center",
        fontsize=10,
    )
    for row, (name, rate) in enumerate(rates.items()):
        ours = name in (OURS, HALF)
        axes.barh(row, rate, 0.66, color=BLUE if name == OURS else SKY if ours else EDGE)
        axes.plot(ends[name], [row, row], color=INK, linewidth=1.2, solid_capstyle="butt")
        ratio = times(speedup(results, name, reference))
        text = f"{per_second(rate)}" + f"  {ratio}×" * (name != reference)
        axes.annotate(
            text,
            (max(ends[name]), row),
            (6, 0),
            textcoords="offset points",
            va="center",
            color=BLUE if ours else MUTED,
            weight="bold" if ours else "normal",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )
    axes.set_yticks(range(len(names)), names, color=INK)
    axes.tick_params(axis="y", length=0)
    axes.set(xlim=(0, 1.25 * right), ylim=(len(names) - 0.45, -0.55))
    axes.xaxis.set_major_formatter(lambda value, _: per_second(value))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")


def per_second(rate: float) -> str:
    """Write a rate with two or three digits."""
    if rate >= 1000:
        return f"{rate / 1000:.0f}k" if rate >= 99_500 else f"{rate / 1000:.3g}k"
    return f"{rate:.3g}"


def _message(tasks: dict[str, dict[str, dict]]) -> str:
    """Say what the figure shows."""
    said = []
    ratios = [
        speedup(results, OURS, PYRO) for task, results in tasks.items() if task.startswith("step")
    ]
    if ratios:
        low, high = times(min(ratios)), times(max(ratios))
        span = low if low == high else f"{low} to {high}"
        said.append(f"pyro_vae trains {span} times as fast as Pyro's tutorial")
    for results in (results for task, results in tasks.items() if task.startswith("evidence")):
        ratio = times(speedup(results, OURS, EAGER))
        said.append(
            f"{'' if said else 'pyro_vae '}evaluates {ratio} times as fast as eager PyTorch"
        )
    return ", and ".join(said)
