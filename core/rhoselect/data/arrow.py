"""A data set of Arrow shards, local or remote, gathered by index without a loop over points."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rhoselect.config import DataConfig
from rhoselect.data.augment import Augmentation
from rhoselect.data.base import Labels, Mask, Origins, Span, SplitPoints, span_of
from rhoselect.data.beside import origins_of
from rhoselect.data.blocks import Block, broken
from rhoselect.data.cache import Cache
from rhoselect.data.decoding import Decoder
from rhoselect.data.fingerprint import content_hash, file_hash
from rhoselect.data.gathering import as_asked, clean_of, gather, raw_of
from rhoselect.data.ids import check_ids
from rhoselect.data.manifest import Array
from rhoselect.data.remote import RemoteShards
from rhoselect.data.resident import Resident
from rhoselect.data.shards import LocalShards, Located, Shards
from rhoselect.data.store import Store
from rhoselect.errors import ConfigError
from rhoselect.types import Batch, Indices


class ArrowDataset:
    """A folder made by ``write_dataset``, here or in a store. ``vocabulary`` is how many token ids
    the model knows that reads are for, if that is known."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards
        self.manifest = manifest = shards.manifest
        self.fingerprint = manifest.fingerprint
        self.classes = manifest.classes
        self.class_names = manifest.class_names
        self.input_shape: tuple[int, ...] = manifest.inputs.shape
        self.splits: Mapping[str, Span] = manifest.splits
        self.vocabulary: int | None = None

    @classmethod
    def open(cls, path: Path | str) -> ArrowDataset:
        """Map all shards of a folder and check them against the manifest; of the values, labels.

        Raises DataError for whatever is missing, truncated, corrupt, or not as the manifest says.
        """
        return cls(LocalShards(Path(path)))

    @classmethod
    def open_remote(cls, config: DataConfig) -> ArrowDataset:
        """Read the manifest at the URI ``config.path``; shards are fetched when first needed.

        Raises DataError, ConfigError, and WaitError when the store is away for ``timeout_s``.
        """
        assert config.path is not None
        cache = Cache(config.cache_folder / "shards", config.cache_bytes)
        return cls(RemoteShards(Store(config.path, config.timeout_s), cache, config.timeout_s))

    def split(self, name: str, augmentation: Augmentation | None = None) -> DatasetPoints:
        """The points of a split. Raises DataError for an unknown name, ConfigError for an
        augmentation of other inputs than images."""
        if augmentation is not None and self.manifest.inputs.kind != "image":
            raise ConfigError(
                f"augment: got inputs of kind {self.manifest.inputs.kind}, allowed for images"
                " alone; leave the section out"
            )
        span = span_of(name, self.splits)
        return DatasetPoints(span, self._shards, augmentation, self.vocabulary)

    def verify(self) -> None:
        """Read everything; raise DataError if a shard's hash or the fingerprint differs."""
        for number, shard in enumerate(self.manifest.shards):
            if (got := file_hash(self._shards.path(number))) != shard.sha256:
                raise broken(f"{self._shards.location}/{shard.file}", f"sha256 {got}", shard.sha256)
        _ = self._shards.origins, self._shards.words  # which checks their hashes
        m = self.manifest
        rows = ((block.inputs, block.labels, block.clean) for block in self._blocks())
        if (got := content_hash(m.inputs, m.classes, m.splits, rows)) != m.fingerprint:
            raise broken(self._shards.location, f"fingerprint {got}", m.fingerprint)

    def _blocks(self) -> Iterator[Block]:
        for number in range(len(self.manifest.shards)):
            yield from self._shards.blocks(number)


class DatasetPoints(SplitPoints):
    """A split of an ArrowDataset."""

    def __init__(
        self,
        span: Span,
        shards: Shards,
        augmentation: Augmentation | None = None,
        vocabulary: int | None = None,
    ) -> None:
        super().__init__(span)
        self._augmentation, self._vocabulary = augmentation, vocabulary
        self._shards, self._manifest = shards, shards.manifest
        self.far = shards.far
        self._scales: dict[torch.device, tuple[Tensor, Tensor]] = {}
        self._held: dict[torch.device, Resident] = {}
        self._decoder = Decoder(self._manifest.inputs, self._shards.location)

    @property
    def block_rows(self) -> int:
        """Rows of the split's first shard, as of all but the last where `data import` made them."""
        first: int = self._shards.overlapping((self.start, self.stop)).start
        return self._manifest.shards[first].rows

    def check_room(self, rows: int, reason: str) -> None:
        """Raises ConfigError unless the cache of a remote data set can hold ``rows`` rows' shards.

        Counted in the split's largest shards; never more than the split has.
        """
        sizes = [shard.bytes for shard in self._manifest.shards]
        sizes = sizes[self._shards.overlapping((self.start, self.stop))]
        blocks = -(-rows // self.block_rows)
        self._shards.check_room(sum(sorted(sizes)[-blocks:]), reason)

    def prefetch(self, indices: Indices) -> None:
        """Fetch the shards of ``indices`` [C] in the background, if the data set is remote."""
        self._shards.prefetch(self._shards.numbers(indices))

    def read(self, indices: Indices, device: torch.device, epochs: Indices | None = None) -> Batch:
        """Inputs [C, *input_shape] and labels [C] on ``device``.

        Images are (x / 255 - mean) / std in float32, converted on the device, element by element:
        a point has the same bits in any batch; with ``epochs`` x are augmented views. Tokens are
        int64, floats float32 as stored. Raises DataError naming the index of an encoded image that
        is broken or of another shape, and that of an unknown token id.
        """
        if device in self._held:
            inputs, labels = self._held[device].read(indices)
        else:
            inputs, labels = (_to_device(each, device) for each in self._checked(indices))
        if self._augmentation is not None and epochs is not None:
            inputs = self._augmentation(inputs, indices, epochs)
        if self._manifest.inputs.kind == "image":
            mean, std = self._scale(device)
            inputs = inputs.to(torch.float32).div_(255).sub_(mean).div_(std)
        return Batch(indices, (inputs, labels))

    def keep(self, count: int) -> None:
        """See `SplitPoints.keep`."""
        self._decoder.keep(count)

    def hold(self, device: torch.device) -> None:
        """See `SplitPoints.hold`."""
        if device not in self._held:
            self._held[device] = Resident((self.start, self.stop), device, self._checked)

    def stored(self, indices: Indices) -> Array:
        """Inputs [C, *input_shape], images as uint8, decoded."""
        return self._inputs(self._located(indices))

    def labels(self, indices: Indices) -> Labels:
        """Labels [C] int64, as trained on."""
        result = np.empty(len(indices), np.int64)
        return gather(self._located(indices), lambda block: block.labels, result)

    def clean_labels(self, indices: Indices) -> Labels | None:
        """Labels [C] int64 before noise was put in; None if the data set does not hold them."""
        if not self._manifest.clean_label:
            return None
        return gather(self._located(indices), clean_of, np.empty(len(indices), np.int64))

    def relevant(self, indices: Indices) -> Mask | None:
        """By the manifest's ``relevant_classes``."""
        if self._manifest.relevant_classes is None:
            return None
        clean = self.clean_labels(indices)
        labels = self.labels(indices) if clean is None else clean
        return np.isin(labels, self._manifest.relevant_classes)

    def ambiguous(self, indices: Indices) -> Mask:
        """Copies of ambiguous points are ambiguous, too."""
        found = np.zeros(len(indices), bool)
        originals = self.originals(indices)
        for start, stop in self._manifest.ambiguous.values():
            found |= (start <= originals) & (originals < stop)
        return found

    def origins(self, indices: Indices) -> Origins:
        """By the table that the import left beside the shards; data sets of 0.1 have none."""
        return origins_of(self._shards.origins, indices)

    @property
    def words(self) -> Mapping[int, str]:
        """By the table that the import of texts left beside the shards."""
        return self._shards.words

    def originals(self, indices: Indices) -> Indices:
        """Only train has duplicates."""
        copies = self._manifest.duplicates
        if copies is None or self.start != self._manifest.splits["train"][0]:
            return indices
        return self.start + copies.originals(indices - self.start)

    def _checked(self, indices: Indices) -> tuple[Array, Labels]:
        """Inputs [C, *input_shape] as stored, decoded, and labels [C]. Raises DataError for an id
        that is not known."""
        located = self._located(indices)
        stored = self._inputs(located)
        if self._manifest.inputs.kind == "tokens":
            where, declared = self._shards.location, self._manifest.vocabulary
            check_ids(stored, indices, where, self._vocabulary, declared)
        labels = gather(located, lambda block: block.labels, np.empty(len(indices), np.int64))
        return stored, labels

    def _inputs(self, located: Located) -> Array:
        """Inputs [C, *input_shape] as stored, images decoded."""
        described = self._manifest.inputs
        if described.encoding is not None:
            return as_asked(located, self._decoder(located))
        result = np.empty((len(located.indices), *described.shape), described.dtype)
        return gather(located, raw_of, result)

    def _located(self, indices: Indices) -> Located:
        return self._shards.located(indices, (self.start, self.stop))

    def _scale(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and std [C, 1, 1] float32 on ``device``; kept, since a copy to a GPU waits."""
        if device not in self._scales:
            m = self._manifest
            mean, std = (
                torch.tensor(values, dtype=torch.float32, device=device).reshape(-1, 1, 1)
                for values in (m.mean, m.std)
            )
            self._scales[device] = mean, std
        return self._scales[device]


def _to_device(array: Array, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
