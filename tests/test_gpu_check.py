"""The check of a GPU: it runs to its end here, and no stage keeps the next from running."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

CHECK = Path(__file__).parent.parent / "benchmarks" / "gpu"
FINE = "import json, sys\nsys.stdout.write('fine')\n"
FINE += "record = {'stage': 'fine', 'ok': True, 'seconds': 0, 'figures': [], 'error': None}\n"
FINE += "open(sys.argv[sys.argv.index('--json') + 1], 'w').write(json.dumps(record))\n"
RAISES = f"""
import sys
sys.path.insert(0, {str(CHECK)!r})
from stage import run

def part(stage):
    raise ValueError("a part")

def main(stage):
    stage.part("broken", part)
    stage.figure("after it", 1.0, "s", "2")
    raise ValueError("of its own")

run(main)
"""
# What it started goes with it.
HANGS = "import subprocess, sys, time\n"
HANGS += "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
HANGS += "print('so far', flush=True)\ntime.sleep(600)"
DIES = "import os\nos.kill(os.getpid(), 9)"


def runner() -> ModuleType:
    return module("run")


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"gpu_check_{name}", CHECK / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_a_stage_that_fails_hangs_or_dies_does_not_stop_the_next(tmp_path: Path) -> None:
    run, out = runner(), tmp_path / "out"
    out.mkdir()
    stages = []
    for name, code in {"raises": RAISES, "hangs": HANGS, "dies": DIES, "fine": FINE}.items():
        script = tmp_path / f"{name}.py"
        script.write_text(code)
        stages.append(run.Stage(script, 60, quick_s=0.5 if name == "hangs" else 60))
    run.run_stages(stages, "cpu", True, out, tmp_path)
    whole = json.loads((out / "all.json").read_text())
    raises, hangs, dies, fine = whole["stages"]
    assert raises["error"] == "ValueError: of its own"
    values = {figure["name"]: figure["value"] for figure in raises["figures"]}
    assert values == {"broken": "failed: ValueError: a part", "after it": 1.0}
    assert (hangs["error"], hangs["log"]) == ("was ended at its limit of 0.5 s", "so far\n")
    assert dies["error"] == "ended with exit code -9"
    assert (fine["ok"], fine["error"], fine["log"]) == (True, None, "fine")
    assert [record["ok"] for record in whole["stages"]] == [False, False, False, True]
    for record in whole["stages"]:
        del record["log"]
        assert json.loads((out / f"{record['stage']}.json").read_text()) == record
    assert "after it" in run.table(whole["stages"])
    assert "NOT OK: was ended" in run.table(whole["stages"])


def test_nothing_that_a_hanging_stage_started_is_left(tmp_path: Path) -> None:
    run, seen = runner(), []
    script = tmp_path / "hangs.py"
    script.write_text(HANGS)
    end = run.end

    def ended(process: Any) -> None:
        seen.extend(run.session_of(process.pid))
        assert process.pid in seen
        end(process)

    run.end = ended
    run.run_stage(run.Stage(script, 60, quick_s=2), "cpu", True, tmp_path, tmp_path)
    assert len(seen) == 2, "the stage and its child"
    assert [run.session_of(pid) for pid in seen] == [[], []]


def test_a_handle_of_gpu_memory_is_numbers_and_bytes() -> None:
    handle_of = module("ipc").Handle
    handle = handle_of(0, b"\0memory", 1 << 33, 512, b"counter", 3, b"\xff", True)
    packed = handle.packed()
    assert handle_of.parse(packed) == handle
    for wrong in (b"", b"null", b"[]", b"\x80\x04N.", packed[:-1], packed.replace(b"512", b"")):
        with pytest.raises(ValueError, match="no handle of CUDA memory"):
            handle_of.parse(wrong)


def test_lent_memory_holds_the_snapshot() -> None:
    ipc = module("ipc")
    tensors = {"a": torch.randn(3, 5), "b": torch.randn(7), "c": torch.tensor(2.5)}
    layout = {"a": torch.bfloat16, "b": torch.float32, "c": torch.bfloat16}
    lent = ipc.Lent(tensors, layout)
    for _ in range(2):
        tensors["a"].neg_()
        lent.publish()
        names = [span.name for span in lent.header.spans]
        assert sorted(names) == [*layout]
        expected = [tensors[name].to(layout[name]) for name in names]
        assert all(map(torch.equal, lent.views, expected))
        assert ipc.bits(lent.views) == ipc.bits(expected)
    tensors["b"][3] = -tensors["b"][3]
    assert ipc.bits(lent.views) != ipc.bits(tensors[name].to(layout[name]) for name in names)


@pytest.mark.timeout(420)
@pytest.mark.parametrize(
    "numbers",
    [
        pytest.param("2,5,6", marks=pytest.mark.long),
        pytest.param("0,1,2,3,4,5,6,7,8", marks=pytest.mark.slow),
    ],
)
def test_stages_of_a_quick_check_run_on_the_cpu(tmp_path: Path, numbers: str) -> None:
    """What they find must hold here as on a GPU, but for the figures."""
    check = ["bash", str(CHECK / "check.sh"), "--device", "cpu", "--quick", "--stages", numbers]
    done = subprocess.run([*check, "--out", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    whole = json.loads((tmp_path / "all.json").read_text())
    names = [record["stage"] for record in whole["stages"]]
    assert [name[1] for name in names] == numbers.split(",")
    assert {path.stem for path in tmp_path.glob("s*.json")} == set(names)
    assert all(record["ok"] and record["figures"] for record in whole["stages"])
    [published] = [record for record in whole["stages"] if record["stage"] == "s5_publish"]
    values = {figure["name"]: figure["value"] for figure in published["figures"]}
    assert values["CUDA IPC"] == "left out: it wants --device cuda, got cpu"
    with tarfile.open(tmp_path / "logs.tar.xz") as logs:
        assert f"{names[-1]}.log" in logs.getnames()
    last = done.stdout.splitlines()[-1]
    assert last.startswith(names[-1]) and " ok, " in last
