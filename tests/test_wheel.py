"""What a user installs: the built wheel, alone, in an environment outside the checkout."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent.parent


@pytest.mark.long
@pytest.mark.timeout(240)
def test_the_wheel_works_outside_the_checkout(tiny_config: Path, tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(CHECKOUT)]
    subprocess.run(build, check=True, capture_output=True, cwd=tmp_path)
    [wheel] = tmp_path.glob("*.whl")
    home = tmp_path / "env"
    venv.create(home)
    pip = [sys.executable, "-m", "pip", "--python", home / "bin" / "python", "install"]
    pip += ["--no-index", "--no-deps", wheel]
    subprocess.run(pip, check=True, capture_output=True, cwd=tmp_path)
    # The dependencies come from this environment; a .pth file there is not followed, so its
    # editable rhoselect stays out of sight.
    [packages] = home.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    rhoctl = home / "bin" / "rhoctl"
    shown = subprocess.run([rhoctl, "--help"], capture_output=True, text=True, cwd=tmp_path)
    assert "train" in shown.stdout
    listed = [rhoctl, "experiment", "list"]
    refused = subprocess.run(listed, capture_output=True, text=True, cwd=tmp_path)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "--specs benchmarks/paper: no such folder" in refused.stderr
    where = [home / "bin" / "python", "-c", "import rhoselect.plan as p; print(p.__file__)"]
    found = subprocess.run(where, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert found.stdout.startswith(str(home)), "the wheel's code, not the checkout's"

    run = ["train", tiny_config, "--workers", "1", "--run-dir", tmp_path / "run"]
    done = subprocess.run([rhoctl, *run], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 20
