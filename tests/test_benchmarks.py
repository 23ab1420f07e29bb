"""Every benchmark starts, and the quick ones run to their end. Their figures are not tested."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SCRIPTS = sorted(
    path.name for path in BENCHMARKS.glob("*.py") if '__name__ == "__main__"' in path.read_text()
)
HELP_OF_ALL = """
import contextlib, io, runpy, sys
sys.path.insert(0, "benchmarks")  # as python does for a script
for script in sys.argv[1:]:
    sys.argv, said = [script, "--help"], io.StringIO()
    with contextlib.redirect_stdout(said):
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as ended:
            assert not ended.code, (script, ended.code)
    assert "usage" in said.getvalue(), (script, said.getvalue())
"""
SMALLEST = {
    "forwards.py": ["--models", "mlp", "--chunk", "16", "--repeats", "1"],
    "queue.py": ["--clients", "1", "--seconds", "0.05"],
    "scale.py": ["--points", "2000", "--repeats", "1"],
    "scaling.py": ["--workers", "0", "--train-ms", "5", "--modes", "lag 0", "--steps", "3"],
    "snapshots.py": ["--megabytes", "3", "--readers", "1", "--repeats", "2"],
}

SLOWER = {
    "scorer.py": ["--models", "mlp", "--seconds", "0.2", "--repeats", "1"],
    "chaos.py": ["--kills", "1", "--steps", "60", "--workers", "1", "--folder", "FOLDER"],
    "plan.py": ["--models", "emulated mlp", "--workers", "0", "--steps", "3", "--rounds", "1"],
    "soak.py": ["--minutes", "0.05", "--warm-up", "0.02", "--folder", "FOLDER"],
}


def python(*arguments: str) -> None:
    ran = subprocess.run(
        [sys.executable, *arguments],
        cwd=BENCHMARKS.parent,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr


def test_every_benchmark_starts() -> None:
    assert len(SCRIPTS) >= 12
    python("-c", HELP_OF_ALL, *(f"benchmarks/{script}" for script in SCRIPTS))


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("script", SMALLEST)
def test_a_smallest_run_writes_its_figures(script: str, tmp_path: Path) -> None:
    write_figures(script, SMALLEST[script], tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("script", SLOWER)
def test_a_smallest_run_of_a_slower_one_writes_its_figures(script: str, tmp_path: Path) -> None:
    write_figures(script, SLOWER[script], tmp_path)


def write_figures(script: str, arguments: list[str], folder: Path) -> None:
    given = [each.replace("FOLDER", str(folder / "runs")) for each in arguments]
    python(f"benchmarks/{script}", *given, "--json", str(folder / "figures.json"))
    assert "command" in json.loads((folder / "figures.json").read_text())
