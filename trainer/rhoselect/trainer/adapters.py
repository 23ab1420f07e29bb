"""The adapters of a run in PEFT's own form."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from torch import nn

from rhoselect.trainer.runfolder import RunFolder, put

FOLDER = "adapter"


def is_adapted(model: nn.Module) -> bool:
    """Whether ``model`` is one of PEFT's."""
    peft = sys.modules.get("peft")  # whatever made such a model has imported it
    return peft is not None and isinstance(model, peft.PeftModel)


def adapter_files(model: nn.Module) -> Mapping[Path, bytes]:
    """What ``PeftModel.from_pretrained`` reads, by the path in adapter/; {} unless ``model`` is one
    of PEFT's."""
    if not is_adapted(model):
        return {}
    with TemporaryDirectory() as made:
        cast(Any, model).save_pretrained(made, safe_serialization=True)
        files = [path for path in Path(made).rglob("adapter_*") if path.is_file()]
        return {file.relative_to(made): file.read_bytes() for file in files}


def save_adapter(folder: RunFolder, files: Mapping[Path, bytes]) -> None:
    """Write ``adapter_files`` to adapter/ of a run. Raises FencedError."""
    for name, content in files.items():
        target = folder.path / FOLDER / name
        target.parent.mkdir(parents=True, exist_ok=True)
        put(folder, target, partial(Path.write_bytes, data=content))
