"""The structure of the package: imports go one way down, files stay small."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import pyro_vae

_ROOT = Path(pyro_vae.__file__).parent
# From top to bottom; a room may import only from lines below its own.
_FLOORS = """cli
runs
analysis
training models evidence
objectives
priors
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


@pytest.mark.parametrize(("name", "path"), list(_modules()), ids=lambda value: str(value)[-30:])
def test_imports_go_down(name, path):
    own = name.partition(".")[0]
    assert own in _RANK, f"give {own} a floor"
    for imported in _imports(name, path):
        other = imported.partition(".")[0]
        assert other == own or _RANK[other] > _RANK[own], f"{name} imports {imported}"


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
