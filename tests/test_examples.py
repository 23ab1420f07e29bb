"""The examples and the loop of the README run."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from servers import free_port
from support import DEADLINE_S, ended_well, hashes, made, rhoctl, start
from warm import Process

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.usefixtures("away")
def test_the_readme_shows_what_its_loop_prints() -> None:
    """All but the digits, which depend on the kind of CPU."""
    [code] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    [shown] = re.findall(r"```text\n(.*?)```", README, re.DOTALL)
    printed, errors = Process("-c", code).communicate(timeout=DEADLINE_S)
    assert errors == ""
    assert re.sub(r"\.\d+", ".", printed) == re.sub(r"\.\d+", ".", shown)


def test_the_readme_is_short_and_its_tree_names_the_folders() -> None:
    assert len(README.splitlines()) <= 120
    [tree] = re.findall(r"## The tree\n\n```\n(.*?)```", README, re.DOTALL)
    named = re.findall(r"^(\w+)/ ", tree, re.M)
    assert all((ROOT / name).is_dir() for name in named)
    roots = {path.parent.name for path in ROOT.glob("*/rhoselect")}
    assert roots <= set(named)
    assert len(tree.splitlines()) <= 14


def test_examples_import_only_what_is_public() -> None:
    """The modules that docs/architecture.md lists."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    listed = re.search(r"\*\*Public modules\*\* are (.*?)\. Changes", text, re.DOTALL)
    assert listed is not None
    public = set(re.findall(r"`(rhoselect[\w.]+)`", listed[1]))
    assert len(public) == 11
    pages = [README, *(path.read_text() for path in (ROOT / "docs").glob("*.md"))]
    codes = [code for page in pages for code in re.findall(r"```\w*\n(.*?)```", page, re.DOTALL)]
    codes += [path.read_text() for path in (ROOT / "examples").glob("*.py")]
    imported = {name for code in codes for name in re.findall(r"^from (rhoselect\S*) ", code, re.M)}
    assert imported
    assert imported <= public


@pytest.mark.usefixtures("away")
def test_own_loop_learns_what_rhoctl_train_does(tiny_config: Path, tmp_path: Path) -> None:
    """In one process, and asking ``rhoctl serve`` in another: to the same digit."""
    script = ROOT / "examples" / "own_loop.py"
    made("train", tiny_config, "--run-dir", tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    expected = f"test accuracy {summary['final_accuracy']:.4f}\n"
    server = start("serve", tiny_config, "--run-dir", tmp_path / "served")
    address = re.search(r"serving at (\S+),", server.stdout.readline())
    assert address is not None
    for where in ([], [address[1]]):
        loop = Process(str(script), str(tiny_config), *where)
        assert loop.communicate(timeout=DEADLINE_S) == (expected, "")
    server.terminate()
    ended_well(server)


@pytest.mark.long
@pytest.mark.usefixtures("away")
@pytest.mark.skipif(find_spec("lightning") is None, reason="without the extra lightning")
def test_lightning_learns_what_rhoctl_train_does(tiny_config: Path, tmp_path: Path) -> None:
    """From the same points to the same weights."""
    made("train", tiny_config, "--run-dir", tmp_path / "run")
    script = ROOT / "examples" / "lightning_loop.py"
    printed, errors = Process(str(script), str(tiny_config)).communicate(timeout=DEADLINE_S)
    assert printed.startswith("test accuracy "), errors
    [loop] = (tmp_path / "runs").iterdir()
    assert hashes(loop) == hashes(tmp_path / "run")


@pytest.mark.usefixtures("away")
@pytest.mark.parametrize("sharded", ["", pytest.param("1", marks=pytest.mark.matrix)])
def test_data_parallel_learns_what_rhoctl_train_does(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sharded: str
) -> None:
    """With two micro-batches, to the same digit; where gradients are scattered, to the second."""
    sets = ("--set", "trainer.micro_batches=2")
    made("train", tiny_config, "--run-dir", tmp_path / "run", *sets)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    monkeypatch.setenv("SHARDED", sharded)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    monkeypatch.setenv("WORLD_SIZE", "2")
    ranks = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        script = ROOT / "examples" / "data_parallel.py"
        ranks.append(Process(str(script), str(tiny_config)))
    [(printed, errors), (nothing, others)] = [each.communicate(DEADLINE_S) for each in ranks]
    assert errors + others + nothing == ""
    accuracy = float(printed.removeprefix("test accuracy "))
    expected = summary["final_accuracy"]
    assert accuracy == (pytest.approx(expected, abs=0.02) if sharded else round(expected, 4))


def test_demo_configuration_is_valid_but_for_its_data(tmp_path: Path) -> None:
    demo = ROOT / "examples" / "fashion-mnist.toml"
    nowhere = tmp_path / "nowhere"
    run = tmp_path / "run"
    result = rhoctl("train", demo, "--set", f"data.path={nowhere}", "--run-dir", run)
    assert result.code == 2
    assert str(nowhere) in result.err


def test_the_command_line_does_not_import_ray() -> None:
    """Which takes a second that only runs with workers need. The fork of an interpreter that has
    imported all commands imports what runs them."""
    code = "import sys, rhoselect.cli.run; sys.exit('ray' in sys.modules)"
    ended_well(Process("-c", code))
