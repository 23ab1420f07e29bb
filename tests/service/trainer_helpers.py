"""Small models, points and Trainers of transformers, for tests and for a service.

The library takes seconds to import, so each function does that itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

STEPS, n_b, n_B, CHUNK, LR = 10, 8, 32, 16, 1e-3


def small_bert(dropout: float = 0.0) -> Any:
    import transformers

    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=0.0,
        num_labels=3,
    )
    return transformers.BertForSequenceClassification(config)


def sentences() -> list[dict[str, Any]]:
    """The class is the first token's; one in ten labels is wrong."""
    random = torch.Generator().manual_seed(1)
    tokens = torch.randint(1, 50, (128, 6), generator=random)
    labels = tokens[:, 0] % 3
    labels[::10] = (labels[::10] + 1) % 3
    return [
        {"input_ids": row.tolist(), "attention_mask": [1] * 6, "labels": int(label)}
        for row, label in zip(tokens, labels, strict=True)
    ]


def trainer(folder: Path, model: nn.Module, data: list[dict[str, Any]], **more: Any) -> Any:
    import transformers

    from rhoselect.client.hugging_face import SelectionTrainer

    arguments = {
        "output_dir": str(folder),
        "max_steps": STEPS,
        "per_device_train_batch_size": n_b,
        "learning_rate": LR,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        **more.pop("arguments", {}),
    }
    return SelectionTrainer(
        model,
        transformers.TrainingArguments(**arguments),
        train_dataset=data,
        **{"selection": {"n_B": n_B, "chunk": CHUNK}, **more},
    )


def accumulated(parts: int) -> dict[str, int]:
    """Arguments of n_b points a step, in several micro-batches."""
    return {"per_device_train_batch_size": n_b // parts, "gradient_accumulation_steps": parts}


def words() -> Any:
    """A tokenizer of the words "0" to "49"."""
    import tokenizers
    import transformers

    vocabulary = {"[PAD]": 0} | {str(word): word for word in range(1, 50)}
    model = tokenizers.models.WordLevel(vocabulary, unk_token="[PAD]")
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]")


class Served(Dataset[Any]):
    """The sentences as a service has them; other splits have some of them."""

    def __init__(self, split: str) -> None:
        rows = sentences()[: 128 if split == "train" else 16]
        self._rows = [{n: torch.tensor(v) for n, v in row.items()} for row in rows]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> Any:
        return self._rows[place]


CONFIG = f"""
seed = 42
model.factory = "trainer_helpers:small_bert"
data = {{ dataset = "trainer_helpers:Served" }}
selection = {{ function = "loss", n_b = {n_b}, n_B = {n_B}, chunk = {CHUNK} }}
trainer.steps = {STEPS}
metrics.port = -1
"""
