"""What an import leaves out of a source or changes in it, counted, so that the user is told.

Editors, thumbnailers and file systems leave files of their own beside the user's: a notebook's
``.ipynb_checkpoints`` is no class, and a Mac's ``._0.png`` is no picture.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from rhoselect.errors import listed, shortened

LEFTOVERS = "hidden entries and those of file systems, skipped"
SYSTEM_NAMES = {
    *("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "system volume information"),
    *("$recycle.bin", "#recycle", "@eadir", "lost+found"),
}
MOST_ENDING = 20  # characters of a name's ending that are shown


@dataclass
class Seen:
    """Counts of an import, which become the notes of its manifest.

    ``counts`` is {what: how many, or how great}, ``endings`` is {ending of a skipped file: number}.
    ``words`` counts those of texts; they become a table of their own.
    """

    counts: Counter[str] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)
    words: Counter[str] = field(default_factory=Counter)

    def entries(self, folder: Path) -> list[Path]:
        """What is in a folder, by name; leftovers are counted and left out."""
        return [path for path in sorted(folder.iterdir()) if not self.is_leftover(path.name)]

    def is_leftover(self, name: str) -> bool:
        """Whether a file's name, or a folder above it in an archive, is hidden or of a system. It
        is counted if so."""
        parts = [part for part in PurePosixPath(name).parts if part not in (".", "..")]
        found = any(p.startswith(".") or p.casefold() in SYSTEM_NAMES for p in parts)
        self.counts[LEFTOVERS] += found
        return found

    def skip(self, name: str) -> None:
        """Count a file of a kind that the import does not read."""
        ending = PurePosixPath(name).suffix.lower()
        self.endings[shortened(ending, MOST_ENDING) or "no ending"] += 1

    def notes(self) -> list[str]:
        """The counts in words, one line each."""
        lines = [f"{what}: {count}" for what, count in self.counts.items() if count]
        if self.endings:
            kinds = listed(f"{ending} {count}" for ending, count in self.endings.most_common())
            lines.append(f"files of other kinds, skipped: {self.endings.total()} ({kinds})")
        return lines
