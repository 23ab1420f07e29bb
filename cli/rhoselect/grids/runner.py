"""The grid of an experiment: all checked first, then one run after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from rhoselect import config as configuration
from rhoselect.config import Config, resolve
from rhoselect.errors import ConfigError, RunFolderError, listed
from rhoselect.grids.grid import Cell
from rhoselect.grids.recipes import Recipes, assignments
from rhoselect.importing import load_object
from rhoselect.inputs import RunInputs, check_use_of_proxy, open_inputs
from rhoselect.report.page import write_page
from rhoselect.selection import get_function
from rhoselect.trainer.driver import driving
from rhoselect.trainer.rehearsal import check_start
from rhoselect.trainer.resuming import go_on_with
from rhoselect.trainer.runfolder import RunFolder, check_inputs, stored_config
from rhoselect.trainer.tracking import check_tracker

Execute = Callable[[RunInputs, RunFolder, int, str], object]
"""Trains a run to its end in its folder, with a number of scorers and a title for people."""


def check(grid: Sequence[Cell], recipes: Recipes, overrides: Sequence[str]) -> list[Config]:
    """The configuration of each run. Raises UserError unless every run can be configured; writes
    nothing."""
    configs = []
    for cell in grid:
        recipes.check(cell)
        config = settings(cell, recipes, overrides)
        function = get_function(config.selection.function)
        load_object(config.model.factory, "model.factory")
        check_use_of_proxy(config, function)
        configs.append(config)
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
    return configs


def check_runs(folder: Path, resume: bool) -> None:
    """Raise RunFolderError if ``folder`` has runs, unless ``resume`` says to go on with them."""
    if not resume and folder.is_dir() and any(folder.iterdir()):
        raise RunFolderError(
            f"experiment folder {folder}: has runs; allowed a new one; go on with --resume or"
            " choose another --out"
        )


def settings(cell: Cell, recipes: Recipes, overrides: Sequence[str]) -> Config:
    """The configuration of a run. Raises ConfigError that names the arm."""
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
        return configuration.apply(tree, [*assignments(cell.set), *overrides])
    except ConfigError as error:
        raise ConfigError(f"{cell.group.name}, arm {cell.arm.name}: {error}") from None


def run(
    grid: Sequence[Cell],
    recipes: Recipes,
    folder: Path,
    overrides: Sequence[str],
    execute: Execute,
    workers: int,
    console: Console,
) -> None:
    """Make what the grid needs, then run one cell after the other in ``folder``, with ``workers``
    scorers if its method needs forwards.

    Finished runs are left as they are, unfinished ones go on. Raises RunFolderError for a run that
    was made with another configuration.
    """
    recipes.root.mkdir(parents=True, exist_ok=True)
    for number, cell in enumerate(grid):
        with console.status(f"{number + 1}/{len(grid)} data and irreducible losses of {cell.name}"):
            recipes.make(cell)
    runs = {cell.name: settings(cell, recipes, overrides) for cell in grid}
    train_all(runs, folder, execute, workers, console)


def train_all(
    runs: Mapping[str, Config], folder: Path, execute: Execute, workers: int, console: Console
) -> None:
    """Train {name of its folder: configuration} one after the other in ``folder``, as ``run``."""
    for number, (name, given) in enumerate(runs.items()):
        path, config = folder / name, resolve(given)
        if (path / "summary.json").exists():
            _check_same(path, config)
            continue
        title = f"{number + 1}/{len(runs)} {name}"
        console.print(title, highlight=False)
        _run_one(path, config, execute, workers, title)


def _run_one(path: Path, config: Config, execute: Execute, workers: int, title: str) -> None:
    resumed = path.exists()
    if resumed:
        _check_same(path, config)
    check_tracker(config.trainer.tracker)
    inputs = open_inputs(config)
    if resumed:
        check_inputs(path, inputs.sha256)
    workers = workers if inputs.scoring.needs.forward else 0
    check_start(inputs, workers)
    new = None if resumed else RunFolder.create(path, inputs.config, inputs.sha256)
    with driving(path):
        if new is None:
            go_on_with(path, config)
        execute(inputs, new or RunFolder.resume(path), workers, title)
        write_page(path)


def _check_same(path: Path, config: Config) -> None:
    stored = resolve(stored_config(path))
    changed = stored.changed_keys(config)
    # Recipes name what they make by what it holds. The folder may have moved.
    before, now = stored.inputs, config.inputs
    changed += [k for k in now | before if _name(now.get(k)) != _name(before.get(k))]
    if changed:
        raise RunFolderError(
            f"run folder {path}: made with another configuration ({listed(changed)}); allowed"
            " the same; remove it or choose another --out"
        )


def _name(path: str | None) -> str | None:
    return None if path is None else Path(path).name
