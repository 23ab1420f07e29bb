"""Files: the paths that users name, and files that are replaced as a whole: written beside their
place, flushed to disk, then renamed."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rhoselect.errors import ConfigError


def place(path: Path | str) -> Path:
    """The absolute path of what a user names: ``~`` is a home folder, and a relative path begins
    at the working folder. Raises ConfigError for a home folder that is not known, or a working
    folder that is gone."""
    try:
        named = Path(path).expanduser()
        return named if named.is_absolute() else working_folder() / named
    except RuntimeError:
        raise ConfigError(
            f"{path}: got ~, but that home folder is not known; set HOME, or give a path without ~"
        ) from None


def working_folder() -> Path:
    """The working folder. Raises ConfigError if it is gone, or may not be read."""
    try:
        return Path.cwd()
    except OSError as error:
        raise ConfigError(
            f"the working folder of this process is gone: {error.strerror}; cd to one that exists"
        ) from None


def check_place(what: str, path: Path) -> None:
    """Raise ConfigError unless this user may make the file, named ``what``, and its folders."""
    folder = next(each for each in place(path).parents if each.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(
            f"{what} {path}: {folder} is no folder that this user may write to, allowed one; give"
            " another place"
        )


def check_readable(path: Path) -> None:
    """Raise the OSError of reading a file, or one in a folder, if it cannot be read: some libraries
    say "no such file" of one that this user may not read."""
    for file in path.iterdir() if path.is_dir() else [path]:
        file.open("rb").close()


@contextmanager
def replacing(
    path: Path, tag: int | None = None, check: Callable[[], object] | None = None
) -> Iterator[Path]:
    """Give a path to write a file to; after the block that file takes the place of ``path``.

    A reader finds the old file or the new one, never a part of one, also after a crash of the
    machine. If the block fails, or ``check``, which runs just before the rename, ``path`` stays as
    it was and what was written is removed. ``tag`` (default: the process id) tells the writers of
    the same path apart. The folder of ``path`` must exist. The file's mode is that of any new file
    here (umask), also where a library makes its files private. Raises OSError.
    """
    beside = path.with_name(f".{path.name}.{os.getpid() if tag is None else tag}")
    try:
        beside.touch()
        mode = stat.S_IMODE(beside.stat().st_mode)
        yield beside
        beside.chmod(mode)
        flush(beside)
        if check is not None:
            check()
        beside.replace(path)
        flush(path.parent)
    finally:
        with suppress(OSError):  # it is renamed by now, or was never written
            beside.unlink()


def flush(path: Path) -> None:
    """Write a file, or the names in a folder, through to the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
