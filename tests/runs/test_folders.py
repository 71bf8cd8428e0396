"""Run folders whose files were damaged, changed or taken away, and commands that were killed."""

import json
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

import pyro_vae as pv
from pyro_vae.common import files
from pyro_vae.common.settings import EvaluationSettings
from pyro_vae.evidence import Evidence
from pyro_vae.runs import figures, inputs
from pyro_vae.runs import run as runs
from pyro_vae.runs.folder import read_config

pytestmark = pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence")

_CONFIG = pv.Config(latent_dim=2, hidden=(8,), epochs=1, batch_size=600)
_FEW = EvaluationSettings(samples=30, number=8)
_FILES = ("checkpoint.pt", "config.json", "evidence.json", "metrics.json", "history.csv")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """An evaluated run, not to be written to."""
    folder = tmp_path_factory.mktemp("good") / "run"
    runs.train_run(_CONFIG, folder, device="cpu")
    runs.evaluate_run(folder, _FEW, device="cpu")
    return folder


@pytest.fixture
def run(good, tmp_path):
    """A copy of it."""
    return shutil.copytree(good, tmp_path / "run")


def _numbers(folder):
    """Every number that the package reads from a run folder."""
    loaded, evidence = pv.load_run(folder), Evidence.load(folder / "evidence.json")
    parameters = torch.cat([value.flatten() for value in loaded.vae.state_dict().values()])
    return (
        loaded.config,
        str(loaded.history),
        parameters.tolist(),
        evidence.summary(),
        evidence.log_px.tolist(),
        str(runs.compare_runs([folder])),
        files.read_json(folder / "metrics.json")["log_px"],
        read_config(folder),
    )


# The config --------------------------------------------------------------------------------------


def test_the_checkpoint_has_the_config_too(good, run):
    (run / "config.json").unlink()
    assert pv.load_run(run).config == read_config(run) == read_config(good) == _CONFIG
    runs.train_run(_CONFIG, run, resume=True, device="cpu")
    assert read_config(run / "config.json") == _CONFIG  # written again


@pytest.mark.parametrize("sealed", [True, False])
def test_a_config_that_was_changed_is_said_to_be_ignored(sealed, run):
    path = run / "config.json"
    content = json.loads(path.read_text()) | {"latent_dim": 7}
    if not sealed:
        del content["sha256"]
    path.write_text(json.dumps(content))
    words = r"config\.json .*ignored: the checkpoint has the config" if sealed else "latent_dim 7"
    for read in (lambda: pv.load_run(run).config, lambda: read_config(run)):
        with pytest.warns(pv.PyroVAEWarning, match=words):
            assert read() == _CONFIG
    other = pv.Config.from_dict(_CONFIG.to_dict() | {"latent_dim": 7})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pv.PyroVAEWarning)
        with pytest.raises(ValueError, match=r"latent_dim 2 \(now 7\)"):
            runs.train_run(other, run, resume=True)


def test_a_damaged_config_by_itself(tmp_path):
    for content in (b"{", b"[1]", b'{"prior": 3}', b"\xff", b'{"latent_dim": 1e400}'):
        (tmp_path / "config.json").write_bytes(content)
        with pytest.raises(pv.CheckpointError, match=r"config\.json is not the config of a run"):
            read_config(tmp_path)


# Evaluation --------------------------------------------------------------------------------------


def test_an_evaluation_that_is_killed_while_it_writes_is_not_taken_for_done(run, monkeypatch):
    """Metrics are written first, so that no evidence stands beside the metrics of another."""
    before = (run / "evidence.json").read_bytes()

    def killed(self, path):
        raise KeyboardInterrupt

    monkeypatch.setattr(Evidence, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        runs.evaluate_run(run, EvaluationSettings(samples=20, number=4), device="cpu")
    assert (run / "evidence.json").read_bytes() == before
    assert files.read_json(run / "metrics.json")["samples"] == 20
    assert not [path.name for path in run.iterdir() if path.name.startswith(".")]


def test_evidence_of_other_types_or_lengths(run):
    path = run / "evidence.json"
    content = files.read_json(path)
    for wrong in (
        {"samples": "many"},
        {"ess": content["ess"][:-1]},
        {"log_px": None},
        {"log_px": [[1.0]] * 8},
        {"method": "gues"},
        {"search": {"found": 1}},
    ):
        files.write_json(path, content | wrong)
        with pytest.raises(ValueError, match=r"evidence\.json is not a result of log_evidence"):
            Evidence.load(path)
    del content["seed"]
    files.write_json(path, content)
    with pytest.raises(ValueError, match=r"evidence\.json is not a result of log_evidence"):
        Evidence.load(path)


def test_results_go_into_no_new_folder(run, monkeypatch):
    load = inputs.load_data

    def load_and_delete(*args, **kwargs):
        shutil.rmtree(run, ignore_errors=True)
        return load(*args, **kwargs)

    monkeypatch.setattr(inputs, "load_data", load_and_delete)
    with pytest.raises(FileNotFoundError, match=r"/run was deleted or moved"):
        runs.evaluate_run(run, _FEW, device="cpu")
    assert not run.exists()


def test_names_of_data_are_no_formulas_in_figures():
    from types import SimpleNamespace

    config = pv.Config(data="a/b$x^{$.npy")
    assert figures._title(SimpleNamespace(config=config)) == r"b\$x^{\$.npy, normal prior"


# Random damage -----------------------------------------------------------------------------------


def _damage(content, random):
    """Flip a bit, cut, take a piece out, or exchange two pieces."""
    content = bytearray(content)
    a, b = sorted(random.integers(0, len(content), 2).tolist())
    size = 1 + int(random.integers(64))
    kind = int(random.integers(4))
    if kind == 0:
        content[a] ^= 1 << int(random.integers(8))
    elif kind == 1:
        del content[a:]
    elif kind == 2:
        del content[a : a + size]
    else:
        first, second = content[a : a + size], content[b : b + size]
        content[a : a + len(first)], content[b : b + len(second)] = second, first
    return bytes(content)


def _survives_damage(folder, cases, seed):
    """Of random damage: the same numbers, or an error or warning that names the file."""
    expected, random, refused = _numbers(folder), np.random.default_rng(seed), 0
    for case in range(cases):
        name = _FILES[case % len(_FILES)]
        path = folder / name
        content = path.read_bytes()
        path.write_bytes(_damage(content, random))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", pv.PyroVAEWarning)
                assert _numbers(folder) == expected, (case, name)
        except (ValueError, pv.PyroVAEWarning) as error:  # nothing else may be raised
            assert name in str(error), (case, error)  # noqa: PT017
            refused += 1
        path.write_bytes(content)
    return refused


def test_random_damage_of_every_file(run):
    assert _survives_damage(run, 30, seed=0) > 12


@pytest.mark.slow
def test_much_random_damage_of_every_file(run):
    assert _survives_damage(run, 500, seed=1) > 250


# Kills -------------------------------------------------------------------------------------------

_KILLER = """
import json, os, random, signal, sys, time

import torch

from pyro_vae import cli
from pyro_vae.runs.run import compare_runs

torch.set_num_threads(1)
run, first, again = json.loads(sys.argv[1])
random.seed(0)


def start(arguments):
    child = os.fork()
    if child:
        return child
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    code = 1
    try:
        code = cli.main(arguments)
    finally:
        os._exit(code)


started = time.monotonic()
assert os.waitpid(start(first), 0)[1] == 0
whole = time.monotonic() - started
for _ in range(20):
    child = start(again)
    time.sleep(random.uniform(0, 1.1 * whole))
    os.kill(child, random.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 130, -9, -15), status
    if run:
        print(json.dumps(str(compare_runs([run]))))
assert os.waitpid(start(again), 0)[1] == 0
"""


def _killed_20_times(first, again, run=""):
    """Run a command; start it anew and kill it at random, often; run it to its end.

    The process that starts them has imported everything once, and never trains itself.
    """
    given = json.dumps([str(run), [*map(str, first)], [*map(str, again)]])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _KILLER, given], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


@pytest.mark.slow
def test_killed_evaluations_lose_nothing(run):
    expected = _numbers(run)[4]
    command = ["evaluate", run, "--samples", 30, "--number", 8, "--device", "cpu"]
    tables = _killed_20_times(command, command, run)
    assert len(tables) == 20
    assert len(set(tables)) == 1  # whole at every moment
    assert _numbers(run)[4] == expected
    assert not [path.name for path in run.iterdir() if ".tmp-" in path.name]


@pytest.mark.slow
def test_killed_studies_go_on(tmp_path):
    command = ["study", "latent-dim", 1, 2, "--epochs", 3, "--hidden", 8, "--samples", 20]
    command += ["--number", 20, "--device", "cpu", "--out"]
    _killed_20_times([*command, tmp_path / "a"], [*command, tmp_path / "b", "--resume"])
    tables = [files.read_json(tmp_path / name / "study.json") for name in "ab"]
    assert tables[0]["rows"] == tables[1]["rows"]
    for name in ("1", "2"):
        one, other = (pv.load_run(tmp_path / study / name).vae for study in "ab")
        assert all(
            torch.equal(x, y) for x, y in zip(one.parameters(), other.parameters(), strict=True)
        )


def test_data_that_changed_since_training_are_named(tmp_path):
    x = np.random.default_rng(0).normal(size=(40, 3))
    path = tmp_path / "x.npy"
    np.save(path, x)
    small = {"likelihood": "normal", "hidden": (4,), "latent_dim": 1, "epochs": 1}
    runs.train_run(pv.Config(data=str(path), **small), tmp_path / "r", device="cpu")
    loaded = pv.load_run(tmp_path / "r")
    inputs.data_of(loaded)  # says nothing
    np.save(path, x + 1)
    with pytest.warns(pv.PyroVAEWarning, match=r"x.npy has changed since the run in .*/r was tr"):
        inputs.data_of(loaded)
    np.save(path, x[:, :2])
    with pytest.raises(ValueError, match=r"x.npy has changed .* \(2,\), and held .*\(3,\)"):
        inputs.data_of(loaded)
