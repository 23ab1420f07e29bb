"""Options of ``rhoctl data import`` whose words hold several values."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

from rhoselect.errors import ConfigError

if TYPE_CHECKING:
    from rhoselect.data import Pairs


def pairs_in(text: str) -> Pairs | str:
    """Noise pairs FROM:TO,…; "auto" as it is. Raises ConfigError."""
    if text in ("", "auto"):
        return text or ()
    try:
        first, second = zip(*(part.split(":") for part in text.split(",")), strict=True)
        return tuple(zip(map(int, first), map(int, second), strict=True))
    except ValueError:
        raise ConfigError(
            f"--noise-pairs: got {text!r}, allowed FROM:TO,… as in 6:0,4:2, or auto"
        ) from None


def relevance_in(text: str | None) -> tuple[int, float] | None:
    """K:SHARE. Raises ConfigError."""
    if text is None:
        return None
    try:
        classes, share = text.split(":")
        return int(classes), float(share)
    except ValueError:
        raise ConfigError(f"--relevance: got {text!r}, allowed K:SHARE as in 2:0.06") from None


def duplicates_in(text: str) -> dict[str, Any]:
    """K or K:SHARE, as keywords of an import. Raises ConfigError."""
    times, _, share = text.partition(":")
    try:
        return {"duplicates": int(times), "duplicate_share": float(share or 1)}
    except ValueError:
        raise ConfigError(
            f"--duplicates: got {text!r}, allowed K or K:SHARE, as in 5:0.2"
        ) from None


def columns_in(text: str | None) -> tuple[str, ...] | None:
    """Names of columns, as in a line of CSV. Raises ConfigError."""
    if text is None:
        return None
    names = tuple(next(csv.reader([text]), ()))  # so that a name may hold a comma, in quotes
    if not names or not all(names):
        raise ConfigError(f"--columns: got {text!r}, allowed INPUTS,LABEL as in img,fine_label")
    return names


def shape_in(text: str | None) -> list[int] | None:
    """Sizes of one input. Raises ConfigError."""
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--shape: got {text!r}, allowed integers such as 3,32,32") from None
