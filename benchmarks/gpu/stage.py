"""What the stages of the check share: their options, and figures that are on disk at once.

A stage is a script with a ``main(stage)``. A part of it that fails is a figure with an error, and
the next part runs. A figure may have a prediction, which was written down before it was measured.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import threading
import time
import traceback
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))  # harness.py, in a checkout; in the bundle it is here
# Processes that a stage starts find these modules, too.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
)


class Stage:
    """A stage's options and figures. ``work`` is the folder that all stages share."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.device, self.quick = torch.device(options.device), options.quick
        self.work: Path = options.work
        self.cuda = self.device.type == "cuda"
        self.failed = False
        self._json: Path = options.json
        self._lock = threading.Lock()  # figures come from any thread
        self._started = time.monotonic()
        self._ends = self._started + options.limit_s
        self.record: dict[str, Any] = {
            "stage": options.json.stem,
            "ok": False,
            "seconds": 0.0,
            "figures": [],
            "error": "ended in the middle",
        }
        self._write()

    @property
    def left_s(self) -> float:
        """Seconds until the limit."""
        return self._ends - time.monotonic()

    def figure(self, name: str, value: Any, unit: str = "", predicted: str = "") -> None:
        """Note a figure beside what was predicted for one H100."""
        if isinstance(value, float):
            value = float(f"{value:.4g}")
        named = {"name": name, "value": value, "unit": unit, "predicted": predicted}
        with self._lock:
            self.record["figures"].append(named)
            print(f"{name}: {value} {unit}", flush=True)
            self._write()

    def check(self, name: str, right: dict[str, bool], predicted: str = "all") -> None:
        """Note how many of some comparisons hold, and which do not. The stage is ok if all do."""
        wrong = [each for each, holds in right.items() if not holds]
        found = f"{len(right) - len(wrong)} of {len(right)}"
        self.figure(name, f"{found}; not: {', '.join(wrong)}" if wrong else found, "", predicted)
        self.failed |= bool(wrong)

    def part(self, name: str, measure: Callable[..., None], *args: Any, needs_s: float = 0) -> None:
        """Run ``measure(stage, *args)``. Its error is noted, and so is that there is too little
        time left for it."""
        if self.left_s < needs_s:
            self.figure(name, f"left out: {self.left_s:.0f} s left, needs {needs_s:.0f}")
            return
        try:
            measure(self, *args)
        except Exception as error:
            traceback.print_exc()
            self.failed = True
            lines = str(error).strip().splitlines() or [""]
            self.figure(name, f"failed: {type(error).__name__}: {lines[0][:160]}")

    def end(self, error: str | None) -> None:
        """Note how the stage ended."""
        self.record |= {"ok": error is None, "error": error}
        self._write()

    def _write(self) -> None:
        self.record["seconds"] = round(time.monotonic() - self._started, 1)
        beside = self._json.with_suffix(".part")
        beside.write_text(json.dumps(self.record, indent=1) + "\n")
        beside.rename(self._json)


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options that the runner gives to every stage."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--limit-s", type=float, required=True)
    return parser.parse_args(arguments)


def run(main: Callable[[Stage], None]) -> None:
    """Run a stage's ``main``; the exit code is 1 if anything failed."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    stage = Stage(options_of())
    try:
        main(stage)
        stage.end("a part failed or a check does not hold" if stage.failed else None)
    except Exception as error:
        traceback.print_exc()
        stage.end(f"{type(error).__name__}: {error}")
    sys.exit(not stage.record["ok"])


def wait(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(device: torch.device, body: Callable[[], object], repeats: int) -> float:
    """Median seconds of a call: by CUDA events, so that launches may run ahead; else by a clock."""
    for _ in range(3):
        body()
    wait(device)
    if device.type != "cuda":
        times = []
        for _ in range(repeats):
            started = time.perf_counter()
            body()
            times.append(time.perf_counter() - started)
        return statistics.median(times)
    events = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    events[0].record()
    for event in events[1:]:
        body()
        event.record()
    torch.cuda.synchronize(device)
    gaps = [one.elapsed_time(two) for one, two in pairwise(events)]
    return statistics.median(gaps) / 1e3
