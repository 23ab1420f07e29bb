"""``rhoctl experiment``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from rhoselect.cli.commands import MOST_WORKERS
from rhoselect.errors import ConfigError
from rhoselect.grids import grid

if TYPE_CHECKING:
    from rhoselect.inputs import RunInputs
    from rhoselect.trainer.runfolder import RunFolder

app = typer.Typer(
    rich_markup_mode=None, help="Grids of runs, such as the paper's tables and figures."
)
SPECS = Path("benchmarks/paper")
RUNS = Path("runs/paper")
Specs = Annotated[Path, typer.Option(help="Folder of experiments, a .toml file each.")]


@app.command("list")
def list_(specs: Specs = SPECS) -> None:
    """List the experiments: runs in the grid and title.

    Example:

      rhoctl experiment list
    """
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for name in grid.names(specs):
        loaded = grid.load(specs / f"{name}.toml")
        runs = len(grid.cells(loaded, loaded.seeds))
        console.print(f"{name:32} {runs:4} runs: {loaded.title}")


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="An experiment's name, or a .toml file.")],
    data: Annotated[
        str | None,
        typer.Option(
            metavar="[KIND=]SRC", help="Import the data from here instead, as in 'data import'."
        ),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Seeds such as 0,1,2, instead of the file's.")
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a key of every run."),
    ] = None,
    workers: Annotated[int, typer.Option(min=0, max=MOST_WORKERS, help="As in train.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder of data, tables and runs.")] = RUNS,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the runs in --out.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check only, run nothing.")] = False,
    specs: Specs = SPECS,
) -> None:
    """Run an experiment's grid, then make its table (table.md, results.json) and figure.png.

    Data sets and irreducible losses are made once by recipe, and shared by the experiments in
    --out. Every run stays in OUT/NAME/runs; an interrupted grid goes on with --resume.

    Examples:

      rhoctl experiment run table2

      rhoctl experiment run fig3 --seeds 0 --set trainer.steps=200 --out runs/quick

      rhoctl experiment run my.toml --data numpy=points.npz --resume
    """
    file = grid.find(name, specs)
    loaded = grid.load(file)
    cells = grid.cells(loaded, loaded.seeds if seeds is None else _seeds(seeds))
    from rhoselect.cli.run import check_servers, execute, scorers_of
    from rhoselect.grids import document, runner, table
    from rhoselect.grids.recipes import Recipes

    recipes = Recipes(loaded, out, None if data is None else _source(data))
    folder = out / file.stem
    configs = runner.check(cells, recipes, sets or [])
    runner.check_runs(folder / "runs", resume)
    console = Console(highlight=False, markup=False, soft_wrap=True)

    def train(inputs: RunInputs, folder: RunFolder, scorers: int, title: str) -> None:
        execute(inputs, folder, scorers_of(inputs, scorers, console), console, title)

    if dry_run:
        for cell in cells:
            console.print(f"{folder / 'runs' / cell.name}")
        console.print(f"{len(cells)} runs; all configurations are valid")
        return
    for config in configs:
        check_servers(config, workers)
    runner.run(cells, recipes, folder / "runs", sets or [], train, workers, console)
    rows = document.write(loaded, cells, recipes, folder)
    console.width = max(console.width, 160)
    console.print(table.table(loaded.title, rows))
    console.print(f"{folder}: table.md, results.json, figure.png")


@app.command()
def report(
    runs: Annotated[Path, typer.Option(help="The --out of 'experiment run'.")] = RUNS,
    out: Annotated[Path, typer.Option(help="Page to write.")] = Path("docs/results/paper.md"),
    specs: Specs = SPECS,
) -> None:
    """Write a page of all experiments: measured beside the paper's figures, and which agree.

    Example:

      rhoctl experiment report --runs runs/paper --out docs/results/paper.md
    """
    from rhoselect.grids import document

    count = document.page(specs, runs, out)
    Console(highlight=False, markup=False).print(f"{out}: {count} experiments")


def _seeds(text: str) -> list[int]:
    try:
        seeds = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        seeds = [-1]
    if any(seed < 0 for seed in seeds) or len(set(seeds)) < len(seeds):
        raise ConfigError(f"--seeds: got {text!r}, allowed different whole numbers such as 0,1,2")
    return seeds


def _source(text: str) -> tuple[str | None, str]:
    kind, equals, src = text.partition("=")
    return (kind, src) if equals else (None, text)
