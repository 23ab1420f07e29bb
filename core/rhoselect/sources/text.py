"""Texts: GLUE's CoLA and SST-2 as tab-separated files, and a tokenizer without a table.

A token is a run of letters and digits, or one other sign, in lower case; its id is a hash of it
between 1 and vocabulary - 1, so two words may share an id (about 1 word in 5 does among 2,000
different ones at 8192). 0 is padding. No run needs a table of the words; an import leaves one, so
that people can read its texts.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from rhoselect.data.beside import WORDS
from rhoselect.data.manifest import Array
from rhoselect.errors import DataError
from rhoselect.sources.leftovers import Seen
from rhoselect.sources.source import Found, Options, Splits

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


def tokenize(texts: Sequence[str], options: Options, seen: Seen) -> Array:
    """Token ids [R, T] int64; longer texts are cut after T tokens, shorter ones end in zeros. The
    words are counted."""
    ids = np.zeros((len(texts), options.tokens), np.int64)
    for row, text in enumerate(texts):
        words = TOKEN.findall(text.lower())[: options.tokens]
        ids[row, : len(words)] = [token_id(word, options.vocabulary) for word in words]
        seen.words.update(words)
    return ids


def word_table(counts: Counter[str], vocabulary: int) -> pa.Table | None:
    """The token ids of the words counted, each with its word: of those that share it the most
    frequent one. None without a word."""
    words = {
        token_id(word, vocabulary): word  # the last one stays
        for word in sorted(counts, key=lambda word: (counts[word], word))
    }
    return pa.table([list(words), list(words.values())], schema=WORDS) if words else None


def read_cola(folder: Path, options: Options) -> Found:
    """CoLA's train.tsv and dev.tsv (which becomes test; GLUE's own test file has no labels).

    No header; columns: source, label (0 or 1), the author's mark, sentence.
    """
    splits, seen = {}, Seen()
    for split, names in COLA_FILES.items():
        path, rows = _rows(folder, names)
        labels = _labels(path, rows, COLA_COLUMNS)
        splits[split] = tokenize([row[3] for row in rows.values()], options, seen), labels
    return _found(splits, options, seen)


def read_sst2(folder: Path, options: Options) -> Found:
    """SST-2's train.tsv and dev.tsv (which becomes test): header and rows of sentence, label."""
    splits, seen = {}, Seen()
    for split, names in SST2_FILES.items():
        path, rows = _rows(folder, names)
        if (header := rows.pop(min(rows))) != ["sentence", "label"]:
            raise DataError(
                f"{path}: got first line {header}, allowed the header sentence, label of GLUE's"
                " SST-2"
            )
        labels = _labels(path, rows, 2)
        splits[split] = tokenize([row[0] for row in rows.values()], options, seen), labels
    return _found(splits, options, seen)


def _found(splits: Splits, options: Options, seen: Seen) -> Found:
    words = word_table(seen.words, options.vocabulary)
    return Found("tokens", splits, 2, options.vocabulary, words=words)


def _rows(folder: Path, names: Sequence[str]) -> tuple[Path, dict[int, list[str]]]:
    """The first of the files that is there, and the columns of its lines by their number, from 1
    on, without empty ones. Quotes have no meaning."""
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
    rows = {n: line.rstrip("\r").split("\t") for n, line in enumerate(lines, 1) if line.strip()}
    if not rows:
        raise DataError(f"{path}: got no lines, allowed tab-separated columns")
    return path, rows


def _labels(path: Path, rows: Mapping[int, Sequence[str]], columns: int) -> Array:
    """Labels [R] of tab-separated rows, from the second column."""
    for number, row in rows.items():
        if len(row) != columns or row[1].strip() not in ("0", "1"):
            raise DataError(
                f"{path}: line {number}: got {len(row)} columns {[part[:20] for part in row]},"
                f" allowed {columns}, the label (0 or 1) in column 2"
            )
    return np.array([int(row[1]) for row in rows.values()], np.int64)
