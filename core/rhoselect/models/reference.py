"""A second network in a file: safetensors, with the factory that builds it in the header."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rhoselect.errors import ModelError
from rhoselect.models.build import build_model

METADATA_KEY = "rhoselect"
Scalar = bool | int | float | str


@dataclass(frozen=True)
class ReferenceMetadata:
    """How to build a model, [start, stop) of the points it learnt from, and what that cost."""

    factory: str
    args: Mapping[str, Scalar]
    fingerprint: str
    learnt: tuple[int, int]
    seconds: float
    flops: int


@dataclass(frozen=True)
class ReferenceFile:
    """A model in a file of ``rhoctl il fit --weights-out``, checked when it is opened."""

    path: Path
    metadata: ReferenceMetadata
    sha256: str

    @classmethod
    def open(cls, path: Path, key: str) -> ReferenceFile:
        """The file at ``path``; ``key`` is named in a ModelError (one line)."""
        _check_there(path, key)
        try:
            with safe_open(path, framework="pt") as file:
                stored = json.loads((file.metadata() or {})[METADATA_KEY])
            metadata = ReferenceMetadata(**stored | {"learnt": tuple(stored["learnt"])})
        except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
            raise ModelError(
                f"{key} {path}: not a file of 'rhoctl il fit --weights-out' ({_line(error)});"
                " allowed safetensors with its metadata; fit it again"
            ) from None
        return cls(path, metadata, hashlib.sha256(path.read_bytes()).hexdigest())

    def build(self, input_shape: tuple[int, ...], classes: int) -> nn.Module:
        """The model with its weights, on the CPU. Raises ModelError."""
        made = self.metadata
        model = build_model(made.factory, made.args, input_shape, classes, seed=0)
        load_weights(model, self.path, "il.weights")
        return model


def save_reference(path: Path, model: nn.Module, metadata: ReferenceMetadata) -> None:
    """Write a model that ``ReferenceFile.open`` reads, atomically."""
    # Copies, as safetensors refuses tensors that share memory: weights may be tied.
    tensors = {
        name: t.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, t in model.state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(tensors, beside, {METADATA_KEY: json.dumps(asdict(metadata))})
    beside.replace(path)


def load_weights(model: nn.Module, path: Path, key: str) -> None:
    """Load the tensors of a safetensors file into ``model``: the same names and shapes, all of
    them. ``key`` is named in a ModelError (one line)."""
    _check_there(path, key)
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{key} {path}: cannot be read as safetensors ({_line(error)}); convert it"
        ) from None
    own = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    found = {name: tuple(t.shape) for name, t in tensors.items()}
    if found != own:
        name = min(n for n in own.keys() | found.keys() if own.get(n) != found.get(n))
        raise ModelError(
            f"{key} {path}: tensor {name!r}: got {_shape(found.get(name))}, allowed"
            f" {_shape(own.get(name))} of the model; are factory and model.args those of the file?"
        )
    model.load_state_dict(tensors)


def _check_there(path: Path, key: str) -> None:
    if not path.is_file():
        raise ModelError(
            f"{key} {path}: no such file; allowed a safetensors file, as of"
            " 'rhoctl il fit --weights-out FILE'"
        )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "none" if shape is None else f"shape {list(shape)}"


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
