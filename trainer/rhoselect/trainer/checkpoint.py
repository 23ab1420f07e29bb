"""Checkpoints, the only durable state of a run, and the final weights alone.

A checkpoint is one safetensors file, hashed, written beside, fsynced and renamed; the hash is
verified when it is loaded. Of a divided model it is a folder (``parts``). It holds no random
numbers, as every step reseeds from (seed, step). ``saving`` writes it while training goes on.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from rhoselect.errors import RunFolderError
from rhoselect.files import check_readable
from rhoselect.importing import one_line
from rhoselect.models.weights import separate, staged
from rhoselect.trainer import parts
from rhoselect.trainer.runfolder import RunFolder, put, remove
from rhoselect.types import Snapshot

if TYPE_CHECKING:  # it takes a second to import, which few runs need
    from rhoselect.ranks.shards import Shards

LEARNER = "learner."
LIVE = "model-live.safetensors"
"""The weights that trained, of a run whose model.safetensors has an average of weights."""


@dataclass(frozen=True)
class Progress:
    """A trainer's counters after ``step`` optimizer steps; times are in seconds."""

    step: int
    wall_seconds: float = 0.0
    wait_seconds: float = 0.0
    scored_points: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """``learner`` is Learner.state_dict(); ``snapshots`` are those that open windows still use."""

    progress: Progress
    learner: dict[str, Tensor]
    state: dict[str, Tensor]
    snapshots: list[Snapshot]


class Staged:
    """Copies of what a checkpoint holds: training may change it from now on. If ``shards`` divide
    the model, it is not copied, and must not change before it is written."""

    def __init__(self, checkpoint: Checkpoint, shards: Shards | None = None) -> None:
        self._progress, self._shards = checkpoint.progress, shards
        tensors = _flat(checkpoint)
        self._tensors, self._arrivals = (tensors, []) if shards is not None else staged(tensors)

    def write(self, folder: RunFolder, keep: int) -> Path:
        """Write the checkpoint, with all ranks of a divided model, and delete all but the newest
        ``keep``. Raises FencedError."""
        shards, tensors = self._shards, self._tensors
        path = path_of(folder.path, self._progress.step, shards)
        progress = json.dumps(asdict(self._progress))
        if shards is None:
            for arrival in self._arrivals:
                arrival.synchronize()
            metadata = {"progress": progress, "sha256": _sha256(progress, tensors)}
            put(folder, path, lambda beside: save_file(tensors, beside, metadata))
        else:
            parts.save(folder, path, tensors, progress, shards)
        # Checkpoints after this one are broken: the resumed run could not load them.
        for old in [each for each in checkpoint_paths(folder.path) if each <= path][:-keep]:
            remove(old)
        return path


def _flat(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The tensors of a checkpoint, whose names begin with their kind."""
    tensors = {LEARNER + n: t for n, t in checkpoint.learner.items()}
    tensors |= {f"state.{n}": t for n, t in checkpoint.state.items()}
    for snapshot in checkpoint.snapshots:
        prefix = f"snapshot.{snapshot.version}."
        tensors |= {f"{prefix}weights.{n}": t for n, t in snapshot.tensors.items()}
        tensors |= {f"{prefix}state.{n}": t for n, t in snapshot.state.items()}
    return tensors


def save_part(folder: RunFolder, step: int, learner: Mapping[str, Tensor], shards: Shards) -> None:
    """A rank that is not the lead: write its part of the checkpoint that the lead saves."""
    tensors = {LEARNER + name: tensor for name, tensor in learner.items()}
    parts.save_own(folder, path_of(folder.path, step, shards), tensors, shards)


def save_model(folder: RunFolder, model: nn.Module, name: str = "model.safetensors") -> None:
    """Write a file that ``load_state_dict`` of the same model takes. Raises FencedError."""
    tensors = separate(model.state_dict())
    put(folder, folder.path / name, lambda beside: save_file(tensors, beside))


def load_newest(folder: Path, shards: Shards | None = None) -> Checkpoint | None:
    """The newest checkpoint of a run that can be loaded (see ``load``); None if the run has no
    checkpoints.

    Logs a warning for each broken one. Raises RunFolderError if all are broken.
    """
    broken: list[RunFolderError] = []
    for path in reversed(checkpoint_paths(folder)):
        try:
            found = load(path, shards)
        except RunFolderError as error:
            logging.warning("%s", error)
            broken.append(error)
            continue
        if broken:
            logging.warning("going on from checkpoint %s, the newest one that is whole", path)
        return found
    if broken:
        raise broken[0]
    return None


def load(path: Path, shards: Shards | None = None) -> Checkpoint:
    """A checkpoint; of a divided model what ``shards`` have here, or all without. Raises
    RunFolderError if it is not whole, OSError if it may not be read."""
    check_readable(path)
    try:
        if path.is_dir():
            manifest = parts.manifest_of(path)
            tensors = parts.load(path, manifest, shards)
            return _split_by_kind(_progress(manifest.progress), tensors)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if _sha256(metadata["progress"], tensors) != metadata["sha256"]:
            raise ValueError("its hash is not that of its contents")
        return _split_by_kind(_progress(metadata["progress"]), tensors)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        reason = one_line(error)
        raise RunFolderError(
            f"checkpoint {path}: cannot be read ({reason}); allowed a whole one; restore it from a"
            " copy, or start a new run"
        ) from None


def newest_progress(folder: Path) -> Progress:
    """The counters of the newest checkpoint, without its tensors; those of step 0 if there is none
    that can be read."""
    for path in reversed(checkpoint_paths(folder)):
        with suppress(SafetensorError, OSError, KeyError, ValueError):
            if path.is_dir():
                return _progress(parts.manifest_of(path).progress)
            with safe_open(path, framework="pt") as file:
                return _progress((file.metadata() or {})["progress"])
    return Progress(0)


def _progress(text: str) -> Progress:
    return TypeAdapter(Progress).validate_json(text)


def _split_by_kind(progress: Progress, tensors: Mapping[str, Tensor]) -> Checkpoint:
    """The parts of a checkpoint: the reverse of ``_flat``."""
    learner: dict[str, Tensor] = {}
    state: dict[str, Tensor] = {}
    snapshots: dict[int, Snapshot] = {}
    for name, tensor in tensors.items():
        kind, rest = name.split(".", 1)
        if kind == "snapshot":
            version, part, rest = rest.split(".", 2)
            snapshot = snapshots.setdefault(int(version), Snapshot(int(version), {}, {}))
            target = snapshot.tensors if part == "weights" else snapshot.state
        else:
            target = learner if kind == "learner" else state
        assert isinstance(target, dict)
        target[rest] = tensor
    return Checkpoint(progress, learner, state, [snapshots[v] for v in sorted(snapshots)])


def _sha256(progress: str, tensors: Mapping[str, Tensor]) -> str:
    """Hash of the progress and of every tensor's name, type, shape and bytes, in name order."""
    digest = hashlib.sha256(progress.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def path_of(folder: Path, step: int, shards: Shards | None) -> Path:
    """The checkpoint after ``step`` steps of the run in a folder."""
    suffix = ".safetensors" if shards is None else ""
    return folder / "checkpoints" / f"step-{step:09d}{suffix}"


def checkpoint_paths(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    # Not glob, which finds nothing in a folder that may not be read.
    found = (folder / "checkpoints").iterdir()
    own = [path for path in found if path.match("step-*")]
    return sorted(path for path in own if path.suffix == ".safetensors" or path.is_dir())


def newest_before(folder: Path, step: int) -> Path | None:
    """The newest checkpoint after fewer than ``step`` steps."""
    older = [p for p in checkpoint_paths(folder) if int(p.stem.removeprefix("step-")) < step]
    return older[-1] if older else None
