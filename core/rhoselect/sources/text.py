"""Texts: GLUE's CoLA and SST-2 as tab-separated files, and a tokenizer without a table.

A token is a run of letters and digits, or one other sign, in lower case; its id is a hash of it
between 1 and vocabulary - 1, so two words may share an id (about 1 word in 5 does among 2,000
different ones at 8192). 0 is padding. No table has to travel with the ids.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rhoselect.data.manifest import Array
from rhoselect.errors import DataError
from rhoselect.sources.source import Found, Options

TOKEN = re.compile(r"\w+|[^\w\s]")
COLA_FILES = {
    "train": ("train.tsv", "in_domain_train.tsv"),
    "test": ("dev.tsv", "in_domain_dev.tsv"),
}
SST2_FILES = {"train": ("train.tsv",), "test": ("dev.tsv",)}
COLA_COLUMNS = 4  # source, label, the author's mark, sentence


def token_id(token: str, vocabulary: int) -> int:
    """1 + (64-bit BLAKE2b of the token in UTF-8, little-endian) mod (vocabulary - 1)."""
    digest = hashlib.blake2b(token.encode(), digest_size=8).digest()
    return 1 + int.from_bytes(digest, "little") % (vocabulary - 1)


def tokenize(texts: Sequence[str], options: Options) -> Array:
    """Token ids [R, T] int64; longer texts are cut after T tokens, shorter ones end in zeros."""
    ids = np.zeros((len(texts), options.tokens), np.int64)
    for row, text in enumerate(texts):
        words = TOKEN.findall(text.lower())[: options.tokens]
        ids[row, : len(words)] = [token_id(word, options.vocabulary) for word in words]
    return ids


def read_cola(folder: Path, options: Options) -> Found:
    """CoLA's train.tsv and dev.tsv (which becomes test; GLUE's own test file has no labels).

    No header; columns: source, label (0 or 1), the author's mark, sentence.
    """
    splits = {}
    for split, names in COLA_FILES.items():
        path, rows = _rows(folder, names)
        splits[split] = _texts(path, rows, 1, COLA_COLUMNS, label=1, text=3, options=options)
    return Found("tokens", splits, 2, options.vocabulary)


def read_sst2(folder: Path, options: Options) -> Found:
    """SST-2's train.tsv and dev.tsv (which becomes test): header and rows of sentence, label."""
    splits = {}
    for split, names in SST2_FILES.items():
        path, rows = _rows(folder, names)
        if rows[0] != ["sentence", "label"]:
            raise DataError(
                f"{path}: got first line {rows[0]}, allowed the header sentence, label of GLUE's"
                " SST-2"
            )
        splits[split] = _texts(path, rows[1:], 2, 2, label=1, text=0, options=options)
    return Found("tokens", splits, 2, options.vocabulary)


def _rows(folder: Path, names: Sequence[str]) -> tuple[Path, list[list[str]]]:
    """The first of the files that is there, and its lines' columns. Quotes have no meaning."""
    for name in names:
        path = folder / name
        if path.is_file():
            break
    else:
        raise DataError(f"source {folder}: has no {' or '.join(names)}")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text in UTF-8: {error}") from None
    rows = [line.rstrip("\r").split("\t") for line in lines if line.strip()]
    if not rows:
        raise DataError(f"{path}: got no lines, allowed tab-separated columns")
    return path, rows


def _texts(
    path: Path,
    rows: Sequence[Sequence[str]],
    first_line: int,
    columns: int,
    *,
    label: int,
    text: int,
    options: Options,
) -> tuple[Array, Array]:
    """Token ids [R, T] and labels [R] of tab-separated rows."""
    for number, row in enumerate(rows, first_line):
        if len(row) != columns or row[label].strip() not in ("0", "1"):
            raise DataError(
                f"{path}: row {number}: got {len(row)} columns {[part[:20] for part in row]},"
                f" allowed {columns}, the label (0 or 1) in column {label + 1}"
            )
    labels = np.array([int(row[label]) for row in rows], np.int64)
    return tokenize([row[text] for row in rows], options), labels
