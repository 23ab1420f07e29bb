"""Ranks killed at random moments: the run ends soon, and goes on to the bits of an undisturbed one.

Each try starts `rhoctl train` with several devices, kills one of its ranks (the lead, too) by
SIGKILL at a random moment, mostly after the first checkpoint, takes the seconds until the command
and all ranks have ended, and goes on with another number of devices. split: one scorer on Ray, and
the lead is an actor. What became of each try is in --folder; the command, given again, goes on.

    python benchmarks/rank_kills.py --json docs/results/rank_kills.json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.progress import Progress

import arguments
from chaos import settings_of, undisturbed
from harness import HERE, show, write, write_config

Row = dict[str, Any]
WORKERS = {"colocated": 0, "split": 1, "beside": 1}  # beside: colocated, and a scorer
DEVICES = (2, 4)
EARLY = 0.25  # share of the kills that may come before the first checkpoint
PATIENCE_S, POLL_S, LIMIT_S = 180.0, 0.01, 15.0
COLUMNS = ("mode", "tries", "equal", "median_s", "max_s", "too_late", "before_step_1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0, help="the first try's; then one more each")
    parser.add_argument("--steps", type=int, default=600, help="of a run")
    parser.add_argument("--within", type=float, default=4.0, help="s in which a kill comes")
    parser.add_argument("--modes", nargs="+", choices=WORKERS, default=["colocated"])
    parser.add_argument("--folder", type=Path, default=Path("runs/rank-kills"), help="to go on in")
    small = {"tries": 1, "within": 1.0, "folder": Path("runs/rank-kills-quick")}
    options = arguments.parse(parser, **small)
    options.folder.mkdir(parents=True, exist_ok=True)
    settings = settings_of(options.folder, options.steps) | {"trainer.micro_batches": max(DEVICES)}
    settings |= {"trainer.eval_every": 20, "trainer.checkpoint_every": 20}
    expected = undisturbed(options.folder / f"alone-{options.steps}", settings)
    done = options.folder / "tries.jsonl"
    rows = [json.loads(line) for line in done.open()] if done.exists() else []
    with Progress() as progress:
        task = progress.add_task("tries", total=options.tries)
        while (killed := sum(row["killed"] for row in rows)) < options.tries:
            progress.update(task, completed=killed)
            chance = random.Random(options.seed + len(rows))
            mode = options.modes[len(rows) % len(options.modes)]
            one = Try(options.folder.resolve(), settings, mode, chance, options.within)
            rows.append(one.row(expected))
            with done.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    report([row for row in rows if row["killed"]], options)


class Try:
    """A run in ``folder`` and what happens to it, by ``chance``."""

    def __init__(
        self,
        folder: Path,
        settings: dict[str, Any],
        mode: str,
        chance: random.Random,
        within_s: float,
    ) -> None:
        self._run, self._log, self._config = folder / "run", folder / "said", folder / "run.toml"
        self._mode, self._chance, self._within_s = mode, chance, within_s
        self._devices = chance.choice(DEVICES)
        shutil.rmtree(self._run, ignore_errors=True)
        self._log.unlink(missing_ok=True)
        named = "colocated" if mode == "beside" else mode
        write_config(self._config, {**settings, "cluster.mode": named})

    def row(self, expected: list[str]) -> Row:
        """Kill, go on, compare."""
        rank = self._chance.randrange(self._devices)
        command = self._start(["train", str(self._config)], self._devices)
        early = self._chance.random() < EARLY
        self._until(lambda: over(command) or self._came(rank, command, early))
        moment = time.monotonic() + self._chance.uniform(0.0, self._within_s)
        self._until(lambda: time.monotonic() > moment or over(command))
        ranks, killed = self._pids(command), not over(command)
        if killed:
            with suppress(ProcessLookupError):
                os.kill(ranks[rank], signal.SIGKILL)
        started, step = time.monotonic(), self._step()
        self._until(lambda: over(command) and not any(map(lives, ranks.values())))
        row = {"mode": self._mode, "devices": self._devices, "rank": rank, "step": step}
        row |= {"seconds": time.monotonic() - started, "code": command.returncode}
        row |= {"said": self._last_line(), "resumed": self._chance.choice((1, *DEVICES))}
        row["killed"] = killed and not self._is_finished()
        if not self._is_finished():
            stored = (self._run / "config.toml").exists()  # else it had no folder yet
            words = ["train", "--resume"] if stored else ["train", str(self._config)]
            if self._start(words, row["resumed"]).wait(PATIENCE_S):
                raise SystemExit(f"it does not go on: {self._last_line()}")
        summary = json.loads((self._run / "summary.json").read_text())
        row["equal"] = [summary["selected_sha256"], summary["weights_sha256"]] == expected
        return row

    def _came(self, rank: int, command: subprocess.Popen[bytes], early: bool) -> bool:
        """Whether the rank may be killed from now on."""
        return rank in self._pids(command) if early else self._step() > 0

    def _start(self, words: list[str], devices: int) -> subprocess.Popen[bytes]:
        words += ["--run-dir", str(self._run), "--workers", str(WORKERS[self._mode])]
        words += ["--set", f"trainer.devices={devices}"]
        path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "rhoselect.cli", *words],
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)},
            )

    def _pids(self, command: subprocess.Popen[bytes]) -> dict[int, int]:
        """The processes of the ranks that have started."""
        logs = {rank: f"rank-{rank}" for rank in range(1, self._devices)}
        found = {0: command.pid} if self._mode == "colocated" else {}
        if self._mode != "colocated":
            logs[0] = "trainer"
        for rank, name in logs.items():
            log = self._run / "logs" / f"{name}.log"
            pids = re.findall(r"of process (\d+) starts", log.read_text()) if log.exists() else []
            found |= {rank: int(pids[-1])} if pids else {}
        return found

    def _until(self, come: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not come():
            if time.monotonic() > deadline:
                raise SystemExit(f"it hangs: {self._last_line()}; see {self._run}")
            time.sleep(POLL_S)

    def _step(self) -> int:
        """That of the newest checkpoint."""
        found = (self._run / "checkpoints").glob("step-*")
        return max((int(path.stem.removeprefix("step-")) for path in found), default=0)

    def _is_finished(self) -> bool:
        return (self._run / "summary.json").exists()

    def _last_line(self) -> str:
        lines = self._log.read_text(errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "")


def over(command: subprocess.Popen[bytes]) -> bool:
    return command.poll() is not None


def lives(pid: int) -> bool:
    """Whether there is such a process that is not just dead and not yet buried."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def report(rows: list[Row], options: argparse.Namespace) -> None:
    """The figures of all tries, by mode."""
    figures = []
    for mode in dict.fromkeys(row["mode"] for row in rows):
        own = [row for row in rows if row["mode"] == mode]
        seconds = [row["seconds"] for row in own]
        told = {"mode": mode, "tries": len(own), "equal": sum(row["equal"] for row in own)}
        told |= {"median_s": statistics.median(seconds), "max_s": max(seconds)}
        told |= {"too_late": sum(each > LIMIT_S for each in seconds)}
        figures.append({**told, "before_step_1": sum(row["step"] == 0 for row in own)})
    show("ranks killed", figures, COLUMNS)
    write(options.json, {"seed": options.seed, "rows": figures, "tries": rows})


if __name__ == "__main__":
    main()
