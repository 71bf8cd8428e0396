"""Studies of grids and seeds: in processes or not, killed or not, they end at the same numbers."""

import contextlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

import pyro_vae as pv
from pyro_vae import cli
from pyro_vae.config import parse_grid
from pyro_vae.runs import tasks
from pyro_vae.runs.grid import plan
from pyro_vae.runs.results import EVIDENCE

pytestmark = pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence")

_CONFIG = pv.Config(epochs=1, hidden=(8,), latent_dim=2, batch_size=400)
_OPTIONS = {"samples": 30, "number": 20, "method": "guide", "search": False, "device": "cpu"}


def _study(out, **options):
    said = []
    given = {"seeds": 2, "config": _CONFIG, "say": said.append, **_OPTIONS, **options}
    return pv.study({"latent_dim": [1, 2]}, out=out, **given), said


def _numbers(study):
    """What a study found, without times."""
    content = json.loads(json.dumps(study.to_dict()))
    for usage in content["usage"].values():
        del usage["seconds"]
    return content


@pytest.fixture(scope="module")
def in_turn(tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    return out, _study(out)[0]


def test_seeds(in_turn):
    out, result = in_turn
    names = {"1", "1-seed1", "2", "2-seed1"}
    assert {path.name for path in out.iterdir() if path.is_dir()} == names | {"figures"}
    configs = [pv.load_run(out / name).config for name in ("1", "1-seed1")]
    assert [config.seed for config in configs] == [0, 1]
    evidences = {name: pv.Evidence.load(out / name / EVIDENCE) for name in names}
    assert len({one.data_sha256 for one in evidences.values()}) == 1  # the same test data
    assert {one.seed for one in evidences.values()} == {0, 1}  # and noise of their own
    expected = pv.evidence.compare_seeds(
        {name: [evidences[name], evidences[f"{name}-seed1"]] for name in ("1", "2")}
    )
    assert result.by_seed == expected
    assert {row.name for row in result.comparison.rows} == names
    text = str(result)
    assert text.splitlines()[0].split()[:2] == ["model", "seeds"]
    assert "of 2" in text
    assert text.splitlines()[-1] == f"latent_dim {expected.sentence()}"
    assert [path.name for path in result.figures] == [
        "comparison.png",
        "curves.png",
        "latent_dim.png",
    ]
    assert all(path.stat().st_size > 10_000 for path in result.figures)
    stored = json.loads((out / "study.json").read_text())
    assert stored["answer"] == result.answer()
    assert stored["by_seed"]["rows"][0]["seeds"] == 2


def _same_runs(one, other, names):
    for name in names:
        first, second = (pv.load_run(folder / name).vae for folder in (one, other))
        for a, b in zip(first.parameters(), second.parameters(), strict=True):
            assert torch.equal(a, b)
        log_px = [pv.Evidence.load(folder / name / EVIDENCE).log_px for folder in (one, other)]
        assert torch.equal(*log_px)


def test_processes_change_no_bit(in_turn, tmp_path):
    """A process trains what is not there yet; then more seeds, with which none has to begin."""
    out, result = in_turn
    shutil.copytree(out / "1", tmp_path / "1")
    found, said = _study(tmp_path, seeds=1, jobs=2, resume=True)
    _same_runs(out, tmp_path, ("1", "2"))
    assert said[:2] == ["1 of 2 runs are done", "latent_dim 2: training"]
    assert re.fullmatch(r"latent_dim 2: done \(\d+ s; 2 of 2 runs\)", said[2])
    assert all(math.isnan(row.seed_error) for row in found.by_seed.rows)
    assert "seed variance is unknown" in str(found)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/checkpoint.pt")}
    again, said = _study(tmp_path, resume=True)
    assert _numbers(again) == _numbers(result)
    assert len(said) == 6  # of two runs training alone, of two also log p(x)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    third, said = _study(tmp_path, resume=True, jobs=2)
    assert _numbers(third) == _numbers(result)
    assert said == ["4 of 4 runs are done"]


@pytest.mark.slow
def test_several_processes_at_once(in_turn, tmp_path):
    out, result = in_turn
    found, said = _study(tmp_path, jobs=3)
    _same_runs(out, tmp_path, ("1", "1-seed1", "2", "2-seed1"))
    assert _numbers(found) == _numbers(result)
    assert sorted(line.partition(" (")[0] for line in said) == [
        f"latent_dim {name}: {what}"
        for name in ("1", "1-seed1", "2", "2-seed1")
        for what in ("done", "training")
    ]


def test_failed_run_is_told_and_the_others_finish(tmp_path, capsys):
    given = {"config": _CONFIG, "out": tmp_path, **_OPTIONS}
    result = pv.study("learning_rate", [1e-3, 1e30], **given)
    assert [row.name for row in result.comparison.rows] == ["0.001"]
    folder = str(tmp_path / "1e+30")
    assert list(result.failures) == [folder]
    assert "NaN" in result.failures[folder] or "became" in result.failures[folder]
    assert f"failed: {folder}: " in str(result)
    assert "learning_rate 1e+30: failed: " in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"every run failed; the first, .*1e\+30"):
        pv.study("learning_rate", [1e30, 1e31], **given | {"out": tmp_path / "none"})
    options = ["--epochs", "1", "--hidden", "8", "--samples", "20", "--number", "9", "--resume"]
    arguments = ["learning-rate", "1e-3", "1e30", "--batch-size", "400", "--latent-dim", "2"]
    arguments += ["--method", "guide", "--no-search", "--out", str(tmp_path)]
    assert cli.main(["study", *arguments, *options]) == 1
    assert "1 runs failed" in capsys.readouterr().err


def test_first_seeds_that_fail_leave_a_table_of_the_others(tmp_path, monkeypatch):
    """The runs that are left have the seed in their names, and the models have not."""
    train = tasks.train_run

    def fail(config, *args, **options):
        if config.seed == 0:
            raise ValueError("on purpose")
        return train(config, *args, **options)

    monkeypatch.setattr(tasks, "train_run", fail)
    given = {"config": _CONFIG, "out": tmp_path, "seeds": 2, **_OPTIONS}
    result = pv.study("latent_dim", [1, 2], **given)
    assert {row.name for row in result.by_seed.rows} == {"1", "2"}
    assert {row.name for row in result.comparison.rows} == {"1-seed1", "2-seed1"}
    text = str(result)
    for words in ("1-seed1", "2-seed1", "on purpose", "seed variance is unknown"):
        assert words in text
    assert all(path.stat().st_size > 1000 for path in result.figures)


def test_what_cannot_be_resumed_is_refused_before_anything_is_trained(in_turn):
    out, _ = in_turn
    with pytest.raises(FileExistsError, match="holds a run already; resume the study"):
        _study(out)
    with pytest.raises(ValueError, match=r"hidden \[8\] \(now \[9\]\); leave these options out"):
        _study(out, resume=True, config=pv.Config(epochs=1, hidden=(9,), batch_size=400))


def test_grid_of_settings():
    config = pv.Config(hidden=(8,), prior_components=4)
    planned = plan({"prior": ["normal", "mixture"], "latent_dim": [2, 3]}, config, 2)
    assert [one.name for one in planned[:3]] == [
        "prior=normal,latent_dim=2",
        "prior=normal,latent_dim=2-seed1",
        "prior=normal,latent_dim=3",
    ]
    assert len(planned) == 8
    assert planned[0].config.prior_components is None
    assert planned[-1].config == pv.Config(
        hidden=(8,), prior="mixture", prior_components=4, latent_dim=3, seed=1
    )
    # combinations that differ in what they do not take are one
    planned = plan({"prior": ["normal", "mixture"], "prior_components": [2, 3]}, config, 1)
    assert [one.name for one in planned] == [
        "prior=normal",
        "prior=mixture,prior_components=2",
        "prior=mixture,prior_components=3",
    ]
    assert plan({"prior": ["mixture"], "latent_dim": [2, 3]}, config, 1)


def test_words_of_a_grid():
    words = "prior normal vamp latent-dim 2 4 prior.start data random --hidden 20,10 5"
    assert parse_grid(words.split()) == {
        "prior": ["normal", "vamp"],
        "latent_dim": [2, 4],
        "prior_start": ["data", "random"],  # data is a setting, too
        "hidden": [(20, 10), (5,)],
    }
    for text, message in (
        ("priors normal", "no setting 'priors'.*Did you mean 'prior'"),
        ("prior normal vmp", "prior cannot be 'vmp'"),
        ("prior normal latent-dim 2 prior vamp", "prior is varied twice"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_grid(text.split())


def test_wrong_grids(tmp_path):
    given = {"config": _CONFIG, "out": tmp_path, **_OPTIONS}
    for grid, options, message in (
        ({}, {}, "two or more different values"),
        ({"prior": ["normal"], "latent_dim": []}, {}, "two or more different values"),
        ({"seed": [0, 1]}, {"seeds": 2}, "seed is varied already"),
        ({"latent_dim": [1, 2]}, {"seeds": 0}, "seeds must be at least 1"),
        ({"latent_dim": [1, 2]}, {"jobs": 0}, "jobs must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            pv.study(grid, **given, **options)
    with pytest.raises(TypeError, match="a grid holds its values"):
        pv.study({"latent_dim": [1, 2]}, [1], _CONFIG, tmp_path)
    with pytest.raises(TypeError, match="study needs values"):
        pv.study("latent_dim", config=_CONFIG, out=tmp_path)
    with pytest.raises(TypeError, match="config="):
        pv.study({"latent_dim": [1, 2]}, out=tmp_path)
    assert not any(tmp_path.iterdir())


_SCRIPT = """
import sys
import pyro_vae as pv
config = pv.Config(epochs=6, hidden=(8,), latent_dim=2)
pv.study("latent_dim", [1, 2], config, sys.argv[1], jobs=int(sys.argv[2]), samples=30, number=20,
         method="guide", search=False, device="cpu", resume=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_stopped_study_goes_on(number, tmp_path):
    """Whatever ends it, at some moments: its processes end too, and it ends at the same numbers."""

    def run(out, jobs, moment=None):
        command = [sys.executable, "-c", textwrap.dedent(_SCRIPT), str(out), str(jobs)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            if moment is None:
                assert process.wait() == 0, process.stderr.read()
                return
            deadline = time.monotonic() + 300
            while len(list(out.glob(f"*/{moment}"))) == 0 and time.monotonic() < deadline:
                time.sleep(0.02)
            process.send_signal(number)
            process.wait()
        while _workers(out):
            assert time.monotonic() < deadline
            time.sleep(0.1)

    run(tmp_path / "whole", 1)
    for moment in ("checkpoint.pt", "evidence.json"):
        run(tmp_path / "parts", 2, moment)
    done = {p: p.stat().st_mtime_ns for p in (tmp_path / "parts").glob(f"*/{EVIDENCE}")}
    assert done
    run(tmp_path / "parts", 2)
    assert {p: p.stat().st_mtime_ns for p in done} == done
    whole, parts = (
        json.loads((tmp_path / name / "study.json").read_text()) for name in ("whole", "parts")
    )
    for content in (whole, parts):
        content.pop("sha256", None)  # of the times, too
        for usage in content["usage"].values():
            del usage["seconds"]
    assert whole == parts


def _workers(out):
    """Processes of a study that are alive."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_text(encoding="latin-1")
            if str(out) in line and "pyro_vae.runs.worker" in line:
                found.append(int(path.parent.name))
    return found


@pytest.mark.slow
def test_killed_process_is_a_failed_run(tmp_path):
    def kill(line):
        if line == "latent_dim 2: training":  # the first has started
            [worker] = _workers(tmp_path)
            os.kill(worker, signal.SIGKILL)

    given = {"config": _CONFIG, "out": tmp_path, "jobs": 2, "say": kill, **_OPTIONS}
    result = pv.study("latent_dim", [1, 2], **given)
    [(folder, cause)] = result.failures.items()
    assert folder == str(tmp_path / "1")
    assert "its process was killed by signal 9" in cause
    assert [row.name for row in result.by_seed.rows] == ["2"]
