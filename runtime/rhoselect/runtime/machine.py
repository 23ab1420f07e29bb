"""Checks of a machine: the same versions everywhere, and a folder that only the user can read."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import torch

from rhoselect.errors import ConfigError


def versions() -> str:
    """The versions that must be equal in all processes of a run, because results depend on them."""
    return f"rhoselect {version('rhoselect')}, torch {torch.__version__}"


def check_versions(who: str, expected: str) -> None:
    """Raise ConfigError, naming this process as ``who``, unless it has the run's versions."""
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
