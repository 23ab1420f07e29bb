"""Files that a command fits before a run, each for one data set: how they are opened and refused.

They are the irreducible-loss table, the proxy's entropies and the second network. Each keeps a
dataclass as JSON in its header, under ``METADATA_KEY``, with the fingerprint of its data set.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import TypeAdapter

from rhoselect.errors import UserError, listed
from rhoselect.files import check_readable

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

METADATA_KEY = "rhoselect"
_T = TypeVar("_T")


@dataclass(frozen=True)
class FittedFile:
    """A fitted file, as the errors about it name it.

    ``key`` is the configuration key that names it, as in "il.table"; ``command`` makes it, as in
    "rhoctl il fit --out"; ``content`` says what it holds; ``error`` is raised if it cannot be used.
    """

    path: Path
    key: str
    command: str
    content: str
    error: type[UserError]

    def refused(self, reason: str) -> UserError:
        """The error for this file: one line."""
        return self.error(f"{self.key} {self.path}: {reason}")

    def check_exists(self) -> None:
        """Raise ``error`` if there is no such file, OSError if it may not be read."""
        try:
            check_readable(self.path)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise self.refused(
                f"no such file; if it moved, say where it is ({self.key}=FILE), or make it"
                f" with '{self.command} {self.path} --data DATASET'"
            ) from None

    def check_fingerprint(
        self,
        made_for: str,
        fingerprint: str,
        theirs: Mapping[str, str],
        ours: Mapping[str, str],
    ) -> None:
        """Raise ``error`` if the file was made for another data set than ``fingerprint``.
        ``theirs`` and ``ours`` are the two's ``Config.data_keys``, as far as they are known."""
        if made_for == fingerprint:
            return
        differ = [key for key in sorted({*theirs, *ours}) if theirs.get(key) != ours.get(key)]
        lines = (f"{k} = {theirs.get(k, 'unset')}, here {ours.get(k, 'unset')}" for k in differ)
        known = f"; it was made with {listed(lines, 5)}" if theirs and differ else " (data.path)"
        raise self.refused(
            f"made for data set {made_for[:12]}, allowed {fingerprint[:12]}{known}; run"
            f" '{self.command}' on this data set"
        )

    @contextmanager
    def reading(self, *unreadable: type[Exception]) -> Iterator[None]:
        """Turn what a broken or foreign file raises in the block into ``error``.

        That is ``unreadable``, the exceptions of the file's library, and what Python raises itself.
        """
        broken: tuple[type[Exception], ...]
        broken = (OSError, LookupError, ValueError, TypeError, *unreadable)
        try:
            yield
        except UserError:
            raise
        except broken as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise self.refused(
                f"not a file of '{self.command}' ({reason}); allowed {self.content}; fit it again"
            ) from None


def dump_metadata(metadata: DataclassInstance) -> str:
    """A metadata dataclass as JSON."""
    return json.dumps(asdict(metadata))


def parse_metadata(kind: type[_T], text: str | bytes) -> _T:
    """The metadata dataclass ``kind`` back. Raises ValueError for anything else."""
    return TypeAdapter(kind).validate_json(text)
