"""What share of the bare work's speed a run in one process (`--workers 0`) keeps.

The bare work of a step is what no run can leave out: the forwards of a window's chunks by a replica
and one step of a learner, on batches that are at hand. The run and the bare work take turns in one
process, a few steps each, so that load on the machine slows both down. ``share`` is the median over
turns of bare seconds by a run's; ``cpu_share`` is the same of processor seconds, in which what the
run's threads do beside each other counts in full.

    python benchmarks/single.py --json docs/results/single.json
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

import arguments
from harness import show, synthetic_data, write, write_config
from rhoselect.compute import keep_memory, threads
from rhoselect.config import load
from rhoselect.inputs import RunInputs, open_inputs
from rhoselect.runtime.local import SerialRun, run_serial
from rhoselect.trainer.build import new_learner
from rhoselect.trainer.runfolder import RunFolder

N_B, N_BIG = 32, 320
MODELS: dict[str, dict[str, Any]] = {
    "mlp": {"factory": "rhoselect.models:mlp", "args": {"width": 512, "depth": 2}},
    "resnet18_small": {"factory": "rhoselect.models:resnet18_small", "args": {"width": 16}},
}
FUNCTIONS = ("reducible_loss", "uniform")
COLUMNS = (
    *("model", "function", "chunk", "precision", "bare_ms", "step_ms", "share"),
    *("bare_cpu_ms", "step_cpu_ms", "cpu_share"),
)
Times = tuple[float, float]
"""Seconds of the clock and of the processor."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["mlp"], choices=list(MODELS))
    parser.add_argument("--functions", nargs="+", default=list(FUNCTIONS), choices=FUNCTIONS)
    parser.add_argument("--precisions", nargs="+", default=["fp32"], choices=["fp32", "bf16"])
    parser.add_argument("--chunks", nargs="+", type=int, default=[32, 80, N_BIG])
    parser.add_argument("--turn", type=int, default=10, help="steps of a turn")
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--device", default="cpu", help="of the trainer and of its scorer")
    options = arguments.parse(parser, turn=2, turns=2, chunks=[N_BIG])
    keep_memory()
    cases = [
        (model, function, chunk, precision)
        for model in options.models
        for function in options.functions
        for precision in options.precisions
        for chunk in options.chunks
        if function != "uniform" or chunk == options.chunks[0]  # it scores without a forward
    ]
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data, table = synthetic_data(folder)
        ground = {"data.path": str(data), "il.table": str(table)}
        for case in track(cases, "runs"):
            rows.append(measured(folder / f"run-{len(rows)}", ground, *case, options))
    show("a run in one process against its bare work", rows, COLUMNS)
    write(options.json, {"turn": options.turn, "turns": options.turns, "rows": rows})


def measured(
    run: Path,
    ground: dict[str, str],
    model: str,
    function: str,
    chunk: int,
    precision: str,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """The figures of one run."""
    settings = {
        **ground,
        "model.factory": MODELS[model]["factory"],
        "model.args": MODELS[model]["args"],
        "selection.function": function,
        "selection.n_b": N_B,
        "selection.n_B": N_BIG,
        "selection.chunk": chunk,
        "scorer.precision": precision,
        "scorer.device": options.device,
        "trainer.precision": precision,
        "trainer.device": options.device,
        "trainer.steps": options.turn * (options.turns + 2),
        "trainer.eval_every": 10_000_000,
        "trainer.checkpoint_every": 10_000_000,
        "metrics.port": -1,
    }
    config = run.with_name(f"{run.name}.toml")
    write_config(config, settings)
    inputs = open_inputs(load(config))
    turns = Turns(options.turn, bare_step(inputs, torch.device(options.device)))
    run_serial(inputs, RunFolder.create(run, inputs.config), turns.between)
    return {
        "model": model,
        "function": function,
        "chunk": chunk,
        "precision": precision,
        **turns.figures(),
    }


def bare_step(inputs: RunInputs, device: torch.device) -> Callable[[], None]:
    """The bare work of a step, on batches that are at hand."""
    plan, needs = inputs.plan, inputs.scoring.needs
    learner, replica = new_learner(inputs, device), inputs.new_replica(device)
    indices = [plan.indices(plan.chunk_positions(0, chunk)) for chunk in range(plan.chunks)]
    chunks = [inputs.train.read(part, device) for part in indices if needs.forward]
    batch = inputs.train.read(inputs.train.first(N_B), device)

    def step() -> None:
        with threads(inputs.config.scorer.threads):
            outputs = [replica(chunk) for chunk in chunks]
        result = learner.update(batch, None, 0)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        del outputs, result

    return step


class Turns:
    """Lets a run take ``turn`` steps, then does as many ``bare`` ones in its place."""

    def __init__(self, turn: int, bare: Callable[[], None]) -> None:
        self._turn, self._bare = turn, bare
        self._pairs: list[tuple[Times, Times]] = []

    @contextmanager
    def between(self, run: SerialRun) -> Iterator[None]:
        """Watches ``run``: does the bare steps where the trainer asks for requests."""
        poll, began = run.control.poll, now()

        def poll_too(step: int, *others: Any) -> bool:
            nonlocal began
            if step % self._turn == 0:
                ran = since(began)
                self._pairs.append((self._bare_turn(), ran))
                began = now()
            return poll(step, *others)

        run.control.poll = poll_too  # type: ignore[method-assign]
        yield

    def _bare_turn(self) -> Times:
        began = now()
        for _ in range(self._turn):
            self._bare()
        return since(began)

    def figures(self) -> dict[str, float]:
        """Medians over the turns but the first two: before the first step and in the second turn
        memory and threads are new."""
        pairs, figures = self._pairs[2:], {}
        for place, name in enumerate(("", "cpu_")):
            bare = [1e3 * pair[0][place] / self._turn for pair in pairs]
            run = [1e3 * pair[1][place] / self._turn for pair in pairs]
            figures[f"bare_{name}ms"] = statistics.median(bare)
            figures[f"step_{name}ms"] = statistics.median(run)
            figures[f"{name}share"] = statistics.median(
                b / r for b, r in zip(bare, run, strict=True)
            )
        return figures


def now() -> Times:
    return time.perf_counter(), time.process_time()


def since(began: Times) -> Times:
    ended = now()
    return ended[0] - began[0], ended[1] - began[1]


if __name__ == "__main__":
    main()
