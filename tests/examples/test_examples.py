"""Every example runs, and every block of code in the README."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pyro
import pytest

_ROOT = Path(__file__).parents[2]
_EXAMPLES = sorted((_ROOT / "examples").glob("*.py"))

pytestmark = pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence")


@pytest.mark.parametrize("path", _EXAMPLES, ids=lambda path: path.stem)
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
    test = module["simulate"](200)
    deviation = (evidence.log_px - module["exact"](test)) / evidence.standard_error
    trusted = ~evidence.unreliable()
    assert trusted.sum() > 50
    assert deviation[trusted].abs().max() < 4.5
    pyro.clear_param_store()


def test_there_are_examples():
    assert {path.stem for path in _EXAMPLES} >= {"quickstart", "swap_prior", "own_pyro_model"}


def test_readme_code_runs(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (_ROOT / "README.md").read_text(), flags=re.S)
    assert len(blocks) >= 2
    names: dict = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert names["evidence"].log_px.shape == (360,)


def test_contributing_code_runs(monkeypatch):
    """The worked examples do what the text says, and leave the package as it was."""
    from pyro_vae import likelihoods

    monkeypatch.setattr(likelihoods, "LIKELIHOODS", dict(likelihoods.LIKELIHOODS))
    text = (_ROOT / "CONTRIBUTING.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    assert len(blocks) == 2
    names: dict = {}
    for block in blocks:
        exec(compile(block, "CONTRIBUTING.md", "exec"), names)
    assert likelihoods.LIKELIHOODS["exponential"] is names["Exponential"]
    assert len(text.splitlines()) <= 90


def test_readme_names_only_commands_that_exist():
    from pyro_vae.cli import COMMANDS

    text = (_ROOT / "README.md").read_text()
    named = set(re.findall(r"pyro-vae ([a-z]+)", text))
    assert named <= set(COMMANDS), named
    assert set(COMMANDS) <= named


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
