"""How a run goes on: who takes its optimizer's steps, the command to resume it, and more steps."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from rhoselect.config import Config
from rhoselect.errors import RunFolderError, shortened
from rhoselect.files import replacing

Kind = Literal["trained", "served", "local"]
"""trained: by rhoctl train. served: by a loop of the user's, for which rhoctl serve selects. local:
by one that selects in its own process."""
WHOSE: Mapping[Kind, str] = {
    "trained": "a run of rhoctl train",
    "served": "a run of rhoctl serve, whose model a loop of your own trains",
    "local": "a run of a loop of your own, which selects in its own process",
}
RESULTS = (
    "summary.json",
    "steps.parquet",
    "model.safetensors",
    "model-live.safetensors",
    "report.html",
)
"""Files that only a finished run has."""


def kind_of(path: Path) -> Kind:
    """Who takes the optimizer's steps of the run in a folder. Raises RunFolderError."""
    file = path / "kind"
    if not file.exists():  # as in early folders
        return "trained"
    text = file.read_bytes().decode("utf-8", "replace").strip()
    for kind in WHOSE:
        if kind == text:
            return kind
    raise RunFolderError(f"{file}: got {shortened(repr(text))}, allowed {', '.join(WHOSE)}")


def check_kind(path: Path, kind: Kind) -> None:
    """Raise RunFolderError unless the run in a folder is of this kind: rhoctl train would train
    another model in the folder of a user's loop."""
    found = kind_of(path)
    if found != kind:
        raise RunFolderError(
            f"run folder {path}: is {WHOSE[found]}; allowed {WHOSE[kind]}; go on with:"
            f" {how_to_resume(path)}"
        )


def how_to_resume(path: Path) -> str:
    """The command, or the line of a user's loop, that goes on with the run in a folder."""
    kind = kind_of(path)
    if kind == "local":
        return f"SelectionClient(…, run_dir={str(path)!r}, step=…) in your loop"
    command = "rhoctl train" if kind == "trained" else "rhoctl serve"
    return f"{command} --resume --run-dir {shlex.quote(str(path))}"


def steps_if_finished(path: Path) -> int | None:
    """The steps of a finished run, None for another. Raises RunFolderError."""
    try:
        return int(json.loads((path / "summary.json").read_text("utf-8"))["steps"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise RunFolderError(
            f"run folder {path}: summary.json cannot be read; allowed that of a finished run"
        ) from None


def go_on_with(path: Path, config: Config) -> None:
    """Let a run go on with ``config``: to its ``trainer.steps``, also if the run was finished, and
    with its inputs where they are now."""
    with replacing(path / "config.toml") as beside:
        beside.write_text(config.to_toml(), "utf-8")
    for name in RESULTS:
        (path / name).unlink(missing_ok=True)
