"""``rhoctl data spool``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rhoselect import config as configuration
from rhoselect.cli.commands import Sets


def spool(
    source: Annotated[str, typer.Argument(help="'module:factory' of an iterable data set.")],
    dst: Annotated[Path, typer.Argument(help="Folder to make.")],
    limit: Annotated[int, typer.Option(min=1, help="Most points of a split: the first ones.")],
    sets: Sets = None,
) -> None:
    """Write an iterable data set to a folder, from which its points are read by index.

    factory(split=…) is called with "train", "holdout" and "test"; data.args are its other
    arguments. Points are dicts, pairs (input, label) or token ids.

    Examples:

      rhoctl data spool my_data:stream data/stream --limit 1000000

      rhoctl data spool my_data:stream data/stream --limit 5000 --set data.args.seed=1
    """
    tree = {"data": {"dataset": source}}
    args = configuration.apply(tree, sets or []).data.args
    from rhoselect.importers import spool as write

    console = Console(highlight=False, markup=False, soft_wrap=True)
    for split, count in write(source, args, dst, limit).items():
        cut = ", the limit" if count == limit else ""
        console.print(f"{split:12} {count} points{cut}")
    console.print(f"data.dataset rhoselect.data.hugging_face:rows, with data.args.path = {dst}")
