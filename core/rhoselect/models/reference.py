"""A second network in a file: safetensors, with the factory that builds it in the header."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from rhoselect.errors import ModelError
from rhoselect.models.build import build_model
from rhoselect.models.weights import load_weights

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
                stored = (file.metadata() or {})[METADATA_KEY]
            metadata = TypeAdapter(ReferenceMetadata).validate_json(stored)
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
        load_weights(model, self.path, key="il.weights")
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


def _check_there(path: Path, key: str) -> None:
    if not path.is_file():
        raise ModelError(
            f"{key} {path}: no such file; allowed a safetensors file, as of"
            " 'rhoctl il fit --weights-out FILE'"
        )


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
