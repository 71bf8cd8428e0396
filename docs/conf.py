"""The documentation site: ``python -m sphinx -W -b dirhtml docs site``.

Pages of the gallery (with notebooks) and of the reference are generated from the scripts of
``examples`` and from the docstrings, so that nothing is kept twice.
"""

import ast
import inspect
import json
import re
import sys
import typing
from pathlib import Path

from sphinx.ext.napoleon import Config, GoogleDocstring

_ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(_ROOT))

project = "pyro_vae"
author = "the developers of pyro_vae"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
html_theme = "furo"
html_title = "pyro_vae"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b6e99", "color-brand-content": "#0b6e99"},
    "dark_css_variables": {"color-brand-primary": "#5cb8e4", "color-brand-content": "#5cb8e4"},
}
exclude_patterns = ["conf.py"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
intersphinx_mapping: dict = {}
suppress_warnings = ["myst.xref_missing"]  # links to files of the repository; a test follows them

_ROOMS = {
    "data": "Data",
    "models": "Models",
    "priors": "Priors",
    "likelihoods": "Likelihoods",
    "posteriors": "Posteriors",
    "networks": "Networks",
    "distributions": "Distributions",
    "objectives": "Objectives",
    "training": "Training",
    "compiled": "Compiled steps",
    "evidence": "Evidence",
    "check": "Checks",
    "analysis": "Analysis",
    "plots": "Figures",
    "programs": "Programs",
    "runs": "Runs and studies",
    "config": "Config",
    "errors": "Errors and warnings",
}


def _write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def _reference(folder):
    names = []
    for room, title in _ROOMS.items():
        module = "pyro_vae.common.errors" if room == "errors" else f"pyro_vae.{room}"
        names.append(f"api-{room}")
        rule = "=" * len(title)
        body = f".. automodule:: {module}\n   :members:\n   :show-inheritance:\n"
        if room == "plots":
            body += "   :exclude-members: Figure\n"  # matplotlib's
        _write(folder / f"api-{room}.rst", f"{title}\n{rule}\n\n{body}")
    tree = "\n".join(names)
    text = "# Reference\n\nRoom by room; what is public is in `pyro_vae` itself too, as `pv.fit`.\n"
    _write(folder / "api.md", f"{text}\n```{{toctree}}\n:maxdepth: 1\n\n{tree}\n```\n")


def _notebook(script):
    """The script as a notebook: its docstring as text, then its code, and a call of ``main``."""
    source = script.read_text()
    doc = ast.get_docstring(ast.parse(source))
    code = source.split('"""', 2)[2].split('if __name__ == "__main__":')[0].strip()
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": doc},
        *(
            {
                "cell_type": "code",
                "metadata": {},
                "execution_count": None,
                "outputs": [],
                "source": text,
            }
            for text in (code, "main()")
        ),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def _gallery(folder):
    overview = (_ROOT / "examples" / "README.md").read_text()
    overview = overview.replace("](../docs/", "](../").replace(".py)", ".md)")
    scripts = sorted((_ROOT / "examples").glob("*.py"))
    for script in scripts:
        _write(
            folder / "notebooks" / f"{script.stem}.ipynb", json.dumps(_notebook(script), indent=1)
        )
        doc = ast.get_docstring(ast.parse(script.read_text()))
        title = script.stem.replace("_", " ").capitalize().replace("pyro", "Pyro")
        figures = re.findall(
            rf"`python examples/{script.name}.*?(?=\n### |\n## |\Z)", overview, re.S
        )
        pictures = re.findall(r"!\[.*?\]\(.*?\)", figures[0]) if figures else []
        page = [
            f"# {title}",
            doc,
            *pictures,
            f"{{download}}`As a notebook <notebooks/{script.stem}.ipynb>`",
            f"```{{literalinclude}} ../../examples/{script.name}\n:language: python\n```",
        ]
        _write(folder / f"{script.stem}.md", "\n\n".join(page) + "\n")
    tree = "\n".join(script.stem for script in scripts)
    _write(
        folder / "gallery.md",
        f"{overview}\n```{{toctree}}\n:hidden:\n\n{tree}\n```\n",
    )


def _google_style(app, what, name, obj, options, lines):
    """Read Google's sections; what says what a value is has none, and may hold a colon."""
    if what not in ("attribute", "data", "property"):
        lines[:] = GoogleDocstring(lines, Config(), app, what, name, obj, options).lines()


def _plain_settings():
    """Types of the settings without what the command line is told about them."""
    from pyro_vae import Config

    for kind in Config.__mro__[:-1]:
        hints = typing.get_type_hints(kind)
        kind.__annotations__ = {name: hints[name] for name in inspect.get_annotations(kind)}


def setup(app):
    """Generate the pages before Sphinx looks for them."""
    _plain_settings()
    app.connect("autodoc-process-docstring", _google_style)
    folder = Path(__file__).parent / "generated"
    _reference(folder)
    _gallery(folder)
