"""A long run under faults, and the memory and file descriptors of every process that lives on.

Scorers are killed and frozen, the queue is emptied and frozen, workers come and go, every few
seconds; command, trainer, server and Ray's own processes live all the time. Each process that is
there for ten minutes after the warm-up has a line: its private memory, minute by minute, its growth
by least squares, and that of its open files.

    python benchmarks/soak.py --minutes 35 --json docs/results/soak.json
"""

from __future__ import annotations

import argparse
import random
import shutil
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

import arguments
import chaos
from chaos import FAULTS, ChaoticRun, QueueServer
from harness import show, write, write_config

KINDS = ["scorers killed", "scorer frozen", "trainer frozen", "queue flushed", "server frozen"]
KINDS += ["workers added or removed"]
SAMPLE_S, SHORTEST_MINUTES = 5.0, 10.0
COLUMNS = ("process", "minutes", "private_mb", "mb_per_10_minutes", "files", "files_growth")
Sample = tuple[float, float, int]  # seconds, MB of private memory, open files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=35.0)
    parser.add_argument("--warm-up", type=float, default=5.0, help="minutes that are not counted")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("runs/soak"))
    small = {"minutes": 0.05, "warm_up": 0.02, "folder": Path("runs/soak-quick")}
    options = arguments.parse(parser, **small)
    shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True)
    settings = chaos.settings_of(options.folder, steps=100_000_000)
    config = options.folder / "soak.toml"
    write_config(config, settings | {"trainer.checkpoint_every": 50})
    chance, ends = random.Random(options.seed), time.monotonic() + 60 * options.minutes
    with QueueServer(options.folder) as server:
        run = ChaoticRun(options.folder / "run", config, [], options.seed, server)
        try:
            run.begin()
            watch = Watch(run, warm_up_s=60 * options.warm_up)
            while time.monotonic() < ends:
                time.sleep(chance.uniform(0.0, 2.0))
                kind = chance.choice(KINDS)
                run.suffer(kind, FAULTS[kind][1])
            rows = watch.rows()
        finally:
            run.close()
    show("soak", rows, COLUMNS)
    faults = len(run.outcome.faults)
    write(options.json, {"seed": options.seed, "steps": run.step(), "faults": faults, "rows": rows})


class Watch:
    """Samples the processes of a run, in a thread."""

    def __init__(self, run: ChaoticRun, warm_up_s: float) -> None:
        self._run, self._samples = run, defaultdict[int, list[Sample]](list)
        self._names = dict[int, str]()  # the first: an actor's changes with what it does
        self._begins = time.monotonic() + warm_up_s
        threading.Thread(target=self._sample, daemon=True).start()

    def rows(self) -> list[dict[str, Any]]:
        """A line a process that was there for long enough."""
        rows = []
        for pid, samples in sorted(self._samples.items(), key=lambda item: self._names[item[0]]):
            seconds, megabytes, files = (np.array(column) for column in zip(*samples, strict=True))
            minutes = (seconds[-1] - seconds[0]) / 60
            if minutes < SHORTEST_MINUTES:
                continue
            slope = np.polyfit(seconds, megabytes, 1)[0]
            half = len(files) // 2
            rows.append(
                {
                    "process": self._names[pid],
                    "minutes": float(minutes),
                    "private_mb": float(np.median(megabytes)),
                    "private_mb_by_minute": by_minute(seconds, megabytes),
                    "mb_per_10_minutes": float(600 * slope),
                    "files": int(np.median(files)),
                    "files_growth": int(np.median(files[half:]) - np.median(files[:half])),
                }
            )
        return rows

    def _sample(self) -> None:
        while True:
            time.sleep(SAMPLE_S)
            now = time.monotonic()
            if now < self._begins:
                continue
            for pid in [self._run.server.pid, *offspring(self._run.command.pid)]:
                try:
                    name, megabytes, files = look(pid)
                except OSError:  # it has just ended
                    continue
                self._names.setdefault(pid, name)
                self._samples[pid].append((now, megabytes, files))


def by_minute(seconds: np.ndarray, megabytes: np.ndarray) -> list[float]:
    """The median of each minute."""
    minutes = (seconds - seconds[0]) // 60
    found = [np.median(megabytes[minutes == minute]) for minute in np.unique(minutes)]
    return [round(float(value), 2) for value in found]


def offspring(pid: int) -> list[int]:
    """A process and all below it."""
    try:
        below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(each for child in below for each in offspring(int(child)))]


def look(pid: int) -> tuple[str, float, int]:
    """A process's name, its private memory in MB and its open files."""
    process = Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    words = (process / "cmdline").read_bytes().split(b"\0")
    name = Path(words[0].decode()).name or status["Name"].strip()
    kilobytes = int(status.get("RssAnon", "0 kB").split()[0])
    return name, kilobytes / 1024, len(list((process / "fd").iterdir()))


if __name__ == "__main__":
    main()
