"""``rhoctl doctor``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from rhoselect import config as configuration
from rhoselect.cli.commands import AsJson, Sets

if TYPE_CHECKING:
    from rhoselect.cli.doctor import Finding

COLOURS = {"ok": "green", "warning": "yellow", "broken": "red"}


def doctor(
    config: Annotated[Path | None, typer.Argument(help="TOML file of a run that you plan.")] = None,
    sets: Sets = None,
    runs: Annotated[Path, typer.Option(help="Folder in which runs will be made.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Check what runs need: clock, disk, GPUs, queue server, Ray, Prometheus; how to mend each.

    Exit code 1 if something is broken.

    Examples:

      rhoctl doctor

      rhoctl doctor my.toml --set cluster.address=10.0.0.1:6379
    """
    nowhere = [] if config is not None else ['data.path=""']  # a configuration must name data
    settings = configuration.load(config, [*nowhere, *(sets or [])])
    from rhoselect.cli.doctor import examine

    found = examine(settings, runs)
    findings = list(found) if as_json else list(_printed(found))
    broken = any(finding.state == "broken" for finding in findings)
    if as_json:
        print(json.dumps({"ok": not broken, "findings": [asdict(f) for f in findings]}))
    raise typer.Exit(int(broken))


def _printed(findings: Iterator[Finding]) -> Iterator[Finding]:
    console = Console(highlight=False, soft_wrap=True)
    for finding in findings:
        state = Text(f"{finding.state:8}", COLOURS[finding.state])
        console.print(state, Text(f"{finding.name}: {finding.found}"))
        if finding.mend:
            console.print(Text(f"         {finding.mend}"))
        yield finding
