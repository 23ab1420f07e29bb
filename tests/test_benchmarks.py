"""Every benchmark starts, and its smallest run ends. Their figures are not tested."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support import ended_well
from warm import Process

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SCRIPTS = sorted(
    str(path.relative_to(BENCHMARKS))
    for path in (*BENCHMARKS.glob("*.py"), *BENCHMARKS.glob("paper/*.py"))
    if '__name__ == "__main__"' in path.read_text()
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
QUICKEST, DRAWS_COMMITTED_FIGURES = "snapshots.py", "results.py"
OTHERS = [script for script in SCRIPTS if script not in (QUICKEST, DRAWS_COMMITTED_FIGURES)]
KEEPING_RUNS = ("chaos.py", "choices.py", "predict.py", "rank_kills.py", "soak.py", "stragglers.py")


def python(*arguments: str) -> None:
    ran = subprocess.run(
        [sys.executable, *arguments],
        cwd=BENCHMARKS.parent,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr


@pytest.mark.long
def test_every_benchmark_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(SCRIPTS) >= 12
    monkeypatch.chdir(BENCHMARKS.parent)
    ended_well(Process("-c", HELP_OF_ALL, *(f"benchmarks/{script}" for script in SCRIPTS)))


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "script",
    [
        pytest.param(QUICKEST, marks=pytest.mark.long),
        *(pytest.param(script, marks=pytest.mark.slow) for script in OTHERS),
    ],
)
def test_a_smallest_run_writes_its_figures(script: str, tmp_path: Path) -> None:
    kept = ["--folder", str(tmp_path / "runs")] if script in KEEPING_RUNS else []
    python(f"benchmarks/{script}", "--quick", *kept, "--json", str(tmp_path / "figures.json"))
    assert "command" in json.loads((tmp_path / "figures.json").read_text())
