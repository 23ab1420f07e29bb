"""Libraries that only some models need."""

from __future__ import annotations

import importlib
from types import ModuleType

from rhoselect.errors import ModelError
from rhoselect.importing import one_line


def library(name: str, extra: str) -> ModuleType:
    """The module ``name``. Raises ModelError naming the extra that installs it."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # such as an operator that this torch does not have
        raise ModelError(
            f"{name} cannot be imported ({one_line(error)}); install it beside this torch with"
            f" pip install 'rhoselect[{extra}]'"
        ) from None
