"""The irreducible losses of the user's own points, as people have them."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from rhoselect.client.identity import check_made_for
from rhoselect.config import Config
from rhoselect.data import SplitPoints
from rhoselect.data.il_table import IlMetadata, IlTable, read_in_order
from rhoselect.errors import IrreducibleLossError
from rhoselect.importing import one_line

_GIVEN = IlMetadata("", "given by the loop", "", "", (0, 0), "", "", "", 0.0, 0, "reference")


def given_losses(given: Any, points: SplitPoints, config: Config) -> IlTable:
    """The irreducible losses [N] of the loop's N ``points``, from 0.

    ``given`` are numbers [N] (a tensor of any dtype and device, an array, a list), or the path of a
    table that ``fit_irreducible_losses`` or ``rhoctl il fit`` wrote; without them the table is
    ``il.table``. Raises IrreducibleLossError.
    """
    if given is not None and config.il.table is not None:
        raise IrreducibleLossError(
            f"irreducible_losses: got some and il.table = {config.il.table!r}, allowed one of the"
            " two; leave one out"
        )
    given = config.il.table if given is None else given
    if given is None:
        raise IrreducibleLossError(
            f"irreducible_losses: got none, selection.function {config.selection.function!r} needs"
            f" one a point: [{len(points)}], the losses of a model trained on other data, or the"
            " path of their table"
        )
    if isinstance(given, str | PathLike):
        path, cache = Path(given).expanduser(), config.data.cache_folder / "il"
        table = read_in_order(path, len(points), config.il.overlap, cache)
        check_made_for(path, table.metadata, points)
        return table
    return IlTable(0, _checked(_numbers(given), len(points)), _GIVEN)


def _numbers(given: Any) -> npt.NDArray[np.float32]:
    try:
        if isinstance(given, Tensor):
            return given.detach().float().cpu().numpy()
        return np.asarray(given, np.float32)
    except Exception as error:  # from whatever the user gave
        raise IrreducibleLossError(
            f"irreducible_losses: got a {type(given).__name__} ({one_line(error)[:200]}), allowed"
            " numbers [N], one a point in the order of the data, or the path of their table"
        ) from None


def _checked(values: npt.NDArray[np.float32], points: int) -> npt.NDArray[np.float32]:
    if values.shape != (points,):
        raise IrreducibleLossError(
            f"irreducible_losses: got {list(values.shape)}, allowed [{points}] finite numbers:"
            " one a point, in the order of the data"
        )
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise IrreducibleLossError(
            f"irreducible_losses: got {values[bad[0]]} for point {bad[0]}, and {len(bad)} of"
            f" {points} that are not finite, allowed finite nats; give each point a loss"
        )
    return values
