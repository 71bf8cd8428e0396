"""The structure of the package: imports go one way down, files stay small."""

import ast
from pathlib import Path

import pytest

import pyro_vae

_ROOT = Path(pyro_vae.__file__).parent
# From top to bottom; a module may import only from lines below its own.
_ORDER = """cli
demo
runs
plots
plots.pictures
plots.charts
plots.style
analysis
evidence
evidence.bounds
evidence.importance evidence.comparison evidence.export evidence.bias
evidence.ladder
evidence.refinement evidence.annealing
evidence.proposals
evidence.space
evidence.missing evidence.mode
evidence.program evidence.result
evidence.diagnostics evidence.sites
training
loop
objectives signals batches checkpoint
vae history
data
priors likelihoods posteriors networks
checks files
seeding config
errors""".splitlines()
_RANK = {name: rank for rank, line in enumerate(_ORDER) for name in line.split()}


def _modules():
    for path in sorted(_ROOT.rglob("*.py")):
        parts = path.relative_to(_ROOT).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        if name:
            yield name, path


def _imports(name, path):
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package.split(".") if package else []
            base = base[: len(base) - (node.level - 1)] if node.level > 1 else base
            prefix = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            for alias in node.names:
                full = f"{prefix}.{alias.name}".strip(".")
                yield full if full in _RANK else prefix


@pytest.mark.parametrize(("name", "path"), list(_modules()), ids=lambda value: str(value)[-30:])
def test_imports_go_down(name, path):
    assert name in _RANK, f"give {name} a place in the order"
    for other in _imports(name, path):
        assert _RANK[other] > _RANK[name] or other == name, f"{name} imports {other}"


@pytest.mark.parametrize(("name", "path"), list(_modules()), ids=lambda value: str(value)[-30:])
def test_files_are_small_and_declare_their_names(name, path):
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    if path.name != "__init__.py":
        assert "\n__all__ = " in text


def test_stub_names_what_there_is():
    for name in pyro_vae.__all__:
        assert getattr(pyro_vae, name) is not None
