"""The subcommands of ``rhoctl``, a module each.

A module imports what takes long (torch, pyarrow, matplotlib, Ray) when its command runs: a mistake
on the command line or in a configuration is then said at once.
"""

from __future__ import annotations

from typing import Annotated

import typer

MOST_WORKERS = 10_000  # `queue.base.HELPERS`, which takes seconds to import
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a key (repeatable)."),
]
"""Keys that override those of the configuration file."""
Moved = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Where inputs are that moved."),
]
"""Keys that say where the inputs of a finished run are now."""
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
