"""Checkpoints: the only durable state of a run. One safetensors file each, written beside, fsynced
and renamed; random numbers need no place in it, for every step reseeds from (seed, step)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rhoselect.errors import RunFolderError
from rhoselect.trainer.runfolder import RunFolder, fsync
from rhoselect.types import Snapshot


@dataclass(frozen=True)
class Progress:
    """What a trainer knows besides tensors, after ``step`` steps."""

    step: int
    wall_seconds: float = 0.0
    wait_seconds: float = 0.0
    scored_points: int = 0
    lag: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """``learner`` is Learner.state_dict(); ``snapshots`` are those that open windows still use."""

    progress: Progress
    learner: dict[str, Tensor]
    state: dict[str, Tensor]
    snapshots: list[Snapshot]


def save(folder: RunFolder, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a checkpoint and forget all but the newest ``keep``. Raises FencedError."""
    tensors = {f"learner.{n}": t for n, t in checkpoint.learner.items()}
    tensors |= {f"state.{n}": t for n, t in checkpoint.state.items()}
    for snapshot in checkpoint.snapshots:
        prefix = f"snapshot.{snapshot.version}."
        tensors |= {f"{prefix}weights.{n}": t for n, t in snapshot.tensors.items()}
        tensors |= {f"{prefix}state.{n}": t for n, t in snapshot.state.items()}
    # Copies, as safetensors refuses tensors that share memory: weights may be tied.
    tensors = {
        n: t.detach().cpu().clone(memory_format=torch.contiguous_format) for n, t in tensors.items()
    }
    path = folder.path / "checkpoints" / f"step-{checkpoint.progress.step:09d}.safetensors"
    beside = path.with_name(f".{path.name}.{folder.generation}")
    folder.check_fence()
    save_file(tensors, beside, {"progress": json.dumps(asdict(checkpoint.progress))})
    fsync(beside)
    folder.check_fence()
    beside.rename(path)
    fsync(path.parent)
    for old in checkpoint_paths(folder.path)[:-keep]:
        old.unlink()
    return path


def load_newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint of a run, or None. Raises RunFolderError if it cannot be read."""
    paths = checkpoint_paths(folder)
    if not paths:
        return None
    learner: dict[str, Tensor] = {}
    state: dict[str, Tensor] = {}
    snapshots: dict[int, Snapshot] = {}
    try:
        with safe_open(paths[-1], framework="pt") as file:
            progress = Progress(**json.loads(file.metadata()["progress"]))
            for name in file.keys():  # noqa: SIM118 - not a mapping
                kind, rest = name.split(".", 1)
                if kind == "snapshot":
                    version, part, rest = rest.split(".", 2)
                    snapshot = snapshots.setdefault(int(version), Snapshot(int(version), {}, {}))
                    target = snapshot.tensors if part == "weights" else snapshot.state
                else:
                    target = learner if kind == "learner" else state
                assert isinstance(target, dict)
                target[rest] = file.get_tensor(name)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise RunFolderError(
            f"checkpoint {paths[-1]}: cannot be read ({error}); remove it to resume from the one"
            " before"
        ) from None
    return Checkpoint(progress, learner, state, [snapshots[v] for v in sorted(snapshots)])


def checkpoint_paths(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted((folder / "checkpoints").glob("step-*.safetensors"))


def newest_before(folder: Path, step: int) -> Path | None:
    """The newest checkpoint after fewer than ``step`` steps."""
    older = [p for p in checkpoint_paths(folder) if int(p.stem.removeprefix("step-")) < step]
    return older[-1] if older else None
