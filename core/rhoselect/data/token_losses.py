"""Losses of tokens under a reference model, in an irreducible-loss table and mapped from it.

Their column is ``irreducible_token_losses``, a list of float32 in nats: of each point the losses of
its predicted tokens, in order. Tables are written and read a bounded number of tokens or points at
a time. So the losses of a table may be larger than memory; two numbers a point are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from rhoselect.data.mapped_losses import blank, kept
from rhoselect.fitted import FittedFile

COLUMN = "irreducible_token_losses"
READ_ROWS = 1 << 10
GROUP_TOKENS = 1 << 22

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TokenLosses:
    """Losses of N points' tokens: ``values`` [M] float32 in nats, one point after the other;
    point i has those from ``offsets[i]`` to ``offsets[i + 1]``, of ``offsets`` [N + 1] int64."""

    offsets: Numbers
    values: npt.NDArray[np.float32]

    @classmethod
    def of(cls, counts: npt.ArrayLike, values: npt.NDArray[np.float32]) -> TokenLosses:
        """The losses of points that have ``counts`` [N] of the ``values`` [M] each."""
        return cls(np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]), values)

    @property
    def counts(self) -> Numbers:
        """How many tokens [N] each point has."""
        return np.diff(self.offsets)

    def take(self, rows: Numbers) -> TokenLosses:
        """Those of the points ``rows`` [C], in this order."""
        counts = self.offsets[rows + 1] - self.offsets[rows]
        return TokenLosses.of(counts, self.values[_places(self.offsets[rows], counts)])


def joined(parts: list[TokenLosses]) -> TokenLosses:
    """The points of one part after those of the other."""
    counts = np.concatenate([part.counts for part in parts])
    return TokenLosses.of(counts, np.concatenate([part.values for part in parts]))


def write_rows(path: Path, rows: pa.Table, tokens: TokenLosses) -> None:
    """Write the rows of a table with the losses of their tokens, in row groups of a bounded size,
    or of one row."""
    field = pa.field(COLUMN, pa.list_(pa.float32()))
    first, offsets = 0, tokens.offsets
    with pq.ParquetWriter(path, rows.schema.append(field)) as writer:
        while first < len(rows):
            fits = int(np.searchsorted(offsets, offsets[first] + GROUP_TOKENS, "right")) - 1
            last = max(first + 1, fits)
            starts = (offsets[first : last + 1] - offsets[first]).astype(np.int32)
            values = pa.array(tokens.values[offsets[first] : offsets[last]])
            lists = pa.ListArray.from_arrays(pa.array(starts), values)
            writer.write_table(rows.slice(first, last - first).append_column(field, lists))
            first = last


def mapped_tokens(file: FittedFile, train: tuple[int, int], cache: Path) -> TokenLosses:
    """The losses of the tokens of a table whose rows are checked, mapped from files under
    ``cache``. Raises IrreducibleLossError for a table without them and for NaN."""
    _check_column(file)
    place = kept(file, train, cache, "offsets", lambda path: _write_offsets(file, train, path))
    offsets = np.asarray(np.memmap(place, np.int64, "c"))
    if not offsets[-1]:
        raise file.refused(f"{COLUMN} has no losses, allowed those of each predicted token")
    place = kept(
        file, train, cache, "tokens", lambda path: _write_values(file, train[0], offsets, path)
    )
    return TokenLosses(offsets, np.asarray(np.memmap(place, np.float32, "c")))


def _check_column(file: FittedFile) -> None:
    with file.reading(pa.ArrowException):
        schema = pq.read_schema(file.path)
    kind = schema.field(COLUMN).type if COLUMN in schema.names else None
    if kind is None:
        raise file.refused(
            f"has no column {COLUMN}, which selection.tokens needs; make it with"
            f" '{file.command} FILE --tokens', for a task that has losses of tokens"
        )
    if not pa.types.is_list(kind) or not pa.types.is_floating(kind.value_type):
        raise file.refused(f"{COLUMN}: got {kind}, allowed lists of float32")


def _write_offsets(file: FittedFile, train: tuple[int, int], path: Path) -> None:
    offsets = np.zeros(train[1] - train[0] + 1, np.int64)
    for index, tokens in _row_groups(file):
        inside = (index >= train[0]) & (index < train[1])
        offsets[index[inside] - train[0] + 1] = tokens.counts[inside]
    np.cumsum(offsets, out=offsets)
    with path.open("wb") as written:
        offsets.tofile(written)


def _write_values(file: FittedFile, start: int, offsets: Numbers, path: Path) -> None:
    values = blank(path, int(offsets[-1]))
    for index, tokens in _row_groups(file):
        inside = np.flatnonzero((index >= start) & (index < start + len(offsets) - 1))
        part = tokens.take(inside)
        if (bad := np.flatnonzero(~np.isfinite(part.values))).size:
            row = np.searchsorted(part.offsets, bad[0], "right") - 1
            raise file.refused(
                f"{COLUMN} of index {index[inside][row]} are not finite; allowed finite nats; run"
                f" '{file.command}' again"
            )
        values[_places(offsets[index[inside] - start], part.counts)] = part.values
    values.flush()


def _row_groups(file: FittedFile) -> Iterator[tuple[Numbers, TokenLosses]]:
    """The indices [R] and the losses of the tokens of successive rows, a bounded number at once."""
    with file.reading(pa.ArrowException), pq.ParquetFile(file.path) as stored:
        for batch in stored.iter_batches(READ_ROWS, columns=["index", COLUMN]):
            lists = batch[COLUMN]
            values = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
            counts = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
            yield batch["index"].to_numpy(), TokenLosses.of(counts, values)


def _places(starts: Numbers, counts: Numbers) -> Numbers:
    """The numbers from each of ``starts`` on, as many as its count."""
    ends = np.cumsum(counts)
    whole = int(ends[-1]) if len(ends) else 0
    firsts: Numbers = np.repeat(starts - (ends - counts), counts)
    return np.arange(whole, dtype=np.int64) + firsts
