"""The machine and packages that a result comes from."""

from __future__ import annotations

import os
import platform
import shlex
import stat
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from rhoselect.errors import ConfigError


def origin() -> dict[str, Any]:
    """The command line of this process and the machine it ran on."""
    command = [Path(sys.argv[0]).name, *sys.argv[1:]]
    return {
        "command": shlex.join(command),
        "machine": {
            "cpu": _cpu_name(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "rhoselect": version("rhoselect"),
        },
    }


def versions() -> str:
    """What has to be the same in every process of a run for its result to be."""
    return f"rhoselect {version('rhoselect')}, torch {torch.__version__}"


def check_versions(who: str, expected: str) -> None:
    """Raise ConfigError, naming ``who`` is here, unless this process has the run's versions."""
    if versions() != expected:
        raise ConfigError(
            f"{who}: has {versions()}, the run began with {expected}; allowed the same everywhere,"
            " as results depend on it; install it there"
        )


def own_folder(name: str) -> str:
    """The path of ``name``, made or not, in a folder that only this user can look into.

    Short, for the paths of sockets, so not in TMPDIR. Raises ConfigError if someone else has it.
    """
    folder = Path(f"/tmp/rhoselect-{os.getuid()}")
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ConfigError(
            f"{folder}: belongs to someone else or is open to others, allowed a folder of yours"
            " with mode 0700; remove it"
        )
    return str(folder / name)


def _cpu_name() -> str:
    """The processor's name, where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), "unknown")
