"""Stage 7: seconds to the accuracy that uniform selection ends up with, on wrong labels.

Fashion-MNIST (made-up images in a quick run), ResNet-18 of width 64, in one process on the device,
with a learning rate that falls to 0, points in the device's memory and forwards as graphs. No time
has evaluations in it, nor the fit of the irreducible losses, which the bundle has. One seed: it
shows that this runs, not how much it pays.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
from runs import ground, settings_of, train_here
from stage import Stage, run

UNIFORM, RHO, EVERY = 1500, 600, 75


@dataclass(frozen=True)
class Curve:
    """Accuracies at steps, and the seconds of training until each."""

    steps: list[int]
    accuracies: list[float]
    seconds: list[float]

    @property
    def best(self) -> float:
        return max(self.accuracies)

    def reach(self, target: float) -> int | None:
        """The place of the first accuracy that is at least ``target``."""
        return next((n for n, found in enumerate(self.accuracies) if found >= target), None)


def main(stage: Stage) -> None:
    for noise in (0.1,) if stage.quick else (0.4, 0.1):
        stage.part(f"{noise:.0%} noise", compare, noise, needs_s=5 if stage.quick else 25)


def compare(stage: Stage, noise: float) -> None:
    uniform = curve(stage, noise, "uniform", 30 if stage.quick else UNIFORM)
    rho = curve(stage, noise, "reducible_loss", 10 if stage.quick else RHO)
    name = f"{noise:.0%} noise"
    for who, found in (("uniform", uniform), ("RHO-LOSS", rho)):
        stage.figure(f"{name}, {who}: best accuracy", found.best)
        stage.figure(f"{name}, {who}: a step", 1e3 * found.seconds[-1] / found.steps[-1], "ms")
    place, own = rho.reach(uniform.best), uniform.reach(uniform.best)
    assert own is not None
    pays = {0.4: "more than 1", 0.1: ""}[noise]
    if place is None:
        stage.figure(f"{name}, times sooner", "never there", "", pays)
        return
    stage.figure(f"{name}, times fewer steps", uniform.steps[own] / rho.steps[place])
    stage.figure(f"{name}, times sooner", uniform.seconds[own] / rho.seconds[place], "", pays)


def curve(stage: Stage, noise: float, function: str, steps: int) -> Curve:
    data, table = ground(stage, noise)
    settings = settings_of(
        stage,
        "mlp" if stage.quick else "resnet18",
        steps,
        data__path=str(data),
        il__table=str(table),
        selection__function=function,
        selection__chunk=160,
        data__resident="device",
        scorer__graph=stage.cuda,
        trainer__schedule="cosine",
        trainer__eval_every=max(5, min(EVERY, steps // 8)),
    )
    return curve_of(train_here(stage, f"{function}-{noise:g}", settings))


def curve_of(folder: Path) -> Curve:
    found = [json.loads(line) for line in (folder / "eval.jsonl").read_text().splitlines()]
    elapsed_s = [0.0]
    for step_ms in pq.read_table(folder / "steps.parquet")["step_ms"].to_pylist():
        elapsed_s.append(elapsed_s[-1] + step_ms / 1e3)
    steps = [int(each["step"]) for each in found]
    return Curve(steps, [each["accuracy"] for each in found], [elapsed_s[step] for step in steps])


if __name__ == "__main__":
    run(main)
