"""A second network in a file: safetensors, with the factory that builds it in the header."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from rhoselect.errors import ModelError
from rhoselect.files import replacing
from rhoselect.fitted import METADATA_KEY, FittedFile, dump_metadata, parse_metadata
from rhoselect.models.build import build_model
from rhoselect.models.weights import load_weights, separate

Scalar = bool | int | float | str


@dataclass(frozen=True)
class ReferenceMetadata:
    """How to build a model, [start, stop) of the points it learnt from, what that cost, and the
    keys that made the data set: ``Config.data_keys``."""

    factory: str
    args: Mapping[str, Scalar]
    fingerprint: str
    learnt: tuple[int, int]
    seconds: float
    flops: int
    data: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ReferenceFile:
    """A model in a file of ``rhoctl il fit --weights-out``, checked when it is opened."""

    path: Path
    metadata: ReferenceMetadata
    sha256: str

    @classmethod
    def open(cls, path: Path, fingerprint: str, data: Mapping[str, str]) -> ReferenceFile:
        """The file at ``path``, made for the data set ``fingerprint`` of the keys ``data``. Raises
        ModelError."""
        content = "safetensors with its metadata"
        file = FittedFile(path, "il.weights", "rhoctl il fit --weights-out", content, ModelError)
        file.check_exists()
        with file.reading(SafetensorError), safe_open(path, framework="pt") as stored:
            metadata = parse_metadata(ReferenceMetadata, (stored.metadata() or {})[METADATA_KEY])
        file.check_fingerprint(metadata.fingerprint, fingerprint, metadata.data, data)
        return cls(path, metadata, hashlib.sha256(path.read_bytes()).hexdigest())

    def build(self, input_shape: tuple[int, ...], classes: int) -> nn.Module:
        """The model with its weights, on the CPU. Raises ModelError."""
        made = self.metadata
        model = build_model(made.factory, made.args, input_shape, classes, seed=0)
        load_weights(model, self.path, key="il.weights")
        return model


def save_reference(path: Path, model: nn.Module, metadata: ReferenceMetadata) -> None:
    """Write a model that ``ReferenceFile.open`` reads, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        header = {METADATA_KEY: dump_metadata(metadata)}
        save_file(separate(model.state_dict()), beside, header)
