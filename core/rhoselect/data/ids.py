"""Token ids are checked on the host: on a GPU an id beyond a model's embedding ends the process,
and no message names the point."""

from __future__ import annotations

import numpy as np

from rhoselect.data.manifest import Array
from rhoselect.errors import DataError
from rhoselect.types import Indices


def first_unknown(ids: Array, vocabulary: int) -> tuple[int, int] | None:
    """The row of the first of ``ids`` [R, ...] int64 outside 0 ... ``vocabulary`` - 1, and that id;
    None if all are inside."""
    unsigned = ids.view(np.uint64)  # in which negative ids are greater than any vocabulary
    if unsigned.max(initial=0) < vocabulary:
        return None
    rows, others = ids.reshape(len(ids), -1), unsigned.reshape(len(ids), -1) >= vocabulary
    row = int(others.any(axis=1).argmax())
    return row, int(rows[row, others[row].argmax()])


def check_ids(
    ids: Array, indices: Indices, where: str, model: int | None, declared: int | None
) -> None:
    """Raise DataError, which calls the data set ``where``, if one of the ``ids`` [C, ...] int64 of
    the points ``indices`` [C] is unknown to the model, which has ``model`` ids, or is none of the
    ``declared`` ids of the data set. None: not known how many there are."""
    for vocabulary, reason in (
        (declared, "by the manifest; import the data again"),
        (model, "by the model; set model.args.vocabulary to the number of ids"),
    ):
        if vocabulary is not None and (found := first_unknown(ids, vocabulary)):
            row, unknown = found
            raise DataError(
                f"{where}: got token id {unknown} in point {int(indices[row])}, allowed 0 to"
                f" {vocabulary - 1} {reason}"
            )
