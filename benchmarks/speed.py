"""Speed against peers, side by side on this machine: ``python benchmarks/speed.py``.

One training step of a VAE (784-400-50, softplus, Bernoulli, Adam), log p(x) by 5,000 importance
samples, an epoch of ``fit`` against its bare steps, and steps of models with other parts, compiled
against Pyro's handlers. Contenders take turns of many units of
work, in random order, each in a process of its own that sleeps between its turns: a slower minute
of the machine is slower for all. Medians and quartiles are over turns, ratios are taken within a
round. The machine's limit, its fastest float32 matrix product, takes its turns like a contender.

Peers beside PyTorch and Pyro are optional: ``pip install "pyro-vae[bench]"``.
"""

import argparse
import dataclasses
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import speed_peers
import torch
from speed_report import (
    BARE,
    COMPILED,
    EAGER,
    EVIDENCE,
    FIT,
    LIMIT,
    NUMPYRO,
    OURS,
    PLAIN,
    PYRO,
    STEP,
    epoch_lines,
    evidence_table,
    limit,
    machine_line,
    parts_table,
    speed_figure,
    step_table,
)

from pyro_vae.common.files import write_json
from pyro_vae.plots import save


@dataclasses.dataclass(frozen=True)
class Settings:
    """How much is measured."""

    contenders: tuple[str, ...] = tuple(speed_peers.CONTENDERS)
    batches: tuple[int, ...] = (64, 256, 1024)
    rounds: int = 15
    turn_seconds: float = 0.4
    parts_batch: int = 256
    parts_rounds: int = 5
    samples: int = 5000
    evidence_rounds: int = 5
    evidence_seconds: float = 2.0
    rows: int = 20_000
    epoch_batch: int = 256
    epoch_rounds: int = 5
    epoch_seconds: float = 2.0


QUICK = Settings(
    contenders=(PYRO, EAGER, NUMPYRO, OURS),
    batches=(64,),
    rounds=3,
    turn_seconds=0.03,
    parts_batch=16,
    parts_rounds=1,
    samples=1000,
    evidence_rounds=2,
    evidence_seconds=0.03,
    rows=512,
    epoch_batch=64,
    epoch_rounds=2,
    epoch_seconds=0.03,
)


class Worker:
    """A contender at one task, in a process of its own that sleeps between its turns."""

    def __init__(self, name: str, task: str, options: dict[str, Any], device: str) -> None:
        self.name, self.task = name, task
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self.process = subprocess.Popen(
            [sys.executable, speed_peers.__file__, name, task, json.dumps(options), device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )

    def read(self) -> dict:
        """Wait for an answer."""
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.log.seek(0)
            sys.stderr.write(self.log.read()[-5000:])
            raise RuntimeError(f"{self.name} failed at its {self.task}; see its message above.")
        return json.loads(line)

    def turn(self, count: int) -> float:
        """Measure about ``count`` units; return seconds a unit."""
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        return self.read()["seconds"]

    def calibrate(self, seconds: float) -> int:
        """Warm up, and return how many units take so many seconds."""
        started = time.perf_counter()
        count = max(1, round(seconds / self.turn(1)))
        if time.perf_counter() - started < seconds:  # too short to tell
            count = max(1, round(seconds / self.turn(count)))
        return count

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.terminate()
        self.process.wait()
        self.process.stdout.close()
        self.log.close()


def measure(
    entries: dict[str, tuple[str, str, dict[str, Any]]],
    *,
    rounds: int,
    seconds: float,
    device: str,
) -> dict[str, dict]:
    """Let contenders take turns.

    Args:
        entries: contender, task and options by label.
        rounds: turns of each.
        seconds: how long a turn takes, about.
        device: where to compute.

    Returns:
        For each label that could run: ``seconds`` a unit by round, ``median``, ``quartiles``,
        ``first_call`` in seconds, ``value`` of the first call, ``threads`` and ``versions``.
    """
    workers: dict[str, Worker] = {}
    results: dict[str, dict] = {}
    try:
        for label, entry in entries.items():
            workers[label] = worker = Worker(*entry, device)
            started = worker.read()
            if "missing" in started:
                print(f"skipped: {label} ({started['missing']})")
                workers.pop(label).close()
                continue
            first = started.pop("seconds")
            results[label] = {**started, "first_call": first, "seconds": []}
        counts = {label: worker.calibrate(seconds) for label, worker in workers.items()}
        labels, order = list(workers), random.Random(0)
        for _ in range(rounds):
            order.shuffle(labels)
            for label in labels:
                results[label]["seconds"].append(workers[label].turn(counts[label]))
    finally:
        for worker in workers.values():
            worker.close()
    for result in results.values():
        low, median, high = np.quantile(result["seconds"], (0.25, 0.5, 0.75)).tolist()
        result |= {"median": median, "quartiles": [low, high]}
    return results


def check_agreement(results: dict[str, dict]) -> None:
    """Warn of contenders that compute something else: all start from the same weights."""
    values = {label: result["value"] for label, result in results.items() if label != LIMIT}
    middle = statistics.median(values.values())
    for name, value in values.items():
        if abs(value / middle - 1) > 0.02:
            warnings.warn(
                f"{name} computes {value:.1f} nats where others find {middle:.1f}.", stacklevel=2
            )


def machine(tasks: dict[str, dict[str, dict]], device: str) -> dict:
    """What all this ran on."""
    rows = [row for results in tasks.values() for row in results.values()]
    versions = {name: number for row in rows for name, number in row["versions"].items()}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": processor(),
        "cores": cores,
        "threads": sorted({row["threads"] for row in rows}),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "device": device,
        "python": platform.python_version(),
        "versions": versions,
    }


def processor() -> str:
    """Name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main(settings: Settings, *, only: str | None, device: str, out: Path) -> None:
    """Measure, print the tables, write the numbers and the figure."""
    out.mkdir(parents=True, exist_ok=True)  # a folder that cannot be written shows at once
    tasks: dict[str, dict[str, dict]] = {}
    for batch in settings.batches if only in (None, "step") else ():
        tasks[f"step {batch}"] = results = measure(
            against_limit(settings, STEP, "step", batch=batch),
            rounds=settings.rounds,
            seconds=settings.turn_seconds,
            device=device,
        )
        check_agreement(results)
        show(step_table(results, batch))
    if only in (None, "parts"):
        batch, results = settings.parts_batch, {}
        for name in speed_peers.PARTS:  # one after the other: two processes each
            options = {"name": name, "batch": batch}
            results |= measure(
                {
                    f"{name}: {way}": (OURS, "part", {**options, "compiled": compiled})
                    for way, compiled in ((PLAIN, False), (COMPILED, True))
                },
                rounds=settings.parts_rounds,
                seconds=settings.turn_seconds,
                device=device,
            )
        tasks["parts"] = results
        show(parts_table(results, batch))
    if only in (None, "evidence"):
        tasks[f"evidence {settings.samples}"] = results = measure(
            against_limit(settings, EVIDENCE, "evidence", samples=settings.samples),
            rounds=settings.evidence_rounds,
            seconds=settings.evidence_seconds,
            device=device,
        )
        check_agreement(results)
        show(evidence_table(results, settings.samples))
    if only in (None, "epoch"):
        batch = settings.epoch_batch
        tasks["epoch"] = results = measure(
            {
                FIT: (OURS, "epoch", {"rows": settings.rows, "batch": batch}),
                BARE: (OURS, "step", {"batch": batch}),
            },
            rounds=settings.epoch_rounds,
            seconds=settings.epoch_seconds,
            device=device,
        )
        show(epoch_lines(results, settings.rows, batch))
    about = machine(tasks, device)
    bounds = [limit(results) for results in tasks.values() if LIMIT in results]
    if bounds:
        span = f"{min(bounds):.0f} – {max(bounds):.0f} GFLOP/s"
        print(f"limit: {span}, the fastest float32 product (2048, 400) x (400, 784)")
    print(machine_line(about))
    content = {
        "machine": about,
        "settings": dataclasses.asdict(settings),
        "limit_gflops": bounds,
        "tasks": tasks,
    }
    print(f"numbers: {write_json(out / 'speed.json', content)}")
    if only in (None, "step", "evidence"):
        print(f"figure: {save(speed_figure(tasks, about), out / 'speed.png')}")


def against_limit(
    settings: Settings, contenders: tuple[str, ...], task: str, **options: int
) -> dict[str, tuple[str, str, dict[str, Any]]]:
    """Entries of :func:`measure` for the contenders at a task, and the machine's limit."""
    entries = {name: (name, task, options) for name in contenders if name in settings.contenders}
    return {**entries, LIMIT: (LIMIT, "product", {})}


def show(lines: list[str]) -> None:
    """Print lines, and one that is empty."""
    print(*lines, "", sep="\n", flush=True)


def use_threads(number: int) -> None:
    """Give every library as many threads, on as many cores; for the processes started later."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(number)
    if hasattr(os, "sched_setaffinity"):  # which XLA's pool follows
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:number])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds")
    parser.add_argument("--only", choices=("step", "parts", "evidence", "epoch"), help="one part")
    parser.add_argument("--threads", type=int, help="threads; by default each library's own choice")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for speed.json and speed.png"
    )
    given = parser.parse_args()
    if given.threads is not None:
        use_threads(given.threads)
    settings = QUICK if given.quick else Settings()
    main(settings, only=given.only, device=given.device, out=given.out)
