"""The base class of all sections of the configuration."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, field_validator
from pydantic_core import PydanticCustomError

from rhoselect.errors import ConfigError
from rhoselect.files import place


def absolute(path: str) -> str:
    """A path as it means the same in every folder and process; URIs stay as they are."""
    local = path.removeprefix("file://")
    if "://" in local:
        return path
    try:
        return str(place(local))
    except ConfigError as error:
        raise PydanticCustomError("place", "{reason}", {"reason": str(error)}) from None


Place = Annotated[str, AfterValidator(absolute)]
"""A path in a configuration. It is made absolute when the configuration is made."""


def cache_home() -> Path:
    """The folder for files that can be made again, if ``data.cache_dir`` is not set."""
    try:
        return place(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "rhoselect"
    except ConfigError:
        raise ConfigError(
            "data.cache_dir: not set, and the home folder is not known; set data.cache_dir,"
            " XDG_CACHE_HOME or HOME"
        ) from None


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _representable(cls, value: object) -> object:
        """Refuse strings and integers that system calls and Arrow cannot represent."""
        if isinstance(value, str) and "\0" in value:
            raise PydanticCustomError("nul", "a string without a NUL character is allowed")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise PydanticCustomError("int64", "an integer of 64 bits is allowed")
        return value


def section_in(kind: Any) -> type[Section] | None:
    """The section that a field of this type holds: itself, one that may be unset, or a list of
    them."""
    if isinstance(kind, type):
        return kind if issubclass(kind, Section) else None
    return next(filter(None, map(section_in, get_args(kind))), None)
