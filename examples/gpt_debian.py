"""A small GPT learns prose, byte by byte, from prose and generated text (gpt-debian.toml).

    make data-gpt-debian
    rhoctl train examples/gpt-debian.toml --workers 2

Wanted are Debian's long package descriptions. Half of the train split are records of the package
lists instead: dependencies, hashes, file names. The holdout, for the irreducible losses, and the
test split are prose alone, of other packages. The figure is ``bits_per_byte`` on the test split.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from examples.debian_lists import Lists, share, write_origin
from torch import Tensor, nn
from torch.utils.data import Dataset

from rhoselect.tasks import Batch, CausalLM

FOLDER = Path("data/gpt-debian")
LENGTH = 128
SEQUENCES = {"train": 16_000, "holdout": 8_000, "test": 500}
GENERATED = ("Depends", "Recommends", "Filename", "SHA256", "Tag", "Version", "Installed-Size")


class Bytes(CausalLM):
    """The causal language model of bytes; what it measures is in bits per byte."""

    metric = "bits_per_byte"

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        """See `CausalLM.evaluate`."""
        found = super().evaluate(model, batches)
        return {"bits_per_byte": found["loss"] / math.log(2), "loss": found["loss"]}


class Texts(Dataset[Tensor]):
    """Sequences of 128 bytes."""

    def __init__(self, split: str) -> None:
        self._sequences = np.load(FOLDER / f"{split}.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self._sequences)

    def __getitem__(self, place: int) -> Tensor:
        return torch.from_numpy(self._sequences[place].astype(np.int64))


class Block(nn.Module):
    """Causal self-attention and a two-layer perceptron."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.projected = nn.Linear(width, 3 * width)
        self.mixed = nn.Linear(width, width)
        self.thought = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        parts = self.projected(self.norms[0](x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = parts.permute(2, 0, 3, 1, 4)  # each [C, heads, T, D / heads]
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.mixed(seen.transpose(1, 2).flatten(2))
        found: Tensor = x + self.thought(self.norms[1](x))
        return found


class GPT(nn.Module):
    """Bytes [C, T] int64 to logits [C, T, 256]."""

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.bytes = nn.Embedding(256, width)
        self.positions = nn.Parameter(0.02 * torch.randn(LENGTH, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 256)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Sequences have one length, so nothing is masked."""
        x = self.bytes(input_ids) + self.positions[: input_ids.shape[1]]
        logits: Tensor = self.head(self.norm(self.blocks(x)))
        return logits


def gpt(width: int = 128, heads: int = 4, layers: int = 5) -> nn.Module:
    """1.1 million parameters at the default width."""
    return GPT(width, heads, layers)


def main() -> None:
    lists = Lists(Path("data/debian-lists"))
    lists.update()
    prose: dict[str, bytearray] = {name: bytearray() for name in SEQUENCES}
    for record in lists.records("Translation-en"):
        part = share(record["Package"], 8)
        split = "test" if part == 0 else "holdout" if part < 4 else "train"
        prose[split] += described(record["Description-en"]).encode()
    records = bytearray()
    for record in lists.records("Packages"):
        if share(record["Package"], 8) >= 4:
            lines = (f"{name}: {record[name]}\n" for name in GENERATED if name in record)
            records += "".join(lines).encode()
    FOLDER.mkdir(parents=True, exist_ok=True)
    for split, count in SEQUENCES.items():
        kept = sequences(prose[split], count // 2 if split == "train" else count)
        if split == "train":
            kept = np.concatenate([kept, sequences(records, count // 2)])
        np.save(FOLDER / f"{split}.npy", kept)
    write_origin(FOLDER / "origin.json", lists=lists.origin(), sequences=SEQUENCES)


def described(text: str) -> str:
    """A description's paragraphs without the marks of their format."""
    return "".join("\n" if line == "." else f"{line}\n" for line in text.split("\n")) + "\n"


def sequences(text: bytearray, count: int) -> npt.NDArray[np.uint8]:
    """``count`` sequences of a text, evenly spread over it."""
    whole = np.frombuffer(bytes(text[: len(text) // LENGTH * LENGTH]), np.uint8)
    rows = whole.reshape(-1, LENGTH)
    return rows[np.linspace(0, len(rows) - 1, count).astype(np.int64)]


if __name__ == "__main__":
    main()
