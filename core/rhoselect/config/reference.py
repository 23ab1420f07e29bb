"""Every key of the configuration as a user reads it: its default, what is allowed, its effect.

Made from the schema, for docs/configuration.md and ``rhoctl train --dry-run``.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable
from dataclasses import dataclass
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from rhoselect.config.base import Place, Section
from rhoselect.config.tree import FREE, Config

SIGNS = {"Ge": ">=", "Gt": ">", "Le": "<=", "Lt": "<"}
WORDS = {bool: "true or false", int: "whole number", float: "number", str: "text"}


@dataclass(frozen=True)
class Key:
    """A key of a section. ``default`` is in TOML, empty if the key is not set by default; ``free``:
    no result depends on it."""

    name: str
    default: str
    allowed: str
    about: str
    free: bool


@dataclass(frozen=True)
class AboutSection:
    """A section; the one without a name holds the keys above all sections."""

    name: str
    about: str
    keys: tuple[Key, ...]


def sections() -> list[AboutSection]:
    """All sections with their keys, in the order of the schema."""
    fields = Config.model_fields
    inner = {name: kind for name, f in fields.items() if (kind := _section(f)) is not None}
    outer = {name: field for name, field in fields.items() if name not in inner}
    return [
        AboutSection("", "", _keys(outer, ())),
        *(
            AboutSection(
                name, _text(inspect.getdoc(kind)), _keys(kind.model_fields, FREE.get(name, ()))
            )
            for name, kind in inner.items()
        ),
    ]


def described(config: Config) -> str:
    """The configuration as TOML, with what each key means; keys that are not set are comments."""
    tree, lines = config.model_dump(), []
    for section in sections():
        if section.name:
            lines += ["", f"[{section.name}]"]
        for key in section.keys:
            value = (tree[section.name] if section.name else tree)[key.name]
            lines.append(f"# {key.about} ({key.allowed})")
            lines.append(
                f"# {key.name}: not set" if value is None else f"{key.name} = {toml(value)}"
            )
    return "\n".join(lines) + "\n"


def toml(value: Any) -> str:
    """A value of a key in TOML, on one line."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{toml(key)} = {toml(item)}' for key, item in value.items())}}}"
    return json.dumps(value, ensure_ascii=False)


def _section(field: FieldInfo) -> type[Section] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def _keys(fields: dict[str, FieldInfo], free: Any) -> tuple[Key, ...]:
    return tuple(
        Key(
            name,
            _default(field),
            _allowed(field.annotation, field.metadata),
            _text(field.description),
            free is True or name in free,
        )
        for name, field in fields.items()
    )


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True, validated_data={})
    return "" if value is None else toml(value)


def _allowed(kind: Any, metadata: Iterable[object] = ()) -> str:
    """The values of a type in words, with the bounds among ``metadata``."""
    if kind == Place:
        return "path"
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _allowed(arguments[0], kind.__metadata__)
    if origin is Literal:
        return " or ".join(json.dumps(each) for each in arguments)
    if origin is dict:
        return f"table of: {_allowed(arguments[1])}"
    if origin is list:
        return f"list of: {_allowed(arguments[0])}"
    if arguments:
        return ", ".join(_allowed(each) for each in arguments if each is not NoneType)
    found = {type(each).__name__: each for each in metadata}
    bounds = [f"{sign} {getattr(found[n], n.lower())}" for n, sign in SIGNS.items() if n in found]
    return " ".join([WORDS[kind], ", ".join(bounds)]).strip()


def _text(text: str | None) -> str:
    return " ".join((text or "").replace("``", "`").split())
