"""The causal LM: its losses in pieces, against whole ones; packed documents, which see themselves
alone, by a model of transformers through a run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hub import saved
from oracle import any_task
from rhoselect.config import load
from rhoselect.inputs import open_inputs
from rhoselect.tasks import pieces
from rhoselect.tasks.causal_lm import CausalLM
from rhoselect.types import Batch
from support import made, rhoctl

VOCABULARY, PIECE = 997, 4096
n_b, n_B, CHUNK, STEPS, LENGTH = 4, 16, 8, 4, 12
WORDS = 24


def gpt2(attention: str = "sdpa", vocabulary: int = WORDS, width: int = 16) -> nn.Module:
    import transformers  # here, because it takes seconds

    sizes = {"n_positions": 32, "n_embd": width, "n_layer": 1, "n_head": 2}
    without = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)
    config = transformers.GPT2Config(
        vocab_size=vocabulary, bos_token_id=0, eos_token_id=0, **sizes, **without
    )
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention)


class LogitsAlone(nn.Module):
    """A model of which a task knows no body and head; its own dtype is that of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(VOCABULARY, 4), nn.Linear(4, VOCABULARY)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.out(self.embedding(input_ids).cumsum(1))  # type: ignore[no-any-return]


class Largest(TorchDispatchMode):
    """``numbers``: most numbers of a float32 tensor that an operation made."""

    numbers = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        found = function(*args, **(kwargs or {}))
        made = [t for t in tree_leaves(found) if isinstance(t, Tensor) and t.dtype == torch.float32]
        self.numbers = max([self.numbers, *(tensor.numel() for tensor in made)])
        return found


def batch_of(sequences: list[list[int]]) -> Batch:
    return Batch(np.arange(len(sequences)), CausalLM().collate(sequences))


def plain(model: nn.Module, sequences: list[list[int]]) -> Tensor:
    """The mean loss of each sequence, computed alone."""
    found = []
    for ids in sequences:
        row = torch.tensor([ids])
        output = model(input_ids=row, attention_mask=torch.ones_like(row))
        logits = getattr(output, "logits", output)[0, :-1].float()
        found.append(F.cross_entropy(logits, row[0, 1:]))
    return torch.stack(found)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "a body and a head": lambda: gpt2(vocabulary=VOCABULARY, width=4),
    "logits alone": LogitsAlone,
    "logits alone in bf16": lambda: LogitsAlone().bfloat16(),
}


@pytest.mark.parametrize("name", MODELS)
def test_losses_and_gradients_in_pieces_are_those_of_whole_logits(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no float32 [C, T, V] is made, nor kept for the gradient; of a float32 model that gives
    logits alone, its own logits are."""
    monkeypatch.setattr(pieces, "PIECE", PIECE)
    model, random = MODELS[name](), np.random.default_rng(0)
    sequences = [random.integers(1, VOCABULARY, 16 - row % 3).tolist() for row in range(8)]
    whole = 8 * 16 * VOCABULARY
    expected = plain(model, sequences)
    gradients = torch.autograd.grad(expected.sum(), list(model.parameters()))
    kept = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel() if tensor.dtype == torch.float32 else 0
        return tensor

    batch = batch_of(sequences)
    with torch.no_grad():
        scored = CausalLM().losses(model, batch).losses
    with Largest() as largest, torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
        losses = CausalLM().losses(model, batch).losses
        found = torch.autograd.grad(losses.sum(), list(model.parameters()))
    assert losses.dtype == torch.float32 and torch.equal(scored, losses)
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-5)
    for one, other in zip(found, gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0.05, atol=1e-4)
    own = 15 * 8 * VOCABULARY if name == "logits alone" else 0  # its logits, a row at a time
    assert largest.numbers <= max(PIECE, own * 16 // (15 * 8))
    assert kept - own < whole / 2, "float32 numbers that stay until the gradient"


def documents(split: str) -> list[list[int]]:
    """Texts of 1 to 7 tokens that count upwards, from a random one."""
    random = np.random.default_rng(len(split))
    lengths, firsts = random.integers(1, 8, 120), random.integers(1, WORDS, 120)
    return [
        [(first + place) % WORDS for place in range(length)]
        for length, first in zip(lengths.tolist(), firsts.tolist(), strict=True)
    ]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    data = saved(
        folder / "ids", {name: {"input_ids": documents(name)} for name in ("train", "test")}
    )
    (folder / "run.toml").write_text(
        f"""
[data]
dataset = "rhoselect.data.packing:packed"
args = {{ path = "{data}", length = {LENGTH} }}

[task]
name = "causal_lm"

[model]
factory = "test_causal_lm:gpt2"
args = {{ vocabulary = {WORDS} }}

[selection]
function = "loss"
n_b = {n_b}
n_B = {n_B}
chunk = {CHUNK}

[scorer]
precision = "fp32"
device = "cpu"

[trainer]
steps = {STEPS}
lr = 3e-3
device = "cpu"

[metrics]
port = -1
"""
    )
    return folder / "run.toml"


def blocks(split: str) -> list[list[list[int]]]:
    """Blocks of tokens, as lists of the parts of documents in them."""
    found, room = [list[list[int]]()], LENGTH
    for ids in documents(split):
        while ids:
            part, ids = ids[:room], ids[room:]
            found[-1].append(part)
            room -= len(part)
            if not room:
                found.append([])
                room = LENGTH
    return found[:-1]


def token_losses(model: nn.Module, block: list[list[int]]) -> Tensor:
    """The losses of the predicted tokens of a block, each document computed alone."""
    parts = [part for part in block if len(part) > 1]
    return torch.cat([plain(model, [part]) * (len(part) - 1) for part in parts]) / sum(
        len(part) - 1 for part in parts
    )


def test_a_packed_document_sees_itself_alone_through_a_run_of_gpt2(
    config: Path, tmp_path: Path
) -> None:
    """Algorithm 1 with each document computed alone selects the same points, and measures the same
    perplexity of the final weights."""
    made("train", config, "--run-dir", tmp_path / "run")
    inputs, packed = open_inputs(load(config)), blocks("train")
    assert len(packed) == len(inputs.train)
    torch.set_num_threads(inputs.config.trainer.threads)
    model, plan = inputs.new_model().train(), inputs.plan
    windows = [torch.from_numpy(plan.indices(plan.window(t))) for t in range(STEPS)]

    def losses(network: nn.Module, indices: Tensor) -> Tensor:
        return torch.stack([token_losses(network, packed[i]).sum() for i in indices.tolist()])

    how = {"n_b": n_b, "chunk": CHUNK, "lr": 3e-3}
    selected = any_task(model, windows, losses, torch.zeros(len(packed)), **how)
    rows = pq.read_table(tmp_path / "run" / "steps.parquet")["indices"].to_pylist()
    assert rows == [row.tolist() for row in selected]
    model.load_state_dict(load_file(tmp_path / "run" / "model.safetensors"), strict=False)
    total, count = 0.0, 0
    with torch.no_grad():
        for block in blocks("test"):
            predicted = sum(len(part) - 1 for part in block)
            total += predicted * float(token_losses(model.eval(), block).sum())
            count += predicted
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["final_perplexity"] == pytest.approx(math.exp(total / count), rel=1e-4)


def test_a_model_that_lets_documents_see_each_other_is_refused(
    config: Path, tmp_path: Path
) -> None:
    """The eager attention of transformers adds the mask of bool to its scores as 0 and 1."""
    words = ("--set", "model.args.attention=eager")
    result = rhoctl("train", config, "--run-dir", tmp_path / "run", *words)
    assert result.code == 2 and result.err.count("\n") == 1, result.err
    assert "gpt2: its model lets tokens see other documents of a packed sequence" in result.err
    assert not (tmp_path / "run").exists()
