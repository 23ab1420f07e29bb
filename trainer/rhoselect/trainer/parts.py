"""Checkpoints of a divided model: a folder with the rows that each rank holds, and what they are.

rank-0.safetensors …   the rows of a rank; the lead's file also has what is not divided
manifest.json          progress, the shapes of divided tensors, where the rows of each rank begin,
                       and the SHA-256 of each file

The lead makes the folder under a hidden name and renames it, behind the fence, once all wrote.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import TypeAdapter
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from rhoselect.files import flush
from rhoselect.models.weights import separate
from rhoselect.trainer.runfolder import RunFolder

if TYPE_CHECKING:  # it takes a second to import, which few runs need
    from rhoselect.ranks.shards import Shards


@dataclass(frozen=True)
class Divided:
    """A tensor of which rank r has the rows ``starts[r]`` to ``starts[r + 1]``."""

    shape: list[int]
    starts: list[int]


@dataclass(frozen=True)
class Manifest:
    """``progress`` in JSON, and the SHA-256 of each rank's file."""

    progress: str
    divided: dict[str, Divided]
    sha256: list[str]


def save(
    folder: RunFolder, path: Path, tensors: Mapping[str, Tensor], progress: str, shards: Shards
) -> None:
    """The lead: write the checkpoint ``path`` with all ranks. Raises FencedError."""
    folder.check_fence()
    group, beside = shards.group, _beside(folder, path)
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        group.call("save", int(path.name.removeprefix("step-")))
        hashes = _write(beside, tensors, shards)
        shapes = {name: shards.rows(tensor)[1] for name, tensor in tensors.items()}
        divided = {
            name: Divided(shape, [_start(shape[0], r, group.size) for r in range(group.size + 1)])
            for name, shape in shapes.items()
            if shape is not None
        }
        text = json.dumps(asdict(Manifest(progress, divided, hashes)))
        _manifest(beside).write_text(text, "utf-8")
        flush(_manifest(beside))
        flush(beside)
        folder.check_fence()
        shutil.rmtree(path, ignore_errors=True)  # of a generation whose checkpoint was broken
        beside.rename(path)
        flush(path.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def save_own(folder: RunFolder, path: Path, tensors: Mapping[str, Tensor], shards: Shards) -> None:
    """Another rank: write its part of the checkpoint ``path``, which the lead saves."""
    own = {name: t for name, t in tensors.items() if shards.rows(t)[1] is not None}
    _write(_beside(folder, path), own, shards)


def _write(beside: Path, tensors: Mapping[str, Tensor], shards: Shards) -> list[str]:
    """Write this rank's file. Returns the SHA-256 of all ranks' files."""
    file = _file(beside, shards.group.rank)
    save_file(separate({name: shards.rows(tensor)[0] for name, tensor in tensors.items()}), file)
    flush(file)
    return [each.decode() for each in shards.group.gathered(_sha256(file).encode())]


def manifest_of(path: Path) -> Manifest:
    """What a checkpoint holds. Raises OSError or ValueError."""
    return TypeAdapter(Manifest).validate_json(_manifest(path).read_bytes())


def load(path: Path, manifest: Manifest, shards: Shards | None) -> dict[str, Tensor]:
    """The tensors of a checkpoint, written by any number of ranks: this rank's rows of them, or
    all without ``shards``. The lead checks the hashes; raises ValueError."""
    ranks = range(len(manifest.sha256))
    if shards is None or shards.group.rank == 0:
        for rank in ranks:
            file = _file(path, rank)
            if _sha256(file) != manifest.sha256[rank]:
                raise ValueError(f"the hash of {file.name} is not that of its contents")
    tensors = dict[str, Tensor]()
    with ExitStack() as stack:
        files = [stack.enter_context(safe_open(_file(path, r), framework="pt")) for r in ranks]
        for name in files[0].keys():  # noqa: SIM118
            divided = manifest.divided.get(name)
            if divided is None:
                tensors[name] = files[0].get_tensor(name)
            elif shards is None:
                tensors[name] = _rows(files, name, divided, 0, divided.shape[0])
            else:
                rank, size, count = shards.group.rank, shards.group.size, divided.shape[0]
                own = _start(count, rank, size), _start(count, rank + 1, size)
                tensors[name] = shards.of_rows(_rows(files, name, divided, *own), divided.shape)
    return tensors


def _rows(files: Sequence[Any], name: str, divided: Divided, first: int, end: int) -> Tensor:
    """Rows ``first`` to ``end`` of a tensor: of each file those that it has."""
    found = list[Tensor]()
    for file, low, high in zip(files, divided.starts[:-1], divided.starts[1:], strict=True):
        start, stop = max(first, low), min(end, high)
        if start < stop or not found:  # the first one tells the dtype, also of no rows
            found.append(file.get_slice(name)[max(0, start - low) : max(0, stop - low)])
    return torch.cat(found)


def _start(count: int, rank: int, size: int) -> int:
    """The first of ``count`` rows that a rank has: as torch.chunk divides them."""
    return min(count, rank * -(-count // size))


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _file(path: Path, rank: int) -> Path:
    return path / f"rank-{rank}.safetensors"


def _manifest(path: Path) -> Path:
    return path / "manifest.json"


def _beside(folder: RunFolder, path: Path) -> Path:
    return path.with_name(f".{path.name}.{folder.generation}")
