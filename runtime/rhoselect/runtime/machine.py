"""Folders of a machine: one that only the user can read, and one for Ray."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from rhoselect.errors import ConfigError

SOCKET_PATH_BYTES = 107  # the kernel's limit for the path of a socket, without its final NUL
LONGEST_SOCKET = "ray-01234567/session_2026-01-31_23-59-59_999999_4194304/sockets/plasma_store"


def ray_folder() -> Path | None:
    """The folder that RAY_TMPDIR gives for what Ray keeps during a run; None without it. Raises
    ConfigError if it cannot be used."""
    given = os.environ.get("RAY_TMPDIR")
    if given is None:
        return None
    folder = Path(given)
    excess = len(os.fsencode(folder / LONGEST_SOCKET)) - SOCKET_PATH_BYTES
    if excess > 0:
        raise ConfigError(
            f"RAY_TMPDIR: got {given!r}, {excess} bytes too long for the paths of Ray's sockets;"
            " unset it, or set it to a folder with a shorter path"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"RAY_TMPDIR: got {given!r}, which cannot be used ({error.strerror}); unset it, or set"
            " it to a folder of yours"
        ) from None
    return folder


@contextmanager
def scratch(kind: str, parent: Path | None = None) -> Iterator[Path]:
    """A new folder until the block ends, in ``parent`` or in a folder that only this user can look
    into, whose path is short enough for sockets. Folders of this ``kind`` that killed processes
    have left there are removed. Raises OSError, ConfigError if someone else has the user's folder.
    """
    parent = parent or _own_folder()
    with ExitStack() as stack:
        with _locked(parent):  # so that a new folder is locked before others look at it
            for left in parent.glob(f"{kind}-*"):
                with suppress(OSError), _locked(left, fcntl.LOCK_NB):  # else it is in use
                    shutil.rmtree(left, ignore_errors=True)
            folder = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=parent))
            stack.enter_context(_locked(folder))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        yield folder


@contextmanager
def _locked(folder: Path, flags: int = 0) -> Iterator[None]:
    """Lock a folder; the kernel drops the lock when this process ends, however it ends."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | flags)
        yield
    finally:
        os.close(descriptor)


def _own_folder() -> Path:
    """A folder that only this user can look into. Not in TMPDIR, which may be too long for sockets.

    Raises ConfigError if someone else has it.
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
    return folder
