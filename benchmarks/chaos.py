"""Processes killed by the hundred, and every run ends with the bits of an undisturbed one.

Runs of `rhoctl train` (Ray actors, a real queue server) suffer seeded faults (tests/chaos) until
so many processes were killed; kills while something starts are not made. What became of each run is
kept in --folder, so that the command, given again, goes on where it was ended.

    python benchmarks/chaos.py --kills 1000 --json docs/results/chaos.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.progress import Progress

import arguments
from harness import HERE, show, synthetic_data, train, write

sys.path.insert(0, str(HERE.parent / "tests" / "chaos"))
from driver import ChaoticRun
from faults import FAULTS, endless
from queue_server import QueueServer

VARIANTS: dict[str, dict[str, Any]] = {
    "lag 0": {"selection.lag": 0},
    "lag 1, re-scored by the trainer": {"selection.lag": 1, "selection.rescore": "trainer"},
    "lag 1, re-scored by scorers": {"selection.lag": 1, "selection.rescore": "scorers"},
}
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="the first run's; then one more each")
    parser.add_argument("--steps", type=int, default=6000, help="of a run")
    parser.add_argument("--workers", type=int, default=8, help="of a run, at most")
    parser.add_argument("--folder", type=Path, default=Path("runs/chaos"), help="to go on in")
    # Seed 3 kills scorers: the command needs no second start.
    small = {"kills": 1, "seed": 3, "steps": 60, "workers": 1, "folder": Path("runs/chaos-quick")}
    options = arguments.parse(parser, **small)
    options.folder.mkdir(parents=True, exist_ok=True)
    base = settings_of(options.folder, options.steps)
    done = options.folder / "runs.jsonl"
    with Progress() as progress:
        task = progress.add_task("kills", total=options.kills)
        while True:
            runs = [json.loads(line) for line in done.open()] if done.exists() else []
            progress.update(task, completed=kills_of(runs))
            if kills_of(runs) >= options.kills:
                break
            row = one_run(options.folder, base, options.seed + len(runs), options.workers)
            with done.open("a") as file:
                file.write(json.dumps(row) + "\n")
    report(runs, options.seed, options.json)


def settings_of(folder: Path, steps: int) -> dict[str, Any]:
    """The settings that all runs share; their data are made once."""
    if not (folder / "il.parquet").exists():
        shutil.rmtree(folder / "data", ignore_errors=True)
        synthetic_data(folder, points=4000)
    return {
        "data.path": str(folder.resolve() / "data"),
        "il.table": str(folder.resolve() / "il.parquet"),
        "model.factory": "rhoselect.models:mlp",
        "model.args": {"width": 32},
        "selection.n_b": 8,
        "selection.n_B": 64,
        "selection.chunk": 16,
        "scorer.precision": "fp32",
        "queue.lease_s": 1.0,
        "queue.timeout_s": 60.0,
        "trainer.steps": steps,
        "trainer.eval_every": 1000,
        "trainer.checkpoint_every": 5,
        "metrics.port": -1,
    }


def one_run(folder: Path, base: dict[str, Any], seed: int, workers: int) -> Row:
    """A run that suffers until it ends, beside an undisturbed one of the same settings."""
    name, variant = list(VARIANTS.items())[seed % len(VARIANTS)]
    steps = base["trainer.steps"]
    alone, here = folder / f"{name}, {steps} steps", folder / "run"
    expected = undisturbed(alone, {**base, **variant})
    shutil.rmtree(here, ignore_errors=True)
    here.mkdir()
    with QueueServer(here) as server:
        run = ChaoticRun(here, alone.with_name(f"{alone.name}.toml"), [], seed, server, workers)
        outcome = run.run((kind, FAULTS[kind][1]) for kind in endless(seed))
    equal = None if outcome.hashes is None else list(outcome.hashes) == expected
    if not equal:  # kept, to be looked at
        here.rename(folder / f"failed-{seed}")
    return {"variant": name, "steps": steps, "equal": equal, **asdict(outcome)}


def undisturbed(run: Path, settings: dict[str, Any]) -> list[str]:
    """The two hashes of a run in one process that nothing happens to."""
    if not (run / "summary.json").exists():
        shutil.rmtree(run, ignore_errors=True)
        train(run, settings, workers=0)
    summary = json.loads((run / "summary.json").read_text())
    return [summary["selected_sha256"], summary["weights_sha256"]]


def kills_of(runs: Sequence[Row]) -> int:
    return sum(fault["kills"] for run in runs for fault in run["faults"])


def report(runs: Sequence[Row], seed: int, path: Path | None) -> None:
    """The figures of all runs, and of each kind of fault."""
    faults = list(itertools.chain.from_iterable(run["faults"] for run in runs))
    kinds: dict[str, list[Row]] = defaultdict(list)
    for fault in faults:
        kinds[fault["kind"]].append(fault)
    rows = [
        {
            "fault": kind,
            "times": len(found),
            "kills": sum(fault["kills"] for fault in found),
            **recoveries(found),
        }
        for kind, found in sorted(kinds.items(), key=lambda item: -len(item[1]))
    ]
    show("faults", rows, ("fault", "times", "kills", "median_s", "max_s"))
    figures = {
        "seed": seed,
        "kills": kills_of(runs),
        "runs": len(runs),
        "steps": sum(run["steps"] for run in runs),
        "faults": len(faults),
        "hash_mismatches": sum(run["equal"] is False for run in runs),
        "hangs": sum(run["hang"] for run in runs),
        "lost": sum(run["problem"] is not None and not run["hang"] for run in runs),
        "recoveries_s": {key.removesuffix("_s"): s for key, s in recoveries(faults).items()},
        "server_peak_bytes": max(run["server_peak_bytes"] for run in runs),
        "variants": Counter(run["variant"] for run in runs),
        "problems": [run["problem"] for run in runs if run["problem"]],
    }
    show("chaos", [figures], tuple(figures)[:8])
    write(path, {**figures, "rows": rows})


def recoveries(faults: Sequence[Row]) -> dict[str, float]:
    """Seconds until the run was as before: a newer checkpoint, and as many scorers at work."""
    seconds = [fault["recovery_s"] for fault in faults]
    return {"median_s": statistics.median(seconds), "max_s": max(seconds)}


if __name__ == "__main__":
    main()
