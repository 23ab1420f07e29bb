"""Seconds to the accuracy that uniform selection ends up with: the question that counts.

Four parts, on Fashion-MNIST with wrong labels (30k to train on, 30k held out), every arm with
several seeds. The target is the best accuracy (mean of three neighbouring evaluations on a fixed
grid) of the same seed's uniform run on one device; evaluations are left out of all times. RHO-LOSS
runs have a third of uniform's steps, and their own decay where the learning rate decays.

real      These cores, nothing emulated. Uniform in its best form (a plain loop: resident data,
          fused optimizer, best number of threads) against serial and parallel RHO-LOSS.
emulated  Real learning, with a step's duration as measured on the emulated device (a file of
          benchmarks/scaling.py): the points selected are bit for bit the same for any number of
          workers, so the curve of one process is the curve of all. Irreducible losses are priced at
          their FLOPs, spread over all devices.
live      The emulated device itself: 16 scorers and a trainer learn for real, each step at least
          as long as declared.
equal     17 emulated devices: uniform data-parallel on k of them (batch 32 k) against RHO-LOSS that
          trains on k (n_b = 32 k) and scores with all; the best of three learning rates (on the
          first seed) for either, no communication charged to either.

    python benchmarks/time_to_accuracy.py --json docs/results/time_to_accuracy.json
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rich.progress import Progress

import arguments
import baseline
from cases import MODELS, N_B, RATIO, Case
from curves import Curve
from harness import show, write

Row = dict[str, Any]
TRAIN_MS, CHUNK, FACTOR = 100.0, 20, 0.26
POINT_MS = TRAIN_MS / 3 / N_B  # a forward of one point
COLUMNS = (
    *("part", "model", "noise", "arm", "speedup_steps", "speedup_wall", "speedup_wall_with_il"),
    *("ceiling", "step_ms", "reached"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--models", nargs="+", default=["mlp"], choices=list(MODELS))
    parser.add_argument("--noise", type=float, nargs="+", default=[0.1, 0.4])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--devices", type=int, default=17, help="emulated ones; one trains")
    parser.add_argument("--scaling", type=Path, default=Path("docs/results/scaling.json"))
    small = {"models": ["tiny"], "noise": [0.1], "seeds": [0], "devices": 3}
    options = arguments.parse(parser, **small)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch, Progress() as progress:
        cases = [(m, n) for m in options.models for n in options.noise]
        task = progress.add_task("runs", total=len(cases) * len(options.parts))
        for model, noise in cases:
            case = Case(Path(scratch) / model, model, noise, options)
            for part in options.parts:
                rows += [{"part": part, **r} for r in PARTS[part](case)]
                progress.advance(task)
    show("time to uniform's best accuracy", rows, COLUMNS)
    write(options.json, {"seeds": options.seeds, "rows": rows})


def real(case: Case) -> list[Row]:
    """Nothing emulated: seconds on these cores."""
    serial = serial_form(case)
    cosine = {"trainer__schedule": "cosine"}
    arms: dict[str, tuple[int, dict[str, Any]]] = {
        "serial RHO": (0, serial),
        "serial RHO, cosine": (0, {**serial, **cosine}),
        "parallel RHO, 1 worker": (1, {}),
    }
    if not case.spec["decays"]:
        del arms["serial RHO, cosine"]
    uniform_of = {
        decay: {s: baseline.uniform(case.ground, case.spec, N_B, s, decay) for s in case.seeds}
        for decay in {name.endswith("cosine") for name in arms}
    }
    rows = []
    for name, (workers, settings) in arms.items():
        uniform = uniform_of[name.endswith("cosine")]
        forward_ms = baseline.forward_ms(case.ground, case.spec, RATIO * N_B, workers + 1)
        ideal_ms = statistics.median(u.step_ms for u in uniform.values()) + forward_ms
        found = {seed: case.curve(seed, workers, **settings) for seed in case.seeds}
        rows.append(row(name, case, uniform, found, ideal_ms))
    return rows


def serial_form(case: Case) -> dict[str, Any]:
    """RHO-LOSS in one process in its best form: a window is one chunk; threads by a short trial."""
    forms = [
        {"selection__chunk": RATIO * N_B, "trainer__threads": n, "scorer__threads": n}
        for n in (1, 2)
    ]
    return min(forms, key=lambda form: case.curve(0, **form, trainer__steps=40).step_ms)


def emulated(case: Case) -> list[Row]:
    """Real curves, durations of the emulated device."""
    forms: dict[str, dict[str, Any]] = {"": {}}
    if case.spec["decays"]:
        forms[", cosine"] = {"trainer__schedule": "cosine"}
    found = {
        form: (
            {seed: case.uniform(seed, **settings) for seed in case.seeds},
            {seed: case.curve(seed, **settings) for seed in case.seeds},
        )
        for form, settings in forms.items()
    }
    rows = []
    for workers in (0, case.devices - 1):
        overhead_ms, uniform_ms = case.measured_ms(TRAIN_MS, workers)
        chunks = math.ceil(RATIO * N_B / CHUNK / (workers + 1))
        bound_ms = TRAIN_MS + chunks * CHUNK * POINT_MS * FACTOR
        name = f"parallel RHO, {workers} workers" if workers else "serial RHO"
        times = {"uniform_ms": uniform_ms, "step_ms": bound_ms + overhead_ms}
        for form, (uniform, rho) in found.items():
            rows.append(row(f"{name}{form}", case, uniform, rho, bound_ms, **times))
    return rows


def equal(case: Case) -> list[Row]:
    """Of all devices, k train; the learning rate is the one that serves the first seed best."""
    overhead_ms, uniform_ms = case.measured_ms(TRAIN_MS, case.devices - 1)
    target = {seed: case.uniform(seed) for seed in case.seeds}
    rows = []
    for k in [k for k in (1, 4, 16) if k < case.devices]:
        size = {"selection__n_b": N_B * k, "selection__n_B": RATIO * N_B * k}
        size |= {"trainer__eval_every": max(5, 25 // k), "selection__chunk": 160 * min(k, 4)}
        long, short = ({"trainer__steps": case.spec["steps"] // k // n} for n in (1, 3))
        bound_ms = TRAIN_MS + RATIO * N_B * k * POINT_MS * FACTOR / case.devices
        alone = {"step_ms": uniform_ms, "il": False}
        lr, found = best_lr(case, partial(case.uniform, **size, **long))
        name = f"uniform, k = {k}, lr {lr:g}"
        rows.append(row(name, case, target, found, uniform_ms, uniform_ms, **alone))
        if k < case.devices - 1:
            lr, found = best_lr(case, partial(case.curve, **size, **short))
            times = {"uniform_ms": uniform_ms, "step_ms": bound_ms + overhead_ms}
            rows.append(row(f"RHO, k = {k}, lr {lr:g}", case, target, found, bound_ms, **times))
    return rows


def best_lr(case: Case, learn: Callable[..., Curve]) -> tuple[float, dict[int, Curve]]:
    """The learning rate with which the first seed reaches its target in the fewest steps (if with
    none: comes closest), and the curves of all seeds with it."""
    first = case.seeds[0]
    target = case.uniform(first).best

    def worth(lr: float) -> tuple[float, float]:
        curve = learn(first, trainer__lr=lr)
        place = curve.reach(target)
        return (math.inf if place is None else curve.steps[place], -curve.best)

    lr = min((1e-3, 2e-3, 4e-3), key=worth)
    return lr, {seed: learn(seed, trainer__lr=lr) for seed in case.seeds}


def live(case: Case) -> list[Row]:
    """Lag 0 on the emulated device; the ceiling is a step of training alone.

    Sixteen scorers' real arithmetic on a few cores makes steps longer than declared.
    """
    workers = case.devices - 1
    _, uniform_ms = case.measured_ms(TRAIN_MS, workers)
    uniform = {seed: case.uniform(seed) for seed in case.seeds}
    device = {"point_ms": POINT_MS, "precision_factor": FACTOR}
    settings = {
        "model__factory": case.spec["model"]["factory"].replace("rhoselect.models", "emulated"),
        "model__args": {**case.spec["model"]["args"], **device},
        "selection__chunk": CHUNK,
        "trainer__steps": case.spec["steps"] // 6,
    }
    found = {seed: case.curve(seed, workers, **settings) for seed in case.seeds}
    name = f"parallel RHO, {workers} workers, lag 0"
    return [row(name, case, uniform, found, TRAIN_MS, uniform_ms)]


PARTS = {"real": real, "emulated": emulated, "live": live, "equal": equal}


def row(
    arm: str,
    case: Case,
    uniform: dict[int, Curve],
    found: dict[int, Curve],
    ideal_ms: float | None,
    uniform_ms: float | None = None,
    step_ms: float | None = None,
    il: bool = True,
) -> Row:
    """Medians over the seeds; a seed that does not get there counts as a speedup of 0."""
    figures: dict[str, list[float]] = {}
    reached = 0
    for seed, base in uniform.items():
        curve, place, own = found[seed], found[seed].reach(base.best), base.reach(base.best)
        assert own is not None
        base_s = base.steps[own] * uniform_ms / 1e3 if uniform_ms else base.seconds[own]
        values = dict.fromkeys(("speedup_steps", "speedup_wall", "speedup_wall_with_il"), 0.0)
        values |= {"seconds": float("inf"), "uniform_seconds": base_s, "target": base.best}
        if place is not None:
            reached += 1
            seconds = curve.steps[place] * step_ms / 1e3 if step_ms else curve.seconds[place]
            il_s = il_seconds(case, curve, uniform_ms) if il else 0.0
            values |= {
                "speedup_steps": base.steps[own] / curve.steps[place],
                "speedup_wall": base_s / seconds,
                "speedup_wall_with_il": base_s / (seconds + il_s),
                "seconds": seconds,
            }
        for name, value in values.items():
            figures.setdefault(name, []).append(value)
    medians = {name: statistics.median(values) for name, values in figures.items()}
    base_ms = uniform_ms or statistics.median(c.step_ms for c in uniform.values())
    il_model, il_args = case.spec["il"]
    return {
        "model": case.name,
        "noise": case.ground.noise,
        "arm": arm,
        **{name: None if value == float("inf") else value for name, value in medians.items()},
        "ceiling": medians["speedup_steps"] * base_ms / ideal_ms if ideal_ms else None,
        "step_ms": step_ms or statistics.median(c.step_ms for c in found.values()),
        "reached": f"{reached} of {len(uniform)}",
        "il": " ".join(map(str, (il_model, *il_args))),
        "seeds": list(uniform),
        "by_seed": figures["speedup_wall"],
    }


def il_seconds(case: Case, curve: Curve, uniform_ms: float | None) -> float:
    """Seconds of the irreducible losses: measured, or priced at their FLOPs over all devices."""
    if uniform_ms is None:
        return case.ground.il_seconds
    per_step = curve.flops["train"] / max(curve.steps)
    return case.ground.il_flops / per_step * uniform_ms / 1e3 / case.devices


if __name__ == "__main__":
    main()
