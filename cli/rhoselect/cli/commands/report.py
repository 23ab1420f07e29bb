"""``rhoctl report``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rhoselect.cli.commands import Moved
from rhoselect.errors import ConfigError, listed

KINDS = (".html", ".png")


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs.")],
    out: Annotated[
        Path | None,
        typer.Option(help="FILE.html: a page that compares the runs; FILE.png: the curves alone."),
    ] = None,
    as_json: Annotated[
        Path | None, typer.Option("--json", help="Write one JSON object to this file.")
    ] = None,
    sets: Moved = None,
) -> None:
    """Compare finished runs: steps and seconds to the best accuracy of the uniform run; on a page,
    also what was selected and skipped, with points to look at.

    Runs that differ in their seed alone are one row, with standard deviations. What runs differ in
    beside their selection is named.

    Examples:

      rhoctl report runs/demo-uniform runs/demo-rho --out runs/demo.png

      rhoctl report runs/demo-uniform runs/demo-rho --out runs/demo.html

      rhoctl report runs/demo-rho --out runs/demo.html --set data.path=/mnt/fm
    """
    if out is not None and out.suffix not in KINDS:
        raise ConfigError(f"--out {out}: got {out.suffix!r}, allowed {' or '.join(KINDS)}")
    moved = sets or []
    if moved and (out is None or out.suffix == ".png"):
        raise ConfigError(
            f"--set: got {listed(moved)}, allowed with --out FILE.html, which alone looks at the"
            " inputs"
        )
    from rhoselect.report.arms import arms_of, differences
    from rhoselect.report.comparison import WIDTH, coarse, comparison, table, uncounted
    from rhoselect.report.history import check_moved, moved_for
    from rhoselect.report.origin import origin
    from rhoselect.report.page import page
    from rhoselect.report.runs import load_run, told_apart

    if out is not None and out.suffix == ".png":
        from rhoselect.report.plots import figure  # matplotlib takes a second to import
    loaded = told_apart([load_run(path) for path in runs], runs)
    for path in runs if moved else ():
        check_moved(path, moved_for(path, moved))
    rows = comparison(loaded)
    console = Console()
    console.width = max(console.width, WIDTH)
    console.print(table(rows))
    arms = arms_of(loaded)
    unlike, missing, rough = differences(arms), uncounted(arms), coarse(arms)
    said = [f"not alike: {each}" for each in unlike] + [f"coarse: {each}" for each in rough]
    for line in [*said, *missing]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.suffix == ".png":
            out.write_bytes(figure(loaded))
        else:
            out.write_text(page(loaded, runs, moved), encoding="utf-8")
    if as_json is not None:
        warnings = {"differences": unlike, "not_counted": missing, "coarse": rough}
        found = {**origin(), "rows": rows, **warnings}
        as_json.write_text(json.dumps(found, indent=2) + "\n", "utf-8")
