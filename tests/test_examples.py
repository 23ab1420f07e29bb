"""The examples run, and the README shows them as they are."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

from support import made, rhoctl

ROOT = Path(__file__).parent.parent
RHOCTL = [sys.executable, "-m", "rhoselect.cli"]


def test_own_loop_learns_what_rhoctl_train_does(tiny_config: Path, tmp_path: Path) -> None:
    """In one process, and asking ``rhoctl serve`` in another: to the same digit."""
    script = ROOT / "examples" / "own_loop.py"
    [shown] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert shown in script.read_text()
    made("train", tiny_config, "--run-dir", tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    expected = f"test accuracy {summary['final_accuracy']:.4f}\n"
    serve = [*RHOCTL, "serve", tiny_config, "--run-dir", tmp_path / "served"]
    loop = [sys.executable, script, tiny_config]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = re.search(r"serving at (\S+),", server.stdout.readline())
        assert address is not None
        for where in ([], [address[1]]):
            done = subprocess.run([*loop, *where], capture_output=True, text=True)
            assert (done.stdout, done.stderr) == (expected, "")
        server.send_signal(signal.SIGTERM)
    assert server.returncode == 0


def test_the_tree_of_the_readme_names_every_module() -> None:
    tree = (ROOT / "README.md").read_text().split("## The tree")[1]
    for root in ("core", "scorer", "trainer", "runtime", "cli"):
        for path in (ROOT / root / "rhoselect").glob("**/*.py"):
            parts = path.relative_to(ROOT / root / "rhoselect").parts
            below = parts if root in ("core", "cli") else parts[1:]
            named = [part for part in below if part != "__init__.py"]
            shown = any(re.search(rf"[ (]{re.escape(part)}\b", tree) for part in named)
            assert shown or not named, f"{path} is missing in the README's tree"


def test_demo_configuration_is_valid_but_for_its_data(tmp_path: Path) -> None:
    demo = ROOT / "examples" / "fashion-mnist.toml"
    nowhere = tmp_path / "nowhere"
    run = tmp_path / "run"
    result = rhoctl("train", demo, "--set", f"data.path={nowhere}", "--run-dir", run)
    assert result.code == 2
    assert str(nowhere) in result.err


def test_the_command_line_does_not_import_ray() -> None:
    """Which takes a second that no other command than those with workers needs."""
    code = "import sys, rhoselect.cli.main; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
