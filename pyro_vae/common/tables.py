"""Tables as text: columns that align, and cells of CSV that are no formulas."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

__all__ = ["align", "as_cell"]


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


def as_cell(value: object) -> object:
    """Return a cell of a CSV file that no spreadsheet takes for a formula; numbers stay numbers.

    Text that begins like one gets a quote in front
    (https://owasp.org/www-community/attacks/CSV_Injection).
    """
    formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if formula else value


def _width(text: str) -> int:
    """Return the columns that a text takes; combining marks, such as the hat of k̂, take none."""
    return sum(not unicodedata.combining(character) for character in text)
