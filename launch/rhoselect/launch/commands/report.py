"""``rhoctl report``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rhoselect.launch import report as reports
from rhoselect.launch.machine import origin


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs.")],
    out: Annotated[Path | None, typer.Option(help="Draw the curves (PNG).")] = None,
    as_json: Annotated[Path | None, typer.Option("--json", help="Write the table as JSON.")] = None,
) -> None:
    """Compare finished runs: steps and seconds to the best accuracy of the uniform run.

    Example:

      rhoctl report runs/demo-uniform runs/demo-rho --out runs/demo.png
    """
    loaded = [reports.load_run(path) for path in runs]
    rows = reports.comparison(loaded)
    console = Console()
    console.width = max(console.width, reports.TABLE_WIDTH)
    console.print(reports.table(rows))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(reports.figure(loaded))
    if as_json is not None:
        as_json.write_text(json.dumps({**origin(), "rows": rows}, indent=2) + "\n")
