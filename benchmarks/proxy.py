"""A smaller network that scores in place of the target: accuracy, steps, FLOPs, seconds.

Fashion-MNIST, half of it holdout; an MLP of 2 x 512 trains, at 32 of 320 points a step, with a rate
that falls to 0 along a cosine. Proxies are MLPs of smaller widths, each with irreducible losses of
its own size; width 512 is the target itself. *twice*: the target re-scores the best 3 n_b of the
proxy, by the proxy's irreducible losses. Uniform runs have twice the steps.

``flops_saved`` and ``seconds_saved`` compare the steps to the best accuracy of the same seed's
uniform run (means of three neighbours), in one process. Seconds are those of ``--parts time``,
which wants a quiet machine. Figures in --json are kept, and what is there is not run again.

    python benchmarks/proxy.py --json docs/results/proxy.json
    python benchmarks/proxy.py --json docs/results/proxy.json --parts accuracy --noise 0.1 --seeds 0
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import arguments
from curves import Curve, curve_of, fit_il, import_data
from harness import show, write, write_config
from rhoselect.cli import main as rhoctl

Figures = dict[str, Any]
MLP, TARGET, N_B, N_WINDOW, CHUNK = "rhoselect.models:mlp", 512, 32, 320, 80
FIT = ["--epochs", 3, "--batch", 128, "--set", "scorer.precision=fp32"]
COLUMNS = ("noise", "seed", "scores", "flops_step", "step_ms", "final", "best", "steps_to_uniform")
COLUMNS += ("flops_saved", "seconds_saved")


@dataclass(frozen=True)
class Arm:
    """A network of ``width`` scores, and with ``twice`` the target again; 0: uniform batches."""

    width: int
    twice: bool = False

    def __str__(self) -> str:
        return f"{self.width}{', twice' if self.twice else ''}" if self.width else "uniform"

    @property
    def settings(self) -> dict[str, Any]:
        if not self.width:
            return {"selection.function": "uniform"}
        proxy = {"scorer.proxy": MLP, "scorer.proxy_args": {"width": self.width}}
        again = {"selection.shortlist": 3, "selection.temperature": 0.0}
        return (proxy if self.width != TARGET else {}) | (again if self.twice else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=["accuracy", "time"], default=["accuracy"])
    parser.add_argument("--noise", type=float, nargs="+", default=[0.1, 0.4])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--widths", type=int, nargs="+", default=[512, 256, 128, 64, 32])
    parser.add_argument("--steps", type=int, default=1000)
    options = arguments.parse(
        parser, noise=[0.1], seeds=[0], widths=[512, 64], steps=30, parts=["accuracy", "time"]
    )
    arms = [Arm(width) for width in options.widths]
    arms += [Arm(width, twice=True) for width in options.widths if width < TARGET]
    found = known(options.json)
    with tempfile.TemporaryDirectory() as scratch:
        grounds = [Ground(Path(scratch), noise, options.quick) for noise in options.noise]
        if "accuracy" in options.parts:
            for ground, seed in itertools.product(grounds, options.seeds):
                for row in missing(found["rows"], ground, seed, arms, options.steps):
                    found["rows"].append(row)
                    write(options.json, found)  # so that a later call goes on from here
        if "time" in options.parts:
            for arm in (Arm(0), *arms):
                found["step_ms"][str(arm)] = grounds[0].run(arm, seed=0, steps=80).step_ms
    add_seconds(found)
    write(options.json, found)
    show("by width of the network that scores", found["rows"], COLUMNS)


def known(path: Path | None) -> Figures:
    """The figures of a file that an earlier call wrote."""
    if path is None or not path.exists():
        return {"rows": [], "step_ms": {}}
    found = json.loads(path.read_text())
    return {"rows": found["rows"], "step_ms": found["step_ms"]}


class Ground:
    """A data set with ``noise`` of its labels wrong, and tables by width, made when needed."""

    def __init__(self, folder: Path, noise: float, quick: bool) -> None:
        self.noise, self._folder, self._quick = noise, folder, quick

    def settings(self, arm: Arm) -> dict[str, Any]:
        """Those of a run of ``arm``, but for its seed and steps."""
        data = self._folder / f"data-{self.noise:g}"
        if not data.exists():
            import_data(data, self.noise, self._quick)
        found = {
            "data.path": str(data),
            "model.args": {"width": TARGET, "depth": 2},
            "selection.n_b": N_B,
            "selection.n_B": N_WINDOW,
            "selection.chunk": CHUNK,
            "scorer.precision": "fp32",
            **arm.settings,
        }
        if arm.width:
            table = self._folder / f"il-{self.noise:g}-{arm.width}.parquet"
            if not table.exists():
                width = ["--set", f"model.args.width={arm.width}"]
                fit_il(self.noise, data, table, MLP, [*FIT, *width])
            found["il.table"] = str(table)
        return found

    def run(self, arm: Arm, seed: int, steps: int) -> Curve:
        """A run to its end."""
        run = self._folder / f"run-{self.noise:g}-{seed}-{steps}-{arm}".replace(", ", "-")
        how = {
            "seed": seed,
            "trainer.steps": steps,
            "trainer.schedule": "cosine",
            "trainer.eval_every": min(50, steps // 4),
            "trainer.checkpoint_every": steps,
            "metrics.port": -1,
        }
        config = run.with_name(f"{run.name}.toml")
        write_config(config, {**self.settings(arm), **how})
        with redirect_stdout(StringIO()):
            assert rhoctl.run(["train", str(config), "--run-dir", str(run)]) == 0
        return curve_of(run)


def missing(
    rows: list[Figures], ground: Ground, seed: int, arms: list[Arm], steps: int
) -> Iterator[Figures]:
    """Run what ``rows`` do not have yet of one seed on one data set."""
    cell = {"noise": ground.noise, "seed": seed}
    done = {row["scores"]: row for row in rows if cell.items() <= row.items()}
    for arm in (Arm(0), *arms):
        if str(arm) not in done:
            curve = ground.run(arm, seed, steps if arm.width else 2 * steps)
            done[str(arm)] = row_of(cell, arm, curve, done.get(str(Arm(0))))
            yield done[str(arm)]


def row_of(cell: Figures, arm: Arm, curve: Curve, uniform: Figures | None) -> Figures:
    """The figures of a run; ``steps_to_uniform``: those to the best of the ``uniform`` one."""
    place = curve.reach(uniform["best"] if uniform else curve.best)
    row = {
        **cell,
        "scores": str(arm),
        "flops_step": (curve.flops["train"] + curve.flops["score"]) / curve.steps[-1],
        "flops_il": curve.flops["il"],
        "final": curve.accuracies[-1],
        "best": curve.best,
        "steps_to_uniform": None if place is None else curve.steps[place],
    }
    return {**row, "flops_saved": saved(row, uniform, "flops_step")}


def saved(row: Figures, uniform: Figures | None, each: str) -> float | None:
    """The share of what the ``uniform`` run takes to its best that a run does not take to that, in
    what a step takes ``each``."""
    steps = row["steps_to_uniform"]
    if uniform is None or steps is None:
        return None
    return 1 - steps * row[each] / (uniform["steps_to_uniform"] * uniform[each])


def add_seconds(found: Figures) -> None:
    """Give all rows the time of their steps, as far as it was measured."""
    uniform = {(r["noise"], r["seed"]): r for r in found["rows"] if r["scores"] == str(Arm(0))}
    for row in found["rows"]:
        if row["scores"] in found["step_ms"]:
            row["step_ms"] = found["step_ms"][row["scores"]]
    for row in found["rows"]:
        whole = uniform[row["noise"], row["seed"]]
        if row is not whole and "step_ms" in row and "step_ms" in whole:
            row["seconds_saved"] = saved(row, whole, "step_ms")


if __name__ == "__main__":
    main()
