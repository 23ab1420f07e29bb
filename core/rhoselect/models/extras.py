"""Libraries that only some models need."""

from __future__ import annotations

import importlib
from types import ModuleType

import torch

from rhoselect.errors import ModelError
from rhoselect.importing import one_line


def library(name: str, extra: str) -> ModuleType:
    """The module ``name``. Raises ModelError saying how to install it: ``extra`` if it is missing,
    its build for this torch if it is there and does not load."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        advice = f"install it with: pip install 'rhoselect[{extra}]'{_index(extra)}"
        reason = one_line(error)
    except Exception as error:  # such as an operator that this torch does not have
        package = "torchvision" if extra == "vision" else name.partition(".")[0]
        advice = (
            f"the {package} here is not made for this torch; replace it with: pip install"
            f" --force-reinstall --no-deps {package}{_index(extra)}"
        )
        reason = one_line(error)
    raise ModelError(
        f"{name} cannot be imported beside torch {torch.__version__} ({reason}); {advice}"
    ) from None


def _index(extra: str) -> str:
    """The option that gives builds for this torch, where there are several."""
    _, _, build = torch.__version__.partition("+")
    if extra != "vision" or not build:
        return ""
    return f" --extra-index-url URL, URL being PyTorch's index of {build} builds (see pytorch.org)"
