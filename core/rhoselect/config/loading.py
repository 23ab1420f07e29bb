"""Makes a checked configuration from TOML, overrides or JSON. Errors are one line."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from datetime import date, time
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rhoselect.config.removed import refuse_removed
from rhoselect.config.tree import Config
from rhoselect.errors import ConfigError
from rhoselect.files import place

SHOWN = 100  # most characters of a value that an error message shows


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
    """Check a tree of plain values. Raises ConfigError naming the first offending key."""
    refuse_removed(tree)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_one_line(error)) from None


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


def _one_line(error: ValidationError) -> str:
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    if first["type"] == "extra_forbidden":
        return f"{name}: unknown key; allowed in its section: {_siblings(first['loc'])}"
    if first["type"] == "missing":
        return f"{name}: missing; set it in the file or with --set {name}.…"
    if first["type"] == "model_type":
        return f"{name}: got {_shown(first['input'])}, allowed a section, as in [{name}]"
    if "args" in first["loc"][:-1]:  # pydantic reports one error per allowed type
        name = ".".join(str(part) for part in first["loc"][:-1])
        return (
            f"{name}: got {_shown(first['input'])}, allowed a boolean, a finite number or a string"
        )
    reason = first["msg"][:1].lower() + first["msg"][1:]
    return f"{name}: got {_shown(first['input'])}; {reason}"


def _shown(value: object) -> str:
    """A value as it was given, unless it is long."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _siblings(loc: tuple[int | str, ...]) -> str:
    section: Any = Config
    for part in loc[:-1]:
        section = section.model_fields[str(part)].annotation
    return ", ".join(section.model_fields)
