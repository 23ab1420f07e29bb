"""Parts of a page: its head, tables and paragraphs. Text is escaped here."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

STYLE = Path(__file__).with_name("style.css")


def document(title: str, sections: Sequence[str]) -> str:
    """A whole page that needs no other file."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE.read_text()}</style></head>"
        f"<body>{''.join(sections)}</body></html>\n"
    )


def heading(text: str, level: int = 2) -> str:
    """A heading."""
    return f"<h{level}>{html.escape(text)}</h{level}>"


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph; ``kind`` is a class of style.css."""
    return f"<p{f' class={kind}' if kind else ''}>{html.escape(text)}</p>"


def warning(title: str, lines: Sequence[str]) -> str:
    """A box that lists what is wrong; nothing if nothing is."""
    if not lines:
        return ""
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f"<div class=warning role=note><b>{html.escape(title)}</b><ul>{items}</ul></div>"


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """Names and values side by side."""
    items = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>"
        for name, value in pairs
    )
    return f"<dl>{items}</dl>"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that scrolls by itself where the page is narrower."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return (
        f"<div class=scroll tabindex=0><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )
