"""The masked LM: what it hides, its losses against plain ones, and a run."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from rhoselect.errors import ConfigError
from rhoselect.tasks.masked_lm import MaskedLM
from rhoselect.types import Batch
from support import hashes, made
from task_code import WORDS, Recurrent


def test_what_is_hidden_depends_on_the_sequence_alone() -> None:
    task = MaskedLM(mask=99, share=0.25, special=[7])
    sequences = [[7, *range(10, 10 + length), 7] for length in (3, 12, 40)]
    together = task.collate(sequences)
    for row, ids in enumerate(sequences):
        alone = task.collate([{"input_ids": ids}])
        for name, tensor in alone.items():
            assert torch.equal(together[name][row, : len(ids)], tensor[0]), name
        labels, seen = alone["labels"][0], alone["input_ids"][0]
        hidden = labels >= 0
        assert int(hidden.sum()) == round(0.25 * (len(ids) - 2))
        assert (seen[hidden] == 99).all() and 7 not in labels.tolist()
        assert torch.where(hidden, labels, seen).tolist() == ids
    assert task.collate([[7, 7]])["labels"].tolist() == [[-100, -100]]
    with pytest.raises(ConfigError, match=r"task.args.share: got 0, allowed above 0"):
        MaskedLM(mask=1, share=0)


def test_losses_are_those_of_the_hidden_tokens() -> None:
    task, model = MaskedLM(mask=WORDS - 1, share=0.5), Recurrent()
    sequences = [[1, 2, 3, 4, 5, 6], [7, 8, 9], [0, 0]]
    content = task.collate(sequences)
    found = task.losses(model, Batch(np.arange(3), content))
    expected = []
    for ids, labels in zip(content["input_ids"], content["labels"], strict=True):
        log_p = model(ids[None], ids[None])[0].log_softmax(1).detach()
        places = (labels >= 0).nonzero().flatten().tolist()
        expected.append(-math.fsum(float(log_p[p, labels[p]]) for p in places) / (len(places) or 1))
    torch.testing.assert_close(found.losses, torch.tensor(expected))
    assert found.tokens is not None and found.mask is not None
    assert found.mask.sum(1).tolist() == [3, 2, 0]


def test_a_run_with_irreducible_losses_of_tokens(tmp_path: Path) -> None:
    """The fit and the run hide the same tokens, or the run would refuse the table."""
    data = "data={dataset = 'task_code:Points', args = {kind = 'sequence'}}"
    task = "task={name = 'masked_lm', args = {mask = 11, share = 0.4}}"
    fit = ("il", "fit", "--data", "task_code:Points", "--model", "task_code:Recurrent", "--tokens")
    how = ("--folds", "2", "--epochs", "1", "--batch", "8", "--out", tmp_path / "il.parquet")
    made(*fit, *how, "--set", "data.args.kind=sequence", "--set", task)
    sets = (
        *(data, task, "model.factory=task_code:Recurrent", f"il.table={tmp_path / 'il.parquet'}"),
        *("selection.tokens=0.5", "selection.n_b=4", "selection.n_B=16", "selection.chunk=8"),
        *("trainer.steps=4", "metrics.port=-1", "scorer.precision=fp32"),
    )
    words = [word for each in sets for word in ("--set", each)]
    for name in "ab":
        made("train", "--run-dir", tmp_path / name, *words)
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert 1 < summary["final_perplexity"] < 2 * WORDS
