"""Makes a checked configuration from TOML, overrides or JSON. Errors are one line, of all keys."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from datetime import date, time
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from rhoselect.config.base import Section, section_in
from rhoselect.config.removed import successor
from rhoselect.config.tree import Config
from rhoselect.errors import ConfigError, faults
from rhoselect.files import place

SHOWN = 100  # most characters of a value that an error message shows
NOT_CALLED = "default_factory_not_called"  # of a key whose default waits for another key's mistake


def load(path: Path | None, overrides: Iterable[str] = ()) -> Config:
    """Read a TOML file, apply ``section.key=value`` overrides (values in TOML), check it all.

    Raises ConfigError with one line.
    """
    tree: dict[str, Any] = {}
    if path is not None:
        try:
            tree = tomllib.loads(place(path).read_text("utf-8-sig"))
        except FileNotFoundError:
            raise ConfigError(
                f"configuration {path}: no such file; examples/ has one to copy"
            ) from None
        except OSError as error:
            raise ConfigError(f"configuration {path}: cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigError(
                f"configuration {path}: is not UTF-8, which TOML is always in; save it as UTF-8"
            ) from None
        except (ValueError, RecursionError) as error:  # so says tomllib, and of big numbers
            raise ConfigError(f"configuration {path}: cannot be read as TOML: {error}") from None
    return apply(tree, overrides)


def apply(tree: dict[str, Any], overrides: Iterable[str]) -> Config:
    """Apply ``section.key=value`` overrides to a tree in place and check it. Raises ConfigError."""
    for override in overrides:
        _override(tree, override)
    return parse(tree)


def parse(tree: Mapping[str, Any]) -> Config:
    """Check a tree of plain values. Raises ConfigError naming the offending keys."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        found = [each for each in error.errors() if each["type"] != NOT_CALLED]
        raise ConfigError(faults(map(_fault, found))) from None


def from_json(text: str) -> Config:
    """The configuration from the text of ``model_dump_json``, for other processes."""
    return parse(json.loads(text))


def _override(tree: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set: got {_shown(override)}, allowed section.key=value")
    try:
        value: Any = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text  # a bare word is a string, as a shell user expects
    if isinstance(value, date | time):
        value = text  # no key is a date; a folder's name may look like one
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"--set {name}: got a path through {key!r}, which is not a section")
    tree[keys[-1]] = value


def _fault(error: ErrorDetails) -> tuple[str, str]:
    """The key, and what is wrong with it; no key if that says which ones."""
    kind, place, got = error["type"], error["loc"], error["input"]
    name = ".".join(str(part) for part in place)
    if kind == "value_error":
        return "", str(error["ctx"]["error"])
    if removed := successor(name, got):
        return name, removed
    if kind == "extra_forbidden":
        return name, f"unknown key; allowed in its section: {_siblings(place)}"
    if kind == "missing":
        return name, f"missing; set it in the file or with --set {name}.…"
    if kind == "model_type":
        return name, f"got {_shown(got)}, allowed a section, as in [{name}]"
    tables = [n for n, part in enumerate(place[:-1]) if part in ("args", "proxy_args")]
    if tables:  # pydantic reports one error per allowed type
        name = ".".join(map(str, place[: tables[0] + 2]))
        listed = ", or a list of them" if "optimizer" in place else ""
        return name, f"got {_shown(got)}, allowed a boolean, a finite number or a string{listed}"
    reason = error["msg"][:1].lower() + error["msg"][1:]
    return name, f"got {_shown(got)}; {reason}"


def _shown(value: object) -> str:
    """A value as it was given, unless it is long."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _siblings(loc: tuple[int | str, ...]) -> str:
    section: type[Section] = Config
    for part in loc[:-1]:
        if isinstance(part, str):  # a number is a place in a list
            section = section_in(section.model_fields[part].annotation) or section
    return ", ".join(section.model_fields)
