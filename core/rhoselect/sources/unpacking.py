"""Limits of what a compressed source may become: a few bytes can unpack to more than a machine has.

Sources come from strangers. A file that goes beyond a limit is refused before it is unpacked, or
while it is, never after.
"""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

from rhoselect.errors import DataError

UNZIPPED_BYTES = 1 << 30
"""Of one gzipped file: the largest known to us, QMNIST's, has 0.3 GB."""
FREE_BYTES = 256 << 20
MOST_RATIO = 100
"""What unpacks to more than ``FREE_BYTES`` may be ``MOST_RATIO`` times its packed size. Pixels and
texts come to about 10."""


def gunzip(path: Path) -> bytes:
    """The content of a gzipped file. Raises DataError beyond ``UNZIPPED_BYTES``; OSError, EOFError
    and zlib.error as gzip does."""
    with gzip.open(path) as file:
        content = file.read(UNZIPPED_BYTES + 1)
    if len(content) > UNZIPPED_BYTES:
        raise DataError(
            f"{path}: got more than {UNZIPPED_BYTES} bytes when unzipped, allowed at most that;"
            " unzip a file that you trust and import the result"
        )
    return content


def check_ratio(where: str, packed: int, unpacked: int) -> None:
    """Raise DataError unless ``packed`` bytes may become ``unpacked`` ones."""
    if unpacked > max(FREE_BYTES, MOST_RATIO * packed):
        raise DataError(
            f"{where}: got {packed} bytes that unpack to {unpacked}, allowed {MOST_RATIO} times as"
            " many; unpack a file that you trust and import the result"
        )


def check_members(path: Path) -> None:
    """Raise DataError for a member of a zip archive that unpacks to far more than it takes. Its
    size is what the archive says, and zipfile reads no more than that."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            where = f"source {path}: {member.filename}"
            check_ratio(where, member.compress_size, member.file_size)
