"""The map of benchmarks/map: what its entries hold, its words, and that it goes on."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rhoselect import config as configuration

ROOT = Path(__file__).parent.parent
Part = Callable[[str], ModuleType]
KEYS = {
    *("noise", "copies", "budget", "target", "arm"),
    *("seeds", "final", "device_seconds", "flops", "run"),
}


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch) -> Part:
    """A function that imports a module of the benchmark. Its folders come last, as one has a
    module of the name of Python's own."""
    folders = (ROOT / "benchmarks" / "map", ROOT / "benchmarks", ROOT)
    monkeypatch.setattr(sys, "path", [*sys.path, *map(str, folders)])
    return importlib.import_module


def ended(folder: Path, run: str, final: float, **changed: Any) -> None:
    """Leave what the collecting part reads of a finished run."""
    path = folder / run
    path.mkdir(parents=True)
    summary = {
        "final_metric": final,
        "metric": "accuracy",
        "metric_direction": "max",
        "steps": 1000,
        "flops": {"train": 3, "score": 2, "il": 1},
    }
    (path / "summary.json").write_text(json.dumps({**summary, **changed}))
    (path / "config.toml").write_text("[trainer]\nlr = 0.001\n")


def test_the_map_has_an_entry_a_cell_and_arm_also_where_nothing_ran(
    part: Part, tmp_path: Path
) -> None:
    cells, table = part("cells"), part("table")
    every = cells.cells_of(cells.TARGETS)
    runs = tmp_path / "mlp-noise10" / "runs"
    for seed, (uniform, rho) in enumerate([(0.80, 0.82), (0.81, 0.83)]):
        ended(runs, f"mlp-short-uniform-{seed}", uniform)
        ended(runs, f"mlp-short-rho_loss-{seed}", rho)
    costs = tmp_path / "costs.json"
    measured = {"uniform_s": 0.01, "selection_s": 0.03, "il_s": 5.0, "machine": {}}
    costs.write_text(json.dumps({"mlp": measured}))
    entries = table.entries_of(every, tmp_path, costs, {})
    assert all(entry.keys() >= KEYS for entry in entries)
    assert len(entries) == 3 * len(every) == 3 * (12 + 12 + 2 + 2)
    place = [cell.name for cell in every].index("mlp-noise10-short")
    uniform, longer, rho = entries[3 * place : 3 * place + 3]
    assert (uniform["seeds"], uniform["final"]) == ([0, 1], [0.80, 0.81])
    assert (uniform["device_seconds"], rho["device_seconds"]) == (10.0, 35.0)
    assert (rho["flops"], rho["run"]) == (6, True)
    assert (longer["run"], longer["final"], longer["device_seconds"]) == (False, [], None)
    assert sum(entry["run"] for entry in entries) == 2

    rows = table.rows_of(json.loads(json.dumps(entries)))
    assert rows[place].steps.mean == pytest.approx(2.0)
    assert rows[place].seconds is None
    text = part("page").page(rows, {"mlp": {**measured, "machine": {"cpu": "X", "torch": "2"}}})
    assert "| MLP, 10% wrong labels, short |" in text
    assert "not run" in text
    part("picture").draw(rows, tmp_path / "map.png")
    assert (tmp_path / "map.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("rho", "metric", "direction", "said"),
    [
        ([0.8, 0.9], "accuracy", "max", "wins"),
        ([0.6, 0.7], "accuracy", "max", "loses"),
        ([0.6, 0.9], "accuracy", "max", "draws"),
        ([0.6, 0.7], "bits_per_byte", "min", "wins"),
        ([0.8], "accuracy", "max", "one seed"),
    ],
    ids=["wins", "loses", "draws", "less is better", "one seed"],
)
def test_a_difference_within_its_interval_is_a_draw(
    part: Part, rho: list[float], metric: str, direction: str, said: str
) -> None:
    def entry(final: list[float]) -> dict[str, Any]:
        seeds = list(range(len(final)))
        return {"seeds": seeds, "final": final, "metric": metric, "direction": direction}

    assert part("table").gain(entry(rho), entry([0.7, 0.8])).word == said


def test_uniform_batches_get_the_seconds_of_scoring_and_of_the_irreducible_losses(
    part: Part,
) -> None:
    cells = part("cells")
    costs = cells.Costs(uniform_s=0.01, selection_s=0.03, il_s=5.0, machine={})
    arms = costs.arms(configuration.load(cells.TARGETS[0].file, ["data.path=d"]), 1000)
    assert [(arm.name, arm.steps, arm.points) for arm in arms] == [
        ("uniform", 1000, "train"),
        ("uniform_seconds", 3500, "joined"),
        ("rho_loss", 1000, "train"),
    ]
    assert costs.of("uniform_seconds", 3500) == costs.of("rho_loss", 1000)


def test_other_pages_say_what_the_map_holds(part: Part) -> None:
    page, table = part("page"), part("table")
    entries = json.loads((ROOT / "docs" / "results" / "map.json").read_text())
    for (place, name), passage in page.passages(table.rows_of(entries)).items():
        text = (ROOT / place).read_text()
        assert page.between(text, name, passage) == text, "run python benchmarks/map --draw --pages"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_smallest_map_goes_on_where_it_was_interrupted(part: Part, tmp_path: Path) -> None:
    main = part("command")
    folder = tmp_path / "runs"
    words = ["--quick", "--folder", str(folder), "--data", str(tmp_path / "data")]
    words += ["--results", str(tmp_path), "--costs", str(tmp_path / "costs.json")]
    main.main([*words, "--cells", "*-short", "--minutes", "0"])
    found = json.loads((tmp_path / "map.json").read_text())
    assert not any(entry["run"] for entry in found)
    main.main(words)
    found = json.loads((tmp_path / "map.json").read_text())
    assert all(entry["run"] and entry["seeds"] == [0, 1] for entry in found)
    # Another machine has the results, not the runs; of one cell it lacks a seed, too.
    shutil.rmtree(folder)
    lacking = json.loads(json.dumps(found))
    lacking[-1]["seeds"], lacking[-1]["final"] = [0], found[-1]["final"][:1]
    (tmp_path / "map.json").write_text(json.dumps(lacking))
    main.main(words)
    assert json.loads((tmp_path / "map.json").read_text()) == found
    trained = {path.parent.name for path in folder.glob("*/runs/*/summary.json")}
    assert "tiny-long-rho_loss-1" in trained
    assert not any("short" in name or "tune" in name for name in trained)
