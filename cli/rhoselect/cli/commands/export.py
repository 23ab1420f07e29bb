"""``rhoctl export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from rhoselect.cli.commands import Moved
from rhoselect.errors import ConfigError

if TYPE_CHECKING:
    from rhoselect.report.export import Counts

SUFFIX = ".parquet"


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    out: Annotated[Path, typer.Option(help="Parquet file to write.")],
    device: Annotated[
        str, typer.Option(help="Device that computes the losses: auto, cpu, cuda or cuda:N.")
    ] = "auto",
    sets: Moved = None,
) -> None:
    """Write every point of the train split with its losses, how often it was a candidate and was
    selected, and whether it is suspected noisy or redundant. Columns: docs/report.md.

    Examples:

      rhoctl export runs/demo-rho --out points.parquet

      rhoctl export runs/demo-rho --out points.parquet --set data.path=/mnt/fm
    """
    if out.suffix != SUFFIX:
        raise ConfigError(f"--out {out}: got {out.suffix!r}, allowed {SUFFIX}")
    from rhoselect.report.export import export as export_points

    counts = export_points(run, out, device, sets or [])
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"{out}: {counts.points} points, {counts.suspected} suspected noisy,"
        f" {counts.redundant} redundant{_right_suspicions(counts)}"
    )


def _right_suspicions(counts: Counts) -> str:
    """How many suspicions are right, if clean labels are known."""
    if not counts.clean_known:
        return ""
    return f"; by the clean labels {counts.corrupted} are noisy, {counts.caught} of them suspected"
