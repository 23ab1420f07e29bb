"""The command of the map: what is asked for is run, and the results are written."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

import torch
from cells import ARMS, TARGETS, TINY, Cell, cells_of
from grounds import Grounds
from page import between, page, passages
from running import CONSOLE, Runs, TimeIsUpError
from table import earlier, entries_of, entry, rows_of

from picture import draw
from rhoselect.compute import keep_memory
from rhoselect.errors import RhoError, RunStopped
from rhoselect.files import replacing


def options_of(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line's."""
    parser = argparse.ArgumentParser("map", description="where RHO-LOSS pays, cell by cell")
    names = [target.name for target in TARGETS]
    parser.add_argument("--target", nargs="+", choices=names, default=names)
    parser.add_argument("--cells", nargs="+", default=["*"], help="patterns, as mlp-noise10*-short")
    parser.add_argument("--minutes", type=float, default=1e6, help="begin no run after these")
    parser.add_argument("--list", action="store_true", help="say what is missing, run nothing")
    parser.add_argument("--draw", action="store_true", help="write the results, run nothing")
    parser.add_argument("--pages", action="store_true", help="write what other pages have of it")
    parser.add_argument("--folder", type=Path, default=Path("runs/map"), help="of runs")
    parser.add_argument("--data", type=Path, default=Path("data/map"))
    parser.add_argument("--results", type=Path, default=Path("docs/results"))
    parser.add_argument("--costs", type=Path, default=Path("docs/results/map_costs.json"))
    parser.add_argument("--quick", action="store_true", help="a tiny network, on made-up points")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    options = options_of(words)
    targets = (TINY,) if options.quick else TARGETS
    every = cells_of(targets)
    asked = [
        cell
        for cell in every
        if (options.quick or cell.target.name in options.target)
        and any(fnmatch(cell.name, pattern) for pattern in options.cells)
    ]
    torch.set_num_threads(1)
    keep_memory()
    deadline = time.monotonic() + 60 * options.minutes
    grounds = Grounds(options.data, options.quick)
    runs = Runs(options.folder, grounds, options.costs, deadline, earlier(map_of(options)))
    if options.list:
        for cell in asked:
            CONSOLE.print(f"{cell.name}: {missing(cell, options)} runs missing")
        return
    if not options.draw:
        run_all(runs, asked, every, options)
    write(every, options)


def run_all(
    runs: Runs, asked: Sequence[Cell], every: Sequence[Cell], options: argparse.Namespace
) -> None:
    """Finish the cells; one that another process is at is left to it."""
    try:
        for cell in asked:
            if missing(cell, options):
                mine = runs.finish(cell)
                CONSOLE.print(f"{cell.name}: {'finished' if mine else 'left to another process'}")
                write(every, options)
    except TimeIsUpError:
        CONSOLE.print("the time is up; the same command goes on from here")
    except RunStopped:
        CONSOLE.print("stopped; the same command goes on from here")
        raise SystemExit(1) from None
    except RhoError as error:
        raise SystemExit(f"map: {error}") from None


def missing(cell: Cell, options: argparse.Namespace) -> int:
    """How many final runs of a cell have not ended."""
    known = earlier(map_of(options))
    entries = [entry(cell, arm, options.folder, options.costs, known) for arm in ARMS]
    return sum(cell.target.seeds - len(each["seeds"]) for each in entries)


def map_of(options: argparse.Namespace) -> Path:
    """The file that holds all results."""
    return Path(options.results / "map.json")


def write(every: Sequence[Cell], options: argparse.Namespace) -> None:
    """Write the results of what has run."""
    options.results.mkdir(parents=True, exist_ok=True)
    entries = entries_of(every, options.folder, options.costs, earlier(map_of(options)))
    rows = rows_of(entries)
    costs = json.loads(options.costs.read_text("utf-8")) if options.costs.exists() else {}
    texts = {
        map_of(options): json.dumps(entries, indent=1) + "\n",
        options.results / "map.md": page(rows, costs),
    }
    for path, text in texts.items():
        with replacing(path) as beside:
            beside.write_text(text, "utf-8")
    draw(rows, options.results / "map.png")
    for (place, name), text in passages(rows).items() if options.pages else ():
        Path(place).write_text(between(Path(place).read_text("utf-8"), name, text), "utf-8")
