"""Every key of the configuration as a user reads it: its default, what is allowed, its effect.

Made from the schema, for docs/configuration.md and ``rhoctl train --dry-run``.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from rhoselect.config.base import Place, Section, section_in
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
    """A section; the one without a name holds the keys above all sections. ``many``: there may be
    any number of it, as of [[trainer.groups]]."""

    name: str
    about: str
    keys: tuple[Key, ...]
    many: bool = False

    @property
    def header(self) -> str:
        """Its name as in TOML."""
        return f"[[{self.name}]]" if self.many else f"[{self.name}]"


def sections() -> list[AboutSection]:
    """All sections with their keys, in the order of the schema."""
    return list(_sections(Config, ""))


def _sections(kind: type[Section], name: str, many: bool = False) -> Iterator[AboutSection]:
    """A section and those in it."""
    inner = {key: f for key, f in kind.model_fields.items() if _is_table(f)}
    outer = {key: field for key, field in kind.model_fields.items() if key not in inner}
    about = _text(inspect.getdoc(kind)) if name else ""
    yield AboutSection(name, about, _keys(outer, FREE.get(name, ())), many)
    for key, field in inner.items():
        below = section_in(field.annotation)
        assert below is not None, "it is a table"
        path = f"{name}.{key}" if name else key
        yield from _sections(below, path, get_origin(field.annotation) is list)


def described(config: Config) -> str:
    """The configuration as TOML, with what each key means; keys that are not set are comments."""
    lines = list[str]()
    for section in sections():
        tables = _tables(config.model_dump(), section)
        for table in tables:
            lines += ["", section.header] if section.name else []
            lines += [line for key in section.keys for line in _described(key, table[key.name])]
        if not tables:
            lines += ["", f"# {section.header}: none; each would have"]
            lines += [line for key in section.keys for line in _described(key, None)]
    return "\n".join(lines) + "\n"


def _tables(tree: Any, section: AboutSection) -> list[dict[str, Any]]:
    """The values of a section, as often as there is one."""
    for part in filter(None, section.name.split(".")):
        tree = tree[part]
    return tree if section.many else [tree]


def _described(key: Key, value: Any) -> list[str]:
    assigned = f"# {key.name}: not set" if value is None else f"{key.name} = {toml(value)}"
    return [f"# {key.about} ({key.allowed})", assigned]


def toml(value: Any) -> str:
    """A value of a key in TOML, on one line."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{toml(key)} = {toml(item)}' for key, item in value.items())}}}"
    return json.dumps(value, ensure_ascii=False)


def _is_table(field: FieldInfo) -> bool:
    """Whether the values of a field are sections, and never unset."""
    return section_in(field.annotation) is not None and NoneType not in get_args(field.annotation)


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
    if (table := section_in(kind)) is not None:
        return f"table of: {', '.join(table.model_fields)}"
    if arguments:
        kinds = [each for each in arguments if each is not NoneType]
        return ", ".join(_allowed(each, metadata) for each in kinds)
    found = {type(each).__name__: each for each in metadata}
    bounds = [f"{sign} {getattr(found[n], n.lower())}" for n, sign in SIGNS.items() if n in found]
    return " ".join([WORDS[kind], ", ".join(bounds)]).strip()


def _text(text: str | None) -> str:
    return " ".join((text or "").replace("``", "`").split())
