"""Objects by import path: models, score functions and data sets of the user's own."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from rhoselect.errors import ConfigError, shortened


def load_object(path: str, key: str) -> Callable[..., Any]:
    """The callable that ``path`` = "module:name" names (the name may be dotted).

    ``key`` is the configuration key to name in a ConfigError (one line): path of another form,
    module that cannot be imported, attribute missing, object not callable.
    """
    module_name, colon, name = path.partition(":")
    if not colon or not all(
        part.isidentifier() for part in (*module_name.split("."), *name.split("."))
    ):
        raise ConfigError(f"{key}: got {path!r}, allowed 'module:name', as in 'my_package.data:f'")
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:  # an import runs the user's code: anything may come out of it
        raise ConfigError(
            f"{key}: got {path!r}, but module {module_name!r} cannot be imported"
            f" ({one_line(error)}); check the name, install it, or start in the folder that has it"
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise ConfigError(f"{key}: got {path!r}, but {module_name!r} has no {name!r}")
        found = getattr(found, part)
    if not callable(found):
        raise ConfigError(
            f"{key}: got {path!r}, which is of type {type(found).__name__}, allowed a callable"
        )
    return found  # type: ignore[no-any-return]


def one_line(error: BaseException) -> str:
    """Type and message of an exception, on one line that is not long."""
    return shortened(f"{type(error).__name__}: {error}")
