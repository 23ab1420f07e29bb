"""The data sets of a user's factory, one for each split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.utils.data import IterableDataset

from rhoselect.errors import ConfigError, DataError, RhoError
from rhoselect.importing import load_object, one_line

MAP_STYLE = (
    "a map-style data set of one or more points; 'rhoctl data spool' makes one of an iterable one"
)


def opened_parts(path: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """What the factory gives for each split. Raises DataError or ConfigError."""
    if "split" in args:
        raise ConfigError("data.args: got 'split', allowed any other name; the splits are all")
    factory = load_object(path, "data.dataset")
    parts: dict[str, Any] = {}
    for name in ("train", "holdout", "test"):
        try:
            parts[name] = factory(split=name, **args)
        except Exception as error:  # the user's code: anything may come out of it
            if isinstance(error, RhoError):
                raise type(error)(f"data.dataset {path!r}: {name}: {error}") from None
            if name == "holdout" and isinstance(error, ValueError | KeyError):
                continue
            raise refused(path, f"{name}: {one_line(error)}", "a data set") from error
        if wrong := _no_map_style(parts[name]):
            raise refused(path, f"{name}: {wrong}", MAP_STYLE)
    return parts


def _no_map_style(part: Any) -> str | None:
    """What a map-style data set with points has and ``part`` has not."""
    if isinstance(part, IterableDataset):
        return "an IterableDataset"
    missing = [name for name in ("__len__", "__getitem__") if not hasattr(part, name)]
    return f"no {missing[0]}" if missing else None if len(part) else "no points"


def refused(path: str, got: str, allowed: str) -> DataError:
    """The error for the data set of a factory."""
    return DataError(f"data.dataset {path!r}: got {got}, allowed {allowed}")
