"""Data sets, irreducible losses and core-sets of a grid, each made once by its recipe and kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit

from rhoselect.config import Config
from rhoselect.data.il_table import write_table
from rhoselect.errors import ConfigError, DataError, UserError
from rhoselect.files import place
from rhoselect.grids.grid import Cell
from rhoselect.grids.spec import DataRecipe, IlRecipe, ProxyRecipe, Scalar, Spec
from rhoselect.importers import check_options, import_dataset
from rhoselect.selection.coreset import write_entropies
from rhoselect.trainer.fit import (
    FitOptions,
    FitProgress,
    fit_folds,
    fit_holdout,
    fit_proxy,
    irreducible_config,
    proxy_config,
    save_model,
)


@dataclass(frozen=True)
class Recipes:
    """The recipes of an experiment under the folder ``root``.

    Experiments with the same recipes share what was made there. ``source`` = (kind, src) replaces
    the one in the file.
    """

    spec: Spec
    root: Path
    source: tuple[str | None, str] | None = None

    def data(self, cell: Cell) -> Path:
        """Folder of the cell's data set."""
        return self.root / "data" / f"{cell.data}-{_digest(self._data(cell))}"

    def table(self, cell: Cell) -> Path | None:
        """File of the cell's irreducible losses."""
        if cell.il is None:
            return None
        name = f"{cell.il}-{_digest(self._data(cell), self.spec.il[cell.il])}"
        return self.root / "il" / f"{name}.parquet"

    def il_weights(self, cell: Cell) -> Path | None:
        """File of the irreducible-loss model's weights, for methods that train it further."""
        table = self.table(cell)
        return None if table is None else table.with_suffix(".safetensors")

    def core_set(self, cell: Cell) -> Path | None:
        """File of the proxy's entropies."""
        name = cell.group.svp
        if name is None:
            return None
        name = f"{name}-{_digest(self._data(cell), self.spec.svp[name])}"
        return self.root / "svp" / f"{name}.safetensors"

    def check(self, cell: Cell) -> None:
        """Raise ConfigError or DataError for a recipe that cannot be followed, and for a source
        that is not there; writes nothing."""
        data = self._data(cell)
        if data.src != "auto" and not Path(data.src).exists() and not self.data(cell).exists():
            raise DataError(
                f"data recipe {cell.data}: {data.src}: no such file or folder; say where it is"
                " with --data"
            )
        where = f"data.{cell.data}"
        try:
            check_options(data.kind, data.options)
            if cell.il is not None:
                where = f"il.{cell.il}"
                self._il_config(cell, self.spec.il[cell.il])
            if cell.group.svp is not None:
                where = f"svp.{cell.group.svp}"
                self._proxy_config(cell, self.spec.svp[cell.group.svp])
        except UserError as error:
            raise ConfigError(f"{where}: {error}") from None

    def make(self, cell: Cell) -> None:
        """Import the data of a cell and fit what it needs, where that was not done."""
        folder, recipe = self.data(cell), self._data(cell)
        if not folder.exists():
            options = check_options(recipe.kind, recipe.options)
            import_dataset(recipe.kind, recipe.src, folder, **options)
        table, core_set = self.table(cell), self.core_set(cell)
        if table is not None and not table.exists():
            self._make_table(cell, table)
        if core_set is not None and not core_set.exists():
            self._make_core_set(cell, core_set)

    def _make_table(self, cell: Cell, path: Path) -> None:
        assert cell.il is not None
        recipe = self.spec.il[cell.il]
        config, log = self._il_config(cell, recipe), _Log(self.root / "make.log", path.name)
        options = FitOptions(recipe.batch, recipe.epochs, recipe.patience)
        if recipe.folds is not None:
            table = fit_folds(config, recipe.folds, options, log)
        else:
            table, model = fit_holdout(config, options, progress=log)
            save_model(path.with_suffix(".safetensors"), model, config, table)
        write_table(path, table)

    def _make_core_set(self, cell: Cell, path: Path) -> None:
        assert cell.group.svp is not None
        recipe = self.spec.svp[cell.group.svp]
        log = _Log(self.root / "make.log", path.name)
        options = FitOptions(recipe.batch, recipe.epochs)
        write_entropies(path, *fit_proxy(self._proxy_config(cell, recipe), options, log))

    def _data(self, cell: Cell) -> DataRecipe:
        recipe = self.spec.data[cell.data]
        kind, src = self.source or (None, recipe.src)
        here = str(place(src)) if src.startswith("~") else src
        return recipe.model_copy(update={"kind": kind or recipe.kind, "src": here})

    def _il_config(self, cell: Cell, recipe: IlRecipe) -> Config:
        return irreducible_config(str(self.data(cell)), recipe.model, assignments(recipe.set))

    def _proxy_config(self, cell: Cell, recipe: ProxyRecipe) -> Config:
        return proxy_config(str(self.data(cell)), recipe.model, assignments(recipe.set))


def assignments(keys: Mapping[str, Scalar]) -> list[str]:
    """Configuration keys as "SECTION.KEY=VALUE", with values in TOML."""
    return [f"{key}={tomlkit.item(value).as_string()}" for key, value in keys.items()]


class _Log(FitProgress):
    """Appends a line an epoch to a file."""

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name

    def epoch(self, epoch: int, loss: float) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"{self._name}: epoch {epoch}: mean loss {loss:.4f} nats\n")


def _digest(*recipes: DataRecipe | ProxyRecipe) -> str:
    words: list[dict[str, Any]] = [recipe.model_dump(mode="json") for recipe in recipes]
    return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()[:10]
