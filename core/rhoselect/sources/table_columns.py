"""Tables of a source as splits: which columns are the inputs and the label, and what they give."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rhoselect.data.manifest import Array, Kind
from rhoselect.errors import DataError, listed
from rhoselect.sources.arrays import kind_of, shaped
from rhoselect.sources.leftovers import Seen
from rhoselect.sources.origins import of_rows
from rhoselect.sources.source import Found, Options, match_splits, unread_splits
from rhoselect.sources.table_files import Part
from rhoselect.sources.table_inputs import are_texts, inputs_of
from rhoselect.sources.table_labels import (
    label_values,
    labelled_splits,
    names_in_schemas,
    numbered,
)
from rhoselect.sources.table_rows import SPLIT, joined
from rhoselect.sources.text import word_table

INPUTS = ("image", "img", "inputs", "pixel_values", "input_ids", "text", "sentence")
LABELS = ("label", "labels", "class", "target")


def found_in(
    source: Path, parts: Sequence[Part], options: Options, seen: Seen, words: bool = False
) -> Found:
    """The splits of ``parts``, of the columns ``options.columns`` or those of a usual name.

    A split without labels (all missing or negative, as GLUE's test) counts as absent. ``words``:
    all columns are strings, and numbers where all words of a column are. Raises DataError.
    """
    where = f"source {source}"
    first = next((part for part in parts if part.split == "train"), parts[0])
    inputs, label = _chosen(where, first.table.column_names, options.columns)
    rows = joined(where, parts, [*inputs, label], options, words)
    values = label_values(where, rows, label)
    there, labelled = set(rows.splits.tolist()), labelled_splits(rows.splits, values)
    bare = sorted(there - labelled)
    hint = f" (without labels: {listed(bare)})" if bare else ""
    found = match_splits(labelled, where + hint, options.test)
    kept = np.isin(rows.splits, list(found.values()))
    rows, values = rows.taken(kept), values.filter(kept)
    labels, names = numbered(where, rows, values, found["train"], label)
    splits, origins = dict[str, tuple[Array, Array]](), {}
    for ours, theirs in found.items():
        some = rows.taken(mask := rows.splits == theirs)
        splits[ours] = inputs_of(where, some, inputs, options, seen), labels[mask]
        origins[ours] = of_rows(rows.names, some.part, some.row)
    text = are_texts(rows, inputs)
    kind: Kind = "tokens" if text else kind_of(splits["train"][0])
    return Found(
        kind,
        {
            name: (shaped(f"{where}, {name}", x, kind, options.shape), y)
            for name, (x, y) in splits.items()
        },
        vocabulary=options.vocabulary if text else None,
        notes=[*unread_splits(there, found), *seen.notes()],
        class_names=names or names_in_schemas([part.table.schema for part in parts], label),
        columns=(*inputs, label),
        origins=origins,
        words=word_table(seen.words, options.vocabulary),
    )


def _chosen(where: str, names: Sequence[str], given: Sequence[str] | None) -> tuple[list[str], str]:
    """(inputs, label): those given, the last being the label; a label alone goes with the inputs of
    a usual name, or else with all other columns. Without any, those of usual names."""
    usual = [name for name in INPUTS if name in names][:1]
    if given is None:
        labels = [name for name in LABELS if name in names]
        if not usual or not labels:
            raise DataError(_unknown(where, names, usual, labels))
        return usual, labels[0]
    *inputs, label = given
    if missing := [name for name in given if name not in names]:
        raise DataError(
            f"{where}: got columns {listed(names)}, but {missing[0]!r} is missing; give --columns"
            " INPUTS,LABEL"
        )
    if len(set(given)) < len(given):
        raise DataError(f"columns: got {listed(given)}, allowed each name once")
    others = [name for name in names if name not in (label, SPLIT)]
    if not (chosen := inputs or [name for name in usual if name != label] or others):
        raise DataError(f"{where}: got column {label!r} alone, allowed inputs beside it")
    return chosen, label


def _unknown(where: str, names: Sequence[str], usual: Sequence[str], labels: Sequence[str]) -> str:
    others = [name for name in names if name not in labels and name != SPLIT] or ["INPUTS"]
    first = (usual or others)[0]
    label = (labels or [name for name in reversed(names) if name != first] or ["LABEL"])[0]
    return (
        f"{where}: got columns {listed(names)}, none of them inputs and label by name; give"
        f" --columns INPUTS,LABEL, as in --columns {first},{label}, or the label alone, --columns"
        f" {label}, to make each other column a feature"
    )
