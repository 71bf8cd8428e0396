"""The code of pages and the gallery on a machine with a GPU, where fit leaves its models."""

import re
import runpy
from pathlib import Path

import pyro
import pytest
from devices.pretend import pretend

_ROOT = Path(__file__).parents[2]
_PAGES = ["README.md", "docs/parts.md", "docs/programs.md"]
_EXAMPLES = sorted((_ROOT / "examples").glob("*.py"))

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence")]


@pytest.mark.parametrize("path", _EXAMPLES, ids=lambda path: path.stem)
def test_example(path, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [str(path), "--smoke"])
    with pretend():
        runpy.run_path(str(path), run_name="__main__")
    printed = capsys.readouterr().out
    assert "log p(x)" in printed or "nats" in printed
    pyro.clear_param_store()


@pytest.mark.filterwarnings("ignore:.*goes on without compilation")  # not seen here
@pytest.mark.parametrize("page", _PAGES)
def test_code_of_pages(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (_ROOT / page).read_text(), flags=re.S)
    names: dict = {}
    with pretend():
        for block in blocks:
            exec(compile(block, page, "exec"), names)
        assert names["vae"].device.type == "cuda"
