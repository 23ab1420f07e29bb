"""The examples run, and the README shows them as they are."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from support import rhoctl

ROOT = Path(__file__).parent.parent


def test_own_loop_learns_and_is_the_readme_s(tiny_config: Path) -> None:
    script = ROOT / "examples" / "own_loop.py"
    command = [sys.executable, script, tiny_config, "60"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    accuracy = re.search(r"test accuracy ([0-9.]+)", done.stdout)
    assert accuracy is not None
    assert float(accuracy[1]) > 0.6, "chance is 0.25"
    [shown] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert shown in script.read_text()


def test_the_tree_of_the_readme_names_every_module() -> None:
    tree = (ROOT / "README.md").read_text().split("## The tree")[1]
    for root in ("core", "scorer", "trainer", "launch"):
        for path in (ROOT / root / "rhoselect").glob("**/*.py"):
            parts = path.relative_to(ROOT / root / "rhoselect").parts
            named = [part for part in parts if part != "__init__.py"]
            shown = any(part in tree or f"{part}/" in tree for part in named)
            assert shown or not named, f"{path} is missing in the README's tree"


def test_demo_configuration_is_valid_but_for_its_data(tmp_path: Path) -> None:
    demo = ROOT / "examples" / "fashion-mnist.toml"
    nowhere = tmp_path / "nowhere"
    run = tmp_path / "run"
    result = rhoctl("train", demo, "--set", f"data.path={nowhere}", "--run-dir", run)
    assert result.code == 2
    assert str(nowhere) in result.err
