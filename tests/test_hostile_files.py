"""No file that the package reads can run code, write elsewhere, or speak to a spreadsheet."""

import ast
import csv
import io
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
import torch

import pyro_vae as pv
from pyro_vae.common.columns import escaped, write_columns
from pyro_vae.common.plain import fits

_ROOT = Path(pv.__file__).parent
_MODULES = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "yaml", "cloudpickle"}
_CALLS = {"eval", "exec", "compile", "__import__"}
_METHODS = {"read_pickle", "unsafe_load", "full_load", "literal_eval"}


def _dangers(text):
    """What in a module could run code of a file."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] in _MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in _MODULES:
            yield from (f"{node.module}.{a.name}" for a in node.names)
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if name in _CALLS or name.rpartition(".")[2] in _METHODS:
                yield name
            if name == "torch.load" and given.get("weights_only") != "True":
                yield "torch.load without weights_only"
            if given.get("allow_pickle", "False") != "False":
                yield f"{name} with allow_pickle"
            if name == "np.load" and "allow_pickle" not in given:
                yield "np.load that does not say allow_pickle=False"


def test_nothing_in_the_package_can_run_what_a_file_holds():
    found = {path.name: list(_dangers(path.read_text())) for path in _ROOT.rglob("*.py")}
    assert {name: dangers for name, dangers in found.items() if dangers} == {
        "checkpoint.py": ["pickle.UnpicklingError"]  # its name only
    }


def test_dangers_are_seen():
    for text in (
        "import pickle",
        "from yaml import load",
        "eval('1')",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "pd.read_pickle(path)",
    ):
        assert list(_dangers(text)), text
    assert not list(_dangers("import re\nre.compile('x')\ntorch.compile(f)"))


class _Hostile:
    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return Path.mkdir, (self.witness,)


@pytest.mark.parametrize("place", ["parameters", "config", "history"])
def test_hostile_entries_do_not_run(place, tmp_path):
    witness = tmp_path / "witness"
    state = {"format": "pyro_vae checkpoint", "version": 1, place: _Hostile(witness)}
    torch.save(state, tmp_path / "checkpoint.pt")
    np.savez(tmp_path / "x.npz", x=np.array([_Hostile(witness)], object))
    with pytest.raises(pv.CheckpointError, match="not loaded"):
        pv.load_run(tmp_path)
    with pytest.raises(ValueError, match="Python objects, which are not loaded"):
        pv.load(tmp_path / "x.npz")
    assert not witness.exists()


def test_no_setting_that_names_a_folder_can_be_a_path():
    """A study has a folder for each value of a setting; those of the data cannot be studied."""
    values = ("../../x", ("../../x",))
    hints = get_type_hints(pv.Config)
    free = {name for name, hint in hints.items() if any(fits(value, hint) for value in values)}
    assert "data" in free
    for name in free:
        with pytest.raises(ValueError, match="decides what the test data are"):
            pv.study(name, ["../../x", "y"], pv.Config(), "nowhere", say=len)


def test_cells_are_no_formulas(tmp_path):
    cells = ["=1+1", "+1", "-1", "@x", "\tx", "a=1", ""]
    path = write_columns(tmp_path / "scores.csv", {"name": cells, "value": [-1.5] * len(cells)})
    _, *rows = csv.reader(io.StringIO(path.read_bytes().decode(), newline=""))
    written, values = zip(*rows, strict=True)
    assert written == ("'=1+1", "'+1", "'-1", "'@x", "'\tx", "a=1", "")
    assert set(values) == {"-1.5"}
    assert escaped("\rx") == "'\rx"
