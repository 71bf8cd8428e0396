"""The page: one HTML file with its data, its style and its script in it."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from ..common.files import write_text
from ..data.sets import Data
from ..evidence import Comparison
from .content import Subject, data_content, model_content
from .packing import Weights

__all__ = ["render", "write_report"]

_SCRIPTS = (
    "numbers",
    "network",
    "densities",
    "evidence",
    "model",
    "figures",
    "charts",
    "comparison",
    "latent",
    "datum",
    "main",
)


def write_report(
    path: str | Path,
    subjects: Sequence[Subject],
    data: Data,
    *,
    comparison: Comparison | None = None,
    title: str,
    lead: str = "",
    weights: Weights = "float32",
) -> Path:
    """Write the page about some models of the same data, atomically, and return its path.

    The file needs no server and no network: its content policy lets it ask for nothing, and run no
    script but its own.

    Args:
        path: the HTML file.
        subjects: the models, in the order of the page.
        data: the data shown in it, the first of those that the models were evaluated on.
        comparison: of the models by log p(x), if there are several.
        title: heading of the page.
        lead: sentence under it.
        weights: precision of the networks' weights, ``"float32"`` or ``"float16"``.

    Raises:
        ValueError: weights that float16 cannot hold.
        OSError: the file cannot be written.
    """
    text = render(subjects, data, comparison=comparison, title=title, lead=lead, weights=weights)
    return write_text(path, text)


def render(
    subjects: Sequence[Subject],
    data: Data,
    *,
    comparison: Comparison | None = None,
    title: str,
    lead: str = "",
    weights: Weights = "float32",
) -> str:
    """Return the page as text; arguments are those of :func:`write_report`."""
    content: dict[str, Any] = {
        "data": data_content(data),
        "models": [model_content(subject, data, weights=weights) for subject in subjects],
        "comparison": None if comparison is None else _differences(comparison),
    }
    folder = Path(__file__).parent / "template"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    parts = [(folder / f"{name}.js").read_text() for name in _SCRIPTS]
    script = '"use strict";\n(() => {\n' + "\n".join(parts) + "})();\n"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html").render(
        title=title,
        lead=lead,
        subjects=subjects,
        reasons=[model["reason"] for model in content["models"]],
        comparison=comparison,
        cells=[] if comparison is None else comparison.cells(),
        style=Markup((folder / "page.css").read_text()),
        script=Markup(script),
        script_hash=f"sha256-{digest}",
        content=htmlsafe_json_dumps(content, dumps=_dumps),
    )


def _dumps(content: Any, **options: Any) -> str:
    return json.dumps(content, allow_nan=False, separators=(",", ":"), **options)


def _differences(comparison: Comparison) -> list[dict[str, Any]]:
    names = ("name", "difference", "difference_error")
    return [{name: _plain(getattr(row, name)) for name in names} for row in comparison.rows]


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and value != value else value
