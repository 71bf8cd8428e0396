"""Tables as text: columns that align."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

__all__ = ["align"]


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table: the first row as its head, the first column to the left."""
    widths = [max(_width(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            f"{' ' * (width - _width(cell))}{cell}"
            if column
            else f"{cell}{' ' * (width - _width(cell))}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return [lines[0], "─" * _width(lines[0]), *lines[1:]]


def _width(text: str) -> int:
    """Return the columns that a text takes; combining marks, such as the hat of k̂, take none."""
    return sum(not unicodedata.combining(character) for character in text)
