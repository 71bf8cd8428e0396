"""Every example runs, and every block of code in the README and the pages of docs."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pyro
import pytest

import pyro_vae as pv

_ROOT = Path(__file__).parents[2]
_EXAMPLES = sorted((_ROOT / "examples").glob("*.py"))
# Run by tests of their own, which look at their numbers; by the command itself in the slow suite.
_WITH_TESTS = {
    "anomaly",
    "autoencoder",
    "checks",
    "elbo_bound",
    "evidence_study",
    "hierarchical",
    "information",
    "manifold",
    "missing_pixels",
    "own_pyro_model",
    "prior_study",
    "representation",
}
_DOCS = sorted(p for p in (_ROOT / "docs").rglob("*.md") if "generated" not in p.parts)
_TRACKERS = _ROOT / "docs" / "trackers.md"  # recipe by recipe, as each has its package
_PAGES = [p for p in _DOCS if "```python\n" in p.read_text() and p != _TRACKERS]

pytestmark = pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence")


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[pytest.mark.slow] * (path.stem in _WITH_TESTS), id=path.stem)
        for path in _EXAMPLES
    ],
)
def test_example_runs(path, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [str(path), "--smoke"])
    runpy.run_path(str(path), run_name="__main__")
    printed = capsys.readouterr().out
    assert "log p(x)" in printed or "nats" in printed
    for figure in re.findall(r"figure: (\S+)", printed):
        assert Path(figure).stat().st_size > 1000
    pyro.clear_param_store()


def test_own_model_agrees_with_quadrature():
    """A user's program with two latents: within 4.5 of its standard errors of the exact value."""
    module = runpy.run_path(str(_ROOT / "examples" / "own_pyro_model.py"))
    evidence = module["main"](smoke=True)
    pyro.set_rng_seed(0)
    module["simulate"](2000)
    test = module["simulate"](80)
    deviation = (evidence.log_px - module["exact"](test)) / evidence.standard_error
    trusted = ~evidence.unreliable()
    assert trusted.sum() > 40
    assert deviation[trusted].abs().max() < 4.5
    pyro.clear_param_store()


def test_there_are_examples():
    assert {path.stem for path in _EXAMPLES} >= {"quickstart", "swap_prior", "own_pyro_model"}


def _run_code(path):
    """Run a page's blocks of Python, one after the other, and return their names."""
    return _run_blocks(path.read_text(), path.name)


def _run_blocks(text, title):
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.S):
        exec(compile(block, title, "exec"), names)
    return names


@pytest.fixture
def in_short(monkeypatch):
    """Let the long work of pages do less than it is asked for: no search, no rung but the guide."""

    def less(place, name, given, **most):
        function = getattr(place, name)

        def done(*args, **options):
            for option, value in most.items():
                options[option] = min(options.get(option, value), value)
            return function(*args, **{**options, **given})

        monkeypatch.setattr(place, name, done)

    less(pv, "fit", {}, epochs=1)
    less(pv, "log_evidence", {"search": False, "method": "guide"}, samples=30)
    few = pv.Annealing(temperatures=4, chains=4)
    less(pv, "certify", {"method": "guide", "annealing": few}, number=3, samples=50)
    less(pv, "sample_posterior", {"method": "guide", "search": False}, samples=200)
    less(pv.check, "calibration", {"method": "guide"}, simulations=50)
    less(pv.check, "predictive", {"method": "guide"}, replicates=50)


def test_readme_code_runs(in_short, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names = _run_code(_ROOT / "README.md")
    assert names["evidence"].log_px.shape == names["other"].log_px.shape == (360,)
    assert len((_ROOT / "README.md").read_text().splitlines()) <= 120


@pytest.mark.parametrize("path", _PAGES, ids=lambda path: path.stem)
def test_code_of_pages_runs_in_short(path, in_short, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    _run_code(path)
    pyro.clear_param_store()


@pytest.mark.slow
@pytest.mark.parametrize("path", [_ROOT / "README.md", *_PAGES], ids=lambda path: path.stem)
def test_code_of_pages_runs(path, monkeypatch, tmp_path):
    """Each page by itself, as a reader copies it."""
    monkeypatch.chdir(tmp_path)
    _run_code(path)
    pyro.clear_param_store()


@pytest.mark.parametrize(
    ("title", "package"),
    [
        ("Collapse", None),
        ("TensorBoard", "tensorboard"),
        pytest.param("MLflow", "mlflow", marks=pytest.mark.slow),
        ("Optuna", "optuna"),
    ],
)
def test_tracker_recipes_run(title, package, monkeypatch, tmp_path):
    """Each of docs/trackers.md after the lines that they share, and what it leaves behind."""
    if package is not None:
        pytest.importorskip(package, reason=f"the recipe of docs/trackers.md needs {package}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "false")  # and put back afterwards
    shared, *parts = _TRACKERS.read_text().split("\n## ")
    names = _run_blocks(shared + next(p for p in parts if p.startswith(title)), _TRACKERS.name)
    if title == "Collapse":
        assert len(names["history"].columns()["active_units"]) == 2
    elif title == "TensorBoard":
        assert [path.stat().st_size > 0 for path in tmp_path.rglob("events.*")] == [True]
    elif title == "MLflow":
        logged = next(tmp_path.rglob("metrics/valid_elbo")).read_text()
        assert [line.split()[-1] for line in logged.splitlines()] == ["1", "2"]
    else:
        assert len(names["study"].trials) == 3
        assert all(1 in trial.intermediate_values for trial in names["study"].trials)


def test_contributing_code_runs(monkeypatch):
    """The worked examples do what the text says, and leave the package as it was."""
    from pyro_vae import likelihoods

    monkeypatch.setattr(likelihoods, "LIKELIHOODS", dict(likelihoods.LIKELIHOODS))
    text = (_ROOT / "CONTRIBUTING.md").read_text()
    names = _run_code(_ROOT / "CONTRIBUTING.md")
    assert names.keys() >= {"Exponential", "Capacity"}
    assert likelihoods.LIKELIHOODS["exponential"] is names["Exponential"]
    assert len(text.splitlines()) <= 90


@pytest.mark.parametrize("path", [_ROOT / "README.md", *_DOCS], ids=lambda path: path.stem)
def test_pages_name_only_commands_that_exist(path):
    from pyro_vae.cli import COMMANDS

    named = set(re.findall(r"pyro-vae ([a-z]+)", path.read_text()))
    assert named <= set(COMMANDS), named
    if path.stem == "command-line":
        assert set(COMMANDS) <= named


def test_links_between_pages_lead_somewhere():
    for page in (*_ROOT.glob("*.md"), *_DOCS, _ROOT / "examples" / "README.md"):
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            if not target.startswith(("http://", "https://")):
                assert (page.parent / target).exists(), (page.name, target)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "figure"), [("speed", "speed.png"), ("scaling", "scaling.png")], ids=lambda x: x
)
def test_benchmark_runs(name, figure, tmp_path):
    script = _ROOT / "benchmarks" / f"{name}.py"
    command = [sys.executable, str(script), "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / figure).stat().st_size > 10_000
