"""Data sets, irreducible losses and core-sets, made once by recipe and kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import typer
from typer.core import TyperGroup

from rhoselect.cli.commands import data as data_commands
from rhoselect.cli.commands import il as il_commands
from rhoselect.cli.commands import svp as svp_commands
from rhoselect.errors import ConfigError, DataError
from rhoselect.grids.spec import Cell, DataRecipe, Spec


@dataclass(frozen=True)
class Recipes:
    """The recipes of an experiment under the folder ``root``; other experiments with the same
    recipes share what was made. ``source`` = (kind, src) stands in for that of the file."""

    spec: Spec
    root: Path
    source: tuple[str | None, str] | None = None

    def data(self, cell: Cell) -> Path:
        """Folder of the cell's data set."""
        return self.root / "data" / f"{cell.data}-{_digest(*self._import_words(cell))}"

    def table(self, cell: Cell) -> Path | None:
        """File of the cell's irreducible losses."""
        if cell.il is None:
            return None
        words = (*self._import_words(cell), *self.spec.il[cell.il].args)
        return self.root / "il" / f"{cell.il}-{_digest(*words)}.parquet"

    def il_weights(self, cell: Cell) -> Path | None:
        """File of the irreducible-loss model's weights, for those who train it further."""
        table = self.table(cell)
        return None if table is None else table.with_suffix(".safetensors")

    def core_set(self, cell: Cell) -> Path | None:
        """File of the proxy's entropies."""
        name = cell.group.svp
        if name is None:
            return None
        words = (*self._import_words(cell), *self.spec.svp[name].args)
        return self.root / "svp" / f"{name}-{_digest(*words)}.safetensors"

    def check(self, cell: Cell) -> None:
        """Raise ConfigError or DataError for arguments that the commands do not take, and for a
        source that is not there."""
        recipe = self._recipe(cell)
        if recipe.src != "auto" and not Path(recipe.src).exists() and not self.data(cell).exists():
            raise DataError(
                f"data recipe {cell.data}: {recipe.src}: no such file or folder; say where it is"
                " with --data"
            )
        _parse(data_commands.app, "import", self._import_words(cell, "dst"), f"data.{cell.data}")
        if cell.il is not None:
            _parse(il_commands.app, "fit", self._il_words(cell), f"il.{cell.il}")
        if cell.group.svp is not None:
            _parse(svp_commands.app, "fit", self._svp_words(cell), f"svp.{cell.group.svp}")

    def make(self, cell: Cell) -> None:
        """Import the data of a cell and fit what it needs, where that was not done."""
        with (self.root / "make.log").open("a") as log, redirect_stdout(log):
            if not self.data(cell).exists():
                _run(data_commands.app, ["import", *self._import_words(cell, str(self.data(cell)))])
            table, core_set = self.table(cell), self.core_set(cell)
            if table is not None and not table.exists():
                _run(il_commands.app, ["fit", *self._il_words(cell)])
            if core_set is not None and not core_set.exists():
                _run(svp_commands.app, ["fit", *self._svp_words(cell)])

    def _recipe(self, cell: Cell) -> DataRecipe:
        recipe = self.spec.data[cell.data]
        if self.source is None:
            return recipe
        kind, src = self.source
        return recipe.model_copy(update={"kind": kind or recipe.kind, "src": src})

    def _import_words(self, cell: Cell, *dst: str) -> list[str]:
        recipe = self._recipe(cell)
        return [recipe.kind, recipe.src, *dst, *recipe.args]

    def _il_words(self, cell: Cell) -> list[str]:
        assert cell.il is not None
        args = self.spec.il[cell.il].args
        where = ["--data", str(self.data(cell)), "--out", str(self.table(cell))]
        if "--folds" not in args:  # whose models are many
            where += ["--weights-out", str(self.il_weights(cell))]
        return [*where, *args]

    def _svp_words(self, cell: Cell) -> list[str]:
        assert cell.group.svp is not None
        where = ["--data", str(self.data(cell)), "--out", str(self.core_set(cell))]
        return [*where, *self.spec.svp[cell.group.svp].args]


def _digest(*words: str) -> str:
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()[:10]


def _run(app: typer.Typer, words: Sequence[str]) -> None:
    app(list(words), standalone_mode=False)


def _parse(app: typer.Typer, command: str, words: Sequence[str], where: str) -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    try:
        group.commands[command].make_context(command, list(words))
    except Exception as error:  # whichever click this typer brings along
        if not hasattr(error, "format_message"):
            raise
        raise ConfigError(f"{where}: {' '.join(error.format_message().split())}") from None
