"""What many tests share: the command line, here or in a process of its own, and a data set small
enough to learn."""

from __future__ import annotations

import io
import json
import subprocess
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rhoselect.cli import main as cli
from warm import Process

CLASSES = 4
SIZES = {"train": 400, "holdout": 200, "test": 100}
DEADLINE_S = 90.0


@dataclass(frozen=True)
class Result:
    """What a command line gave: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


def rhoctl(*arguments: str | Path) -> Result:
    """Run ``rhoctl`` with these arguments in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = cli.run([str(argument) for argument in arguments])
    return Result(code, out.getvalue(), err.getvalue())


def made(*arguments: str | Path) -> Result:
    """Run ``rhoctl`` with arguments that must work."""
    result = rhoctl(*arguments)
    assert result.code == 0, result.err
    return result


def start(*arguments: str | Path | int) -> Process:
    """``rhoctl`` in a process of its own, and in a process group as in a terminal."""
    return Process("-m", "rhoselect.cli", *map(str, arguments))


def lives(pid: int) -> bool:
    """Whether a process computes: a zombie, whose parent has not yet asked, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def until_gone(pid: int) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while lives(pid):
        assert time.monotonic() < deadline, "it lives on"
        time.sleep(0.05)


def until(
    happened: Callable[[], bool],
    process: Process | subprocess.Popen[str],
    deadline_s: float = DEADLINE_S,
) -> None:
    """Look again and again until something happened in a run that goes on meanwhile."""
    deadline = time.monotonic() + deadline_s
    while not happened():
        assert process.poll() is None, f"ended early: {process.communicate()}"
        assert time.monotonic() < deadline, "never happened"
        time.sleep(0.05)  # a look may be a command, which must not take the core from the run


def ended_well(process: Process) -> None:
    """Wait for a process that must end with exit code 0."""
    _, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, errors


def behind_proxy(patch: pytest.MonkeyPatch) -> None:
    """Set the variables of a proxy that is not there, as a company's machines have them."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        patch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        patch.setenv(name, "")  # so that it is put back
        patch.delenv(name)


def hashes(run: Path) -> tuple[str, str]:
    """What a finished run selected and learnt."""
    summary = json.loads((run / "summary.json").read_text())
    return summary["selected_sha256"], summary["weights_sha256"]


def patches(seed: int = 0) -> dict[str, Any]:
    """Splits of images [N, 1, 16, 16]: noise, and a brighter quarter that tells the class."""
    random = np.random.default_rng(seed)
    splits = {}
    for name, size in SIZES.items():
        labels = random.integers(0, CLASSES, size)
        images = random.integers(0, 120, (size, 1, 16, 16), np.uint8)
        for image, label in zip(images, labels, strict=True):
            row, column = 8 * (label // 2), 8 * (label % 2)
            image[0, row : row + 8, column : column + 8] += np.uint8(60)
        splits[name] = (images, labels)
    return splits
