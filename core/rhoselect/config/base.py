"""The base class of all sections of the configuration."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, field_validator
from pydantic_core import PydanticCustomError


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
