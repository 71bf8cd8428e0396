"""The structure of the package: imports go one way down, files stay small."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import pyro_vae

_ROOT = Path(pyro_vae.__file__).parent
# From top to bottom; a room may import only from lines below its own.
_FLOORS = """cli
runs
analysis check estimator report
training models evidence
objectives priors
likelihoods posteriors
compiled networks distributions programs
config data plots
common""".splitlines()
_RANK = {name: rank for rank, line in enumerate(_FLOORS) for name in line.split()}


def _modules():
    for path in sorted(_ROOT.rglob("*.py")):
        parts = path.relative_to(_ROOT).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        if name:
            yield name, path


_NAMES = {name for name, _ in _modules()}


def _imports(name, path):
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package.split(".") if package else []
            base = base[: len(base) - (node.level - 1)] if node.level > 1 else base
            prefix = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            for alias in node.names:
                full = f"{prefix}.{alias.name}".strip(".")
                yield full if full in _NAMES else prefix


def _goes_down(name, imported):
    """Whether a module may import another: in its own room, or from a floor below."""
    own, other = name.partition(".")[0], imported.partition(".")[0]
    return other == own or _RANK[other] > _RANK[own]


@pytest.mark.parametrize(("name", "path"), list(_modules()), ids=lambda value: str(value)[-30:])
def test_imports_go_down(name, path):
    assert name.partition(".")[0] in _RANK, f"give {name.partition('.')[0]} a floor"
    for imported in _imports(name, path):
        assert _goes_down(name, imported), f"{name} imports {imported}"


def test_an_import_that_goes_up_is_seen(tmp_path):
    path = tmp_path / "pair.py"
    path.write_text(
        "def f():\n    from ..evidence.result import Evidence\n    from .traces import run\n"
    )
    found = {other: _goes_down("programs.pair", other) for other in _imports("programs.pair", path)}
    assert found == {"evidence.result": False, "programs.traces": True}
    assert not _goes_down("training.fit", "models.vae")  # the same floor is not below


def test_training_reaches_no_part_and_no_model():
    rooms = {}
    for name, path in _modules():
        own = name.partition(".")[0]
        rooms.setdefault(own, set()).update(o.partition(".")[0] for o in _imports(name, path))
    reached, stack = set(), ["training"]
    while stack:
        room = stack.pop()
        if room not in reached:
            reached.add(room)
            stack += rooms[room]
    assert not reached & {"priors", "likelihoods", "posteriors", "networks", "models", "runs"}


def test_tests_lie_in_folders_named_like_the_rooms():
    folders = {path.parent for path in Path(__file__).parent.rglob("test_*.py")}
    names = {folder.name for folder in folders} - {
        "tests",
        "examples",
        "benchmarks",
        "devices",
        "gpu",
    }
    assert names <= set(_RANK)
    assert not {name for name in _RANK if (_ROOT / name).is_dir()} - names


def test_imports_within_packages_go_one_way():
    graph = {
        name: {other for other in _imports(name, path) if other != name}
        for name, path in _modules()
    }
    list(TopologicalSorter(graph).static_order())  # raises CycleError


@pytest.mark.parametrize(("name", "path"), list(_modules()), ids=lambda value: str(value)[-30:])
def test_files_are_small_and_declare_their_names(name, path):
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    if path.name != "__init__.py":
        assert "\n__all__ = " in text


def test_stub_names_what_there_is():
    for name in pyro_vae.__all__:
        assert getattr(pyro_vae, name) is not None


def test_slow_tests_are_there():
    """Each line of ``slow.txt`` names a test; those of a file's functions are not looked into."""
    tests = Path(__file__).parent
    for line in (tests / "slow.txt").read_text().splitlines():
        path, *_, name = line.split("::")
        assert f"def {name.partition('[')[0]}(" in (tests.parent / path).read_text(), line


def test_contributing_names_the_floors():
    text = (_ROOT.parent / "CONTRIBUTING.md").read_text()
    rows = re.findall(r"^\| \d \| ([^|]*) \|", text, flags=re.M)
    assert [set(re.findall(r"`(\w+)`", row)) for row in rows] == [
        set(floor.split()) for floor in _FLOORS
    ]


def test_tests_that_documents_name_are_there():
    documents = [*(_ROOT.parent / "docs").rglob("*.md"), *_ROOT.parent.glob("*.md")]
    named = {
        name for path in documents for name in re.findall(r"\btests/[\w/]+\.py", path.read_text())
    }
    assert named
    assert {name for name in named if not (_ROOT.parent / name).exists()} == set()
