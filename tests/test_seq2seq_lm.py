"""The sequence-to-sequence LM: its losses are those that T5 and BART compute themselves, and a run
is Algorithm 1."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from oracle import any_task
from rhoselect.config import load
from rhoselect.errors import DataError
from rhoselect.inputs import open_inputs
from rhoselect.tasks import pieces
from rhoselect.tasks.seq2seq_lm import Seq2SeqLM
from rhoselect.types import Batch
from support import made

IDS, STEPS, n_b, n_B, CHUNK, LR = 20, 4, 4, 16, 8, 3e-3


class Reversed(Dataset[Any]):
    """Ids, and the same ids backwards, of which the first is not counted."""

    def __init__(self, split: str) -> None:
        self._seed = len(split)

    def __len__(self) -> int:
        return 48

    def __getitem__(self, place: int) -> dict[str, list[int]]:
        random = np.random.default_rng((self._seed, place))
        ids = random.integers(2, IDS, 2 + place % 4).tolist()
        return {"input_ids": [*ids, 1], "labels": [-100, *ids[:-1][::-1], 1]}


def t5() -> nn.Module:
    import transformers  # here, because it takes seconds

    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    config = transformers.T5Config(vocab_size=IDS, dropout_rate=0.0, **sizes)
    config.decoder_start_token_id = 0
    return transformers.T5ForConditionalGeneration(config)


def bart() -> nn.Module:
    import transformers

    names = ("layers", "attention_heads", "ffn_dim")
    sizes = {f"{of}_{name}": 2 for of in ("encoder", "decoder") for name in names}
    ids = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    config = transformers.BartConfig(vocab_size=IDS, d_model=16, dropout=0.0, **sizes, **ids)
    return transformers.BartForConditionalGeneration(config)


def plain(model: Any, items: list[dict[str, list[int]]]) -> Tensor:
    """What a model of transformers computes of each item alone."""
    given = [{name: torch.tensor([ids]) for name, ids in item.items()} for item in items]
    return torch.stack([model(**each).loss for each in given])


@pytest.mark.parametrize("make", [t5, bart], ids=["logits alone", "a body and a head"])
def test_losses_and_gradients_are_those_of_the_model(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In pieces, of items of different lengths."""
    monkeypatch.setattr(pieces, "PIECE", 3 * IDS)
    torch.manual_seed(0)
    model, task = make().train(), Seq2SeqLM()
    items = [Reversed("train")[place] for place in range(6)]
    batch = Batch(np.arange(6), task.collate(items))
    assert (pieces.body_and_head(model) is None) == (make is t5)
    task.check(model, batch, 0)
    found, expected = task.losses(model, batch), plain(model, items)
    torch.testing.assert_close(found.losses, expected)
    assert found.mask is not None
    assert found.mask.sum(1).tolist() == [len(item["labels"]) - 1 for item in items]
    parameters = list(model.parameters())
    ours = torch.autograd.grad(found.losses.sum(), parameters, allow_unused=True)
    theirs = torch.autograd.grad(expected.sum(), parameters, allow_unused=True)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_a_run_is_algorithm_1(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(
        f"""
data.dataset = "test_seq2seq_lm:Reversed"
task.name = "seq2seq_lm"
model.factory = "test_seq2seq_lm:t5"
selection = {{ function = "loss", n_b = {n_b}, n_B = {n_B}, chunk = {CHUNK} }}
scorer = {{ precision = "fp32", device = "cpu" }}
trainer = {{ steps = {STEPS}, lr = {LR}, device = "cpu" }}
metrics.port = -1
"""
    )
    made("train", tmp_path / "run.toml", "--run-dir", tmp_path / "run")
    inputs, points = open_inputs(load(tmp_path / "run.toml")), Reversed("train")
    torch.set_num_threads(inputs.config.trainer.threads)
    plan, model = inputs.plan, inputs.new_model().train()
    windows = [torch.from_numpy(plan.indices(plan.window(t))) for t in range(STEPS)]

    def losses(network: nn.Module, indices: Tensor) -> Tensor:
        return plain(network, [points[i] for i in indices.tolist()])

    how = {"n_b": n_b, "chunk": CHUNK, "lr": LR}
    selected = any_task(model, windows, losses, torch.zeros(len(points)), **how)
    rows = pq.read_table(tmp_path / "run" / "steps.parquet")["indices"].to_pylist()
    assert rows == [row.tolist() for row in selected]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert 1 < summary["final_perplexity"] < math.exp(6)


def test_items_without_labels_are_told() -> None:
    task = Seq2SeqLM()
    with pytest.raises(DataError, match=r"got an item that is no dict, allowed dicts with token"):
        task.collate([[1, 2]])
    with pytest.raises(DataError, match=r'got KeyError: .labels., allowed token ids .* "labels"'):
        task.collate([{"input_ids": [1, 2]}])
