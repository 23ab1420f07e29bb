"""Tables of text: for a terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.box import HEAVY_HEAD, SIMPLE_HEAD
from rich.table import Table

WORDS = ("run", "method", "group", "arm")
"""Heads of columns that hold words; all others hold figures and are aligned to the right."""


def terminal_table(
    title: str, heads: Sequence[str], rows: Iterable[Sequence[str]], compact: bool = False
) -> Table:
    """A table for a terminal; a ``compact`` one has no lines between its columns."""
    box, padding = (SIMPLE_HEAD, (0, 1, 0, 0)) if compact else (HEAVY_HEAD, (0, 1, 0, 1))
    table = Table(title=title, box=box, padding=padding)
    for head in heads:
        table.add_column(head, justify="left" if head in WORDS else "right")
    for row in rows:
        table.add_row(*row)
    return table


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; ends with a line break."""
    rule = "".join("---|" if head in WORDS else "---:|" for head in heads)
    lines = ["| " + " | ".join(row) + " |" for row in (heads, *rows)]
    return "\n".join([lines[0], "|" + rule, *lines[1:]]) + "\n"
