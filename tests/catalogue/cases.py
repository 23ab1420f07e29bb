"""A bad input: its name and kind, how it is made, the command line, the line it must give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

Arguments = Sequence[str | Path]


@dataclass(frozen=True)
class Place:
    """An empty folder to make a bad input in, and a good configuration."""

    folder: Path
    config: Path

    @property
    def new(self) -> Path:
        """A folder that is not there, whose parent is not there either."""
        return self.folder / "new" / "made"

    def file(self, content: bytes | str, name: str = "bad") -> Path:
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def train(self, *settings: str) -> Arguments:
        """``rhoctl train`` with settings changed; it would make `new`."""
        sets = [part for setting in settings for part in ("--set", setting)]
        return ["train", self.config, "--run-dir", self.new, *sets]


@dataclass(frozen=True)
class Case:
    """``build`` makes the input and returns the command line that meets it."""

    kind: str
    name: str
    build: Callable[[Place], Arguments]
    pattern: str
    code: int = 2


def setting(kind: str, name: str, pattern: str, *settings: str) -> Case:
    """Bad settings of ``rhoctl train``."""
    return Case(kind, name, lambda place: place.train(*settings), pattern)
