"""Runs the stages of the check, one after the other, and prints one table.

Each stage is a process of its own with a time limit. One that fails, hangs or dies does not stop
the next. This process imports no torch, so nothing that a device does can harm it.

    bash benchmarks/gpu/check.sh --device cpu --quick --out DIR
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
GRACE_S = 4.0  # for a stage that is out of time to end what it started
TAIL_BYTES = 20_000  # of each stage's log in all.json
LOG_BYTES = 2_000_000  # of each log in the archive
VALUE_WIDTH = 60


@dataclass(frozen=True)
class Stage:
    """A script and its limit in seconds on a GPU; a quick run has the limit ``quick_s``."""

    script: Path
    limit_s: float
    quick_s: float = 150.0

    @property
    def name(self) -> str:
        return self.script.stem


LIMITS_S = {
    "s0_facts": 45,
    "s1_ceilings": 20,
    "s2_bits": 60,
    "s3_hashes": 100,
    "s4_forwards": 190,
    "s5_publish": 50,
    "s6_steps": 130,
    "s7_accuracy": 95,
    "s8_leftovers": 60,
}
STAGES = [Stage(HERE / f"{name}.py", limit_s) for name, limit_s in LIMITS_S.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--quick", action="store_true", help="smallest sizes: does it run?")
    parser.add_argument("--stages", default="", help="numbers such as 0,1,2; all if not given")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    options = parser.parse_args()
    chosen = [int(number) for number in options.stages.split(",") if number]
    stages = [STAGES[number] for number in chosen] if chosen else STAGES
    options.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the stage is ended, too
    with tempfile.TemporaryDirectory(prefix="rho-check-") as work:
        records = run_stages(stages, options.device, options.quick, options.out, Path(work))
        keep_logs(options.out / "logs.tar.xz", Path(work))
    print(table(records))
    sys.exit(not all(record["ok"] for record in records))


def run_stages(
    stages: Sequence[Stage], device: str, quick: bool, out: Path, work: Path
) -> list[dict[str, Any]]:
    """Run the stages; ``out`` has a file for each, and all.json, as soon as it has ended."""
    records = []
    for stage in stages:
        print(f"{stage.name}: at most {_limit_s(stage, quick):g} s", flush=True)
        records.append(run_stage(stage, device, quick, out, work))
        whole = {"command": sys.argv, "device": device, "quick": quick, "stages": records}
        (out / "all.json").write_text(json.dumps(whole, indent=1) + "\n")
    return records


def run_stage(stage: Stage, device: str, quick: bool, out: Path, work: Path) -> dict[str, Any]:
    """Run one stage and return its record, with the tail of its log."""
    path, log = out / f"{stage.name}.json", work / f"{stage.name}.log"
    limit_s = _limit_s(stage, quick)
    command = [sys.executable, stage.script, "--device", device, "--work", work, "--json", path]
    command += ["--limit-s", str(limit_s), *(["--quick"] if quick else [])]
    path.unlink(missing_ok=True)
    started = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # On few cores threads that spin while they wait take the time of all others.
            env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_WAIT_POLICY": "passive"},
        )
        error = None
        try:
            code = process.wait(limit_s)
            if code not in (0, 1):  # these two a stage tells itself
                error = f"ended with exit code {code}"
        except subprocess.TimeoutExpired:
            error = f"was ended at its limit of {limit_s:g} s"
        finally:
            end(process)
    return _record(stage, path, log, error, time.monotonic() - started)


def _limit_s(stage: Stage, quick: bool) -> float:
    return stage.quick_s if quick else stage.limit_s


def _record(
    stage: Stage, path: Path, log: Path, error: str | None, seconds: float
) -> dict[str, Any]:
    """What a stage wrote of itself, corrected by how it ended, which is written back."""
    record: dict[str, Any] = {"stage": stage.name, "ok": False, "figures": []}
    with suppress(OSError, ValueError):
        record = json.loads(path.read_text())
    record["seconds"] = round(seconds, 1)
    if error is not None:
        record |= {"ok": False, "error": error}
    record.setdefault("error", "wrote nothing: see the log")
    path.write_text(json.dumps(record, indent=1) + "\n")
    return {**record, "log": log.read_bytes()[-TAIL_BYTES:].decode("utf-8", "replace")}


def end(process: subprocess.Popen[bytes]) -> None:
    """End a stage's process if it still runs, and all that it left in its session."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
    ends = time.monotonic() + GRACE_S
    while (left := session_of(process.pid)) and time.monotonic() < ends:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    process.wait()


def session_of(leader: int) -> list[int]:
    """The processes of the session that ``leader`` began, but for those that have ended."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError, ValueError):
                state = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(state[3]) == leader and state[0] not in "ZX":
                    found.append(int(entry.name))
    return found


def keep_logs(archive: Path, work: Path) -> None:
    """Archive the ends of all logs, and the profiler's trace."""
    with tarfile.open(archive, "w:xz") as tar:
        for path in sorted([*work.rglob("*.log"), *work.rglob("*.trace.json.gz")]):
            if path.suffix == ".log" and path.stat().st_size > LOG_BYTES:
                path.write_bytes(path.read_bytes()[-LOG_BYTES:])
            tar.add(path, str(path.relative_to(work)))


def table(records: Iterable[dict[str, Any]]) -> str:
    """Figures beside predictions, a line each; it is the last that is printed."""
    lines = [f"{'stage':14}{'figure':42}{'value':{VALUE_WIDTH}}predicted for one H100"]
    for record in records:
        for figure in record["figures"]:
            value = f"{figure['value']} {figure['unit']}".strip()
            cells = f"{record['stage']:14}{figure['name'][:41]:42}{value[: VALUE_WIDTH - 1]}"
            lines.append(f"{cells:{56 + VALUE_WIDTH}}{figure['predicted']}".rstrip())
        how = "ok" if record["ok"] else f"NOT OK: {record['error']}"
        lines.append(f"{record['stage']:14}{how}, {record['seconds']} s")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
