"""The adapters of a run in PEFT's own form."""

from __future__ import annotations

import shutil
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import nn

from rhoselect.trainer.runfolder import RunFolder, put

FOLDER = "adapter"


def save_adapter(folder: RunFolder, model: nn.Module) -> None:
    """Write what ``PeftModel.from_pretrained`` reads to adapter/ of a run, if ``model`` is one of
    PEFT's. Raises FencedError."""
    peft = sys.modules.get("peft")  # whatever made such a model has imported it
    if peft is None or not isinstance(model, peft.PeftModel):
        return
    with TemporaryDirectory() as made:
        model.save_pretrained(made, safe_serialization=True)
        for file in (path for path in Path(made).rglob("adapter_*") if path.is_file()):
            target = folder.path / FOLDER / file.relative_to(made)
            target.parent.mkdir(parents=True, exist_ok=True)
            put(folder, target, partial(shutil.copyfile, file))
