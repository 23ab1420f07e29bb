"""What scripts/smoke.sh runs in each environment: 20 steps, the same ones in a served loop, and
with keys of speed where there is a compiler.

Everything goes through the installed command and the example of a loop, as with a user.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

RHOCTL = Path(sys.executable).with_name("rhoctl")
LOOP = Path(__file__).resolve().parent.parent / "examples" / "own_loop.py"
CONFIG = """
data.path = "data"
model = {factory = "rhoselect.models:mlp", args = {width = 16}}
selection = {function = "loss", n_b = 8, n_B = 64, chunk = 16}
trainer.steps = 20
metrics.port = -1
"""
FAST = ("--set", "scorer.compile=true", "--set", "scorer.quantize=int8")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        random = np.random.default_rng(0)
        arrays = {}
        for split, size in (("train", 400), ("test", 100)):
            arrays[f"x_{split}"] = random.integers(0, 256, (size, 1, 8, 8), np.uint8)
            arrays[f"y_{split}"] = random.integers(0, 4, size)
        np.savez(folder / "points.npz", **arrays)
        (folder / "run.toml").write_text(CONFIG)
        run(folder, RHOCTL, "data", "import", "numpy", "points.npz", "data")
        run(folder, RHOCTL, "train", "run.toml", "--run-dir", "run")
        accuracy = json.loads((folder / "run" / "summary.json").read_text())["final_accuracy"]
        assert served(folder) == f"test accuracy {accuracy:.4f}\n"
        if shutil.which("g++"):
            run(folder, RHOCTL, "train", "run.toml", "--run-dir", "fast", *FAST)


def run(folder: Path, *command: str | Path) -> str:
    """The output of a command that must succeed."""
    return subprocess.run(command, cwd=folder, check=True, text=True, stdout=subprocess.PIPE).stdout


def served(folder: Path) -> str:
    """What the loop prints that asks a service for its points."""
    serve = [RHOCTL, "serve", "run.toml", "--run-dir", "served"]
    with subprocess.Popen(serve, cwd=folder, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = re.search(r"serving at (\S+),", server.stdout.readline())
            assert address is not None
            return run(folder, sys.executable, LOOP, "run.toml", address[1])
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
