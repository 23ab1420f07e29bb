"""Finished runs compared: a table, a PNG of the curves, and a page of its own.

``runs`` reads run folders, ``history`` and ``selection`` say what became of the points, ``table``
compares, ``plots`` draws, ``page`` writes HTML.
"""

from rhoselect.report.page import page, write_page
from rhoselect.report.plots import figure
from rhoselect.report.runs import Run, Selected, load_run
from rhoselect.report.selection import Selection, examine
from rhoselect.report.table import comparison, table

__all__ = [
    "Run",
    "Selected",
    "Selection",
    "comparison",
    "examine",
    "figure",
    "load_run",
    "page",
    "table",
    "write_page",
]
