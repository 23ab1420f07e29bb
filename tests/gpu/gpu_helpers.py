"""What the tests of a device share: its name, and commands that must work."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from rhoselect.cli.main import run as rhoctl

DEVICE = os.environ.get("RHOSELECT_GPU_TESTS", "")
Train = Callable[..., dict[str, object]]


def made(*words: str | Path | int, sets: tuple[str, ...] = ()) -> None:
    """Run ``rhoctl`` in this process."""
    flags = [word for key in sets for word in ("--set", key)]
    assert rhoctl([*map(str, words), *flags]) == 0


def fit(data: Path, table: Path) -> None:
    """``rhoctl il fit`` of a small model, on the device under test."""
    keys = ("model.args.width=16", f"scorer.device={DEVICE}", f"trainer.device={DEVICE}")
    model = ("--model", "rhoselect.models:mlp", "--batch", 64, "--epochs", 1)
    made("il", "fit", "--data", data, "--out", table, *model, sets=keys)
