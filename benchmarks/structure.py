"""Count what a reader of the package has to hold in mind: lines, rooms, floors, arrows.

``python benchmarks/structure.py [FOLDER]`` prints the counts of the package in FOLDER (by default
``pyro_vae``). A room is a module or a folder of modules at the top of the package; an arrow is an
import from one room to another; a floor is a place on the longest way down through the rooms.
"""

import ast
import sys
import tokenize
from collections import defaultdict
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

BUILDER = ("parts.py", "build.py", "models/parts.py", "models/__init__.py", "programs/__init__.py")
OPTIONS = ("components", "alpha", "epochs")


def modules(root: Path) -> dict[str, Path]:
    """Files of a package by dotted name, its face left out."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        name = ".".join(
            part for part in path.relative_to(root).with_suffix("").parts if part != "__init__"
        )
        if name:
            found[name] = path
    return found


def imports(name: str, path: Path, names: set[str]) -> set[str]:
    """Modules of the package that one of its files imports, at any place of the file."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package.split(".") if package else []
            base = base[: len(base) - (node.level - 1)] if node.level > 1 else base
            prefix = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            for alias in node.names:
                full = f"{prefix}.{alias.name}".strip(".")
                found.add(full if full in names else prefix)
    return found - {name, ""}


def lines(path: Path) -> dict[str, int]:
    """Lines of a file by kind."""
    text = path.read_text()
    total, documented, comments = len(text.splitlines()), set(), set()
    for node in ast.walk(ast.parse(text)):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                documented |= set(range(body[0].lineno, body[0].end_lineno + 1))
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.COMMENT and token.line.strip().startswith("#"):
                comments.add(token.start[0])
    blank = sum(
        not line.strip() for i, line in enumerate(text.splitlines(), 1) if i not in documented
    )
    code = total - len(documented) - len(comments) - blank
    return {"total": total, "code": code, "docstrings": len(documented)}


def depth(graph: dict[str, set[str]]) -> int:
    """Number of nodes on the longest way through a graph without circles."""

    @cache
    def below(node: str) -> int:
        return 1 + max((below(other) for other in graph.get(node, ())), default=0)

    list(TopologicalSorter(graph).static_order())
    return max(below(node) for node in graph)


def reach(graph: dict[str, set[str]], start: set[str]) -> set[str]:
    """Everything that can be reached from some nodes of a graph, themselves included."""
    seen, stack = set(), list(start)
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            stack += graph.get(node, ())
    return seen


def parameters(root: Path) -> tuple[int, str]:
    """Most parameters of one function, ``self`` left out, and its name."""
    most = (0, "")
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                args = node.args
                names = [a.arg for a in (*args.posonlyargs, *args.args, *args.kwonlyargs)]
                most = max(most, (len([n for n in names if n not in ("self", "cls")]), node.name))
    return most


def declarations(root: Path, option: str) -> list[str]:
    """Places that name an option with its type, its default, its least value or its help.

    Parameters of functions and fields of classes (with or without the name of a part before it),
    and keys of tables; its uses are not counted, nor is a default that refers to another's.
    """
    places = []

    def same(name: object) -> bool:
        return isinstance(name, str) and (name == option or name.endswith(f"_{option}"))

    def declares(default: ast.expr | None) -> bool:
        return default is not None and not isinstance(default, ast.Attribute)

    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            found = []
            if isinstance(node, ast.FunctionDef):
                args = (*node.args.args, *node.args.kwonlyargs)
                defaults = [None] * len(node.args.args) + list(node.args.kw_defaults)
                found = [
                    a for a, d in zip(args, defaults, strict=True) if same(a.arg) and declares(d)
                ]
            elif isinstance(node, ast.ClassDef):
                fields = [
                    n for n in node.body if isinstance(n, ast.AnnAssign) and declares(n.value)
                ]
                found = [n for n in fields if same(getattr(n.target, "id", None))]
            elif isinstance(node, ast.Dict):
                found = [k for k in node.keys if isinstance(k, ast.Constant) and same(k.value)]
            places += [f"{path.relative_to(root)}:{item.lineno}" for item in found]
    return places


def own_isinstance(root: Path) -> list[str]:
    """Calls of ``isinstance`` on the package's own classes, outside the builder."""
    trees = {path: ast.parse(path.read_text()) for path in sorted(root.rglob("*.py"))}
    classes = {n.name for t in trees.values() for n in ast.walk(t) if isinstance(n, ast.ClassDef)}
    foreign = {"Bernoulli", "Normal", "Laplace", "Categorical", "Binomial"}  # of Pyro, too
    places = []
    for path, tree in trees.items():
        if str(path.relative_to(root)) in BUILDER:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
                names = {n.id for n in ast.walk(node.args[1]) if isinstance(n, ast.Name)}
                if names & (classes - foreign):
                    places.append(f"{path.relative_to(root)}:{node.lineno}")
    return places


def measure(root: Path) -> dict[str, object]:
    """All counts of a package."""
    files = modules(root)
    names = set(files)
    graph = {name: imports(name, path, names) for name, path in files.items()}
    rooms: dict[str, set[str]] = defaultdict(set)
    for name, others in graph.items():
        own = name.partition(".")[0]
        rooms[own] |= {other.partition(".")[0] for other in others} - {own}
    counts = [lines(path) for path in (*files.values(), root / "__init__.py")]
    core = {name for name in ("training", "loop") if name in rooms}
    most, function = parameters(root)
    return {
        "files": len(counts),
        "lines": sum(c["total"] for c in counts),
        "lines of code": sum(c["code"] for c in counts),
        "lines of docstrings": sum(c["docstrings"] for c in counts),
        "rooms": len(rooms),
        "floors": depth(rooms),
        "arrows": sum(map(len, rooms.values())),
        "longest chain of files": depth(graph),
        "rooms that training reaches": ", ".join(sorted(reach(rooms, core) - core)),
        "most parameters": f"{most} ({function})",
        **{
            f"declarations of {option}": f"{len(places)} ({', '.join(places)})"
            for option in OPTIONS
            for places in [declarations(root, option)]
        },
        "isinstance on own classes": len(own_isinstance(root)),
    }


def main(arguments: list[str]) -> None:
    """Print the counts."""
    root = Path(arguments[0]) if arguments else Path(__file__).parent.parent / "pyro_vae"
    for name, value in measure(root).items():
        print(f"{name:<28} {value}")


if __name__ == "__main__":
    main(sys.argv[1:])
