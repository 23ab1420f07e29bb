"""The grid of an experiment: all checked first, then one run after the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tomlkit
from rich.console import Console

from rhoselect import config as configuration
from rhoselect.cli.commands.train import check_servers, execute
from rhoselect.config import Config, resolve
from rhoselect.errors import ConfigError, RunFolderError
from rhoselect.grids.recipes import Recipes
from rhoselect.grids.spec import Cell
from rhoselect.importing import load_object
from rhoselect.inputs import open_inputs
from rhoselect.report import write_page
from rhoselect.selection import get_function
from rhoselect.trainer.runfolder import RunFolder, check_inputs, check_resume, stored_config


def check(grid: Sequence[Cell], recipes: Recipes, overrides: Sequence[str]) -> None:
    """Raise UserError unless every run of the grid can be started; touches nothing."""
    for cell in grid:
        recipes.check(cell)
        config = settings(cell, recipes, overrides)
        function = get_function(config.selection.function)
        load_object(config.model.factory, "model.factory")
        needed = {
            "il": (function.needs.il and config.il.table is None)
            or (function.needs.reference and config.il.weights is None),
            "svp": function.needs.core_set and config.svp.table is None,
        }
        for recipe, missing in needed.items():
            if missing:
                raise ConfigError(
                    f"arm {cell.arm.name}: {recipe}: missing, {config.selection.function} needs it;"
                    " name a recipe in its group"
                )


def check_runs(folder: Path, resume: bool) -> None:
    """Raise RunFolderError if there are runs and nobody asked to go on with them."""
    if not resume and folder.is_dir() and any(folder.iterdir()):
        raise RunFolderError(
            f"experiment folder {folder}: has runs; allowed a new one; go on with --resume or"
            " choose another --out"
        )


def settings(cell: Cell, recipes: Recipes, overrides: Sequence[str]) -> Config:
    """The configuration of a run. Raises ConfigError that names the arm."""
    keys = [f"{key}={tomlkit.item(value).as_string()}" for key, value in cell.set.items()]
    table, weights, core_set = (
        None if file is None else str(file)
        for file in (recipes.table(cell), recipes.il_weights(cell), recipes.core_set(cell))
    )
    tree: dict[str, object] = {
        "data": {"path": str(recipes.data(cell))},
        "il": {"table": table, "weights": weights},
        "svp": {"table": core_set},
        "metrics": {"port": -1},
    }
    try:
        return configuration.apply(tree, [*keys, *overrides])
    except ConfigError as error:
        raise ConfigError(f"{cell.group.name}, arm {cell.arm.name}: {error}") from None


def run(
    grid: Sequence[Cell],
    recipes: Recipes,
    folder: Path,
    overrides: Sequence[str],
    workers: int,
    console: Console,
) -> None:
    """Make what the grid needs, then run it in ``folder``. Finished runs are left as they are,
    unfinished ones go on. Raises RunFolderError if one was made with another configuration."""
    recipes.root.mkdir(parents=True, exist_ok=True)
    for number, cell in enumerate(grid):
        with console.status(f"{number + 1}/{len(grid)} data and irreducible losses of {cell.name}"):
            recipes.make(cell)
    for number, cell in enumerate(grid):
        path = folder / cell.name
        config = resolve(settings(cell, recipes, overrides))
        if (path / "summary.json").exists():
            _check_same(path, config)
            continue
        title = f"{number + 1}/{len(grid)} {cell.name}"
        console.print(title, highlight=False)
        _run_one(path, config, workers, console, title)


def _run_one(path: Path, config: Config, workers: int, console: Console, title: str) -> None:
    resumed = (path / "config.toml").is_file()
    if resumed:
        _check_same(path, config)
        config = check_resume(path, None, [])
    inputs = open_inputs(config)
    workers = workers if inputs.scoring.needs.forward else 0
    check_servers(config, workers)
    if resumed:
        check_inputs(path, inputs.sha256)
        folder = RunFolder.resume(path)
    else:
        folder = RunFolder.create(path, inputs.config, inputs.sha256)
    execute(inputs, folder, workers, console, title)
    write_page(path)


def _check_same(path: Path, config: Config) -> None:
    changed = resolve(stored_config(path)).changed_keys(config)
    if changed:
        raise RunFolderError(
            f"run folder {path}: made with another configuration ({', '.join(changed)}); allowed"
            " the same; remove it or choose another --out"
        )
