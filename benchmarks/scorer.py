"""How much of a bare forward loop's rate a scorer keeps in a running system.

A run with one scorer, on real Ray actors and a real queue server, in which the scorer is what
everything waits for: it scores the next window while a step of a few points is taken (lag 1, no
second stage). Its rate is read off its own Prometheus counter. The bare loop is the same network,
precision, thread count and chunk in inference mode on one resident batch, run before and after,
both with BatchNorm's running statistics; nothing is emulated.

    python benchmarks/scorer.py --json docs/results/scorer.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import torch
from prometheus_client.parser import text_string_to_metric_families
from rich.progress import track

import arguments
from harness import show, synthetic_data, train, write
from rhoselect.compute import keep_memory, repeatable
from rhoselect.importing import load_object

CASES: dict[str, dict[str, Any]] = {
    "mlp": {"factory": "rhoselect.models:mlp", "args": {"width": 512, "depth": 2}, "chunk": 320},
    "resnet18_small": {
        "factory": "rhoselect.models:resnet18_small",
        "args": {"width": 16},
        "chunk": 80,
    },
}
COLUMNS = ("model", "chunk", "precision", "bare_points_per_s", "points_per_s", "efficiency")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--device", default="cpu", help="of the scorer, the trainer and the loop")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of a measurement")
    parser.add_argument("--repeats", type=int, default=3)
    options = arguments.parse(parser, models=["mlp"], seconds=0.2, repeats=1)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        data, table = synthetic_data(Path(scratch))
        for name in track(options.models, "models"):
            case, pairs = CASES[name], []
            how = (case, options.precision, options.device)
            for repeat in range(options.repeats):
                run = Path(scratch) / f"{name}-{repeat}"
                before = bare_rate(*how, options.seconds / 2)
                running = running_rate(*how, options.seconds, run, data, table)
                after = bare_rate(*how, options.seconds / 2)
                pairs.append(((before + after) / 2, running))
            bare, running = (statistics.median(rates) for rates in zip(*pairs, strict=True))
            rows.append(
                {
                    "model": name,
                    "chunk": case["chunk"],
                    "precision": options.precision,
                    "device": options.device,
                    "bare_points_per_s": bare,
                    "points_per_s": running,
                    "efficiency": statistics.median(own / loop for loop, own in pairs),
                }
            )
    show("one scorer against a bare forward loop", rows, COLUMNS)
    write(options.json, {"repeats": options.repeats, "rows": rows})


def bare_rate(case: dict[str, Any], precision: str, device: str, seconds: float) -> float:
    """Points a second of a forward loop on one thread, or on a GPU, which it keeps busy."""
    torch.set_num_threads(1)
    keep_memory()
    place = torch.device(device)
    factory = load_object(case["factory"], "factory")
    model = factory(input_shape=(1, 28, 28), classes=10, **case["args"]).eval().to(place)
    inputs = torch.randn(case["chunk"], 1, 28, 28, device=place)
    low = precision == "bf16"
    autocast = torch.autocast(place.type, torch.bfloat16, enabled=low)
    with repeatable(place), torch.inference_mode(), autocast:
        model(inputs)
        started, points = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - started) < seconds:
            for _ in range(1 if place.type == "cpu" else 50):
                model(inputs)
                points += case["chunk"]
            if place.type == "cuda":
                torch.cuda.synchronize(place)
    return points / elapsed


def running_rate(
    case: dict[str, Any],
    precision: str,
    device: str,
    seconds: float,
    run: Path,
    data: Path,
    table: Path,
) -> float:
    """Points a second of the only scorer of a run."""
    settings = {
        "data.path": str(data),
        "il.table": str(table),
        "model.factory": case["factory"],
        "model.args": case["args"],
        "selection.lag": 1,
        "selection.shortlist": 1,
        "selection.n_b": 4,
        "selection.n_B": 10 * case["chunk"],
        "selection.chunk": case["chunk"],
        "selection.bn": "running",
        "scorer.precision": precision,
        "scorer.device": device,
        "trainer.device": device,
        "trainer.scores": False,
        "trainer.steps": 10_000_000,
        "trainer.eval_every": 10_000_000,
        "trainer.checkpoint_every": 10_000_000,
    }
    failed: list[BaseException] = []

    def body() -> None:
        try:
            train(run, settings, workers=1, stop=stop)
        except BaseException as error:
            failed.append(error)

    stop = threading.Event()
    thread = threading.Thread(target=body)
    thread.start()
    try:
        address = address_of(run, thread)
        while scored(address) < 10 * case["chunk"]:
            assert thread.is_alive(), failed
            time.sleep(0.1)
        started, before = time.perf_counter(), scored(address)
        time.sleep(seconds)
        return (scored(address) - before) / (time.perf_counter() - started)
    finally:
        stop.set()
        thread.join()


def address_of(run: Path, thread: threading.Thread) -> str:
    """Where the scorer's metrics are, once it runs."""
    path = run / "logs" / "metrics" / "0.json"
    while not path.exists():
        assert thread.is_alive(), "the run ended"
        time.sleep(0.1)
    address: str = json.loads(path.read_text())[0]["targets"][0]
    return address


def scored(address: str) -> float:
    """Points that the scorer at an address has scored."""
    with urllib.request.urlopen(f"http://{address}/metrics") as page:
        for family in text_string_to_metric_families(page.read().decode()):
            if family.name == "rho_scored_points":
                return next(s.value for s in family.samples if s.name.endswith("_total"))
    raise AssertionError("no such counter")


if __name__ == "__main__":
    main()
