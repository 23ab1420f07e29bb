"""A Trainer with selection trains as Algorithm 1 in plain torch does, on a small BERT.

The library takes seconds to import, so each function does that itself.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rhoselect.client.batch import SelectionBatch
from rhoselect.errors import ConfigError, ModelError
from rhoselect.plan import Plan

STEPS, n_b, n_B, CHUNK, LR = 10, 8, 32, 16, 1e-3


def small_bert() -> Any:
    import transformers

    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        hidden_dropout_prob=0.0,
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


def test_trainer_is_algorithm_1(tmp_path: Path, fast_bf16: bool) -> None:
    """It scores in bf16 where the hardware has it, and trains in float32 everywhere."""
    import transformers

    from rhoselect.client.hugging_face import classification_losses

    data, model = sentences(), small_bert()
    twin, il = copy.deepcopy(model).train(), torch.rand(128)
    trained = trainer(tmp_path, model, data, irreducible_losses=il).train()
    assert trained.global_step == STEPS

    plan = Plan(42, 128, n_B, CHUNK)
    optimizer = torch.optim.AdamW(twin.parameters(), LR, weight_decay=0.0)

    def losses(indices: Tensor) -> Tensor:
        inputs = transformers.default_data_collator([data[int(i)] for i in indices])
        return classification_losses(twin, SelectionBatch(0, indices, inputs, None, il))

    for step in range(STEPS):
        candidates = torch.from_numpy(plan.indices(plan.window(step)))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=fast_bf16):
            fresh = torch.cat([losses(part) for part in candidates.split(CHUNK)])
        best = candidates[(fresh - il[candidates]).topk(n_b).indices]
        optimizer.zero_grad()
        losses(best).mean().backward()
        optimizer.step()
    for name, expected in twin.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], expected, msg=name)


def test_mistakes_fail_when_it_is_made(tmp_path: Path) -> None:
    import transformers

    data, model = sentences(), small_bert()
    il = torch.rand(128)
    for words, arguments in (
        ("max_steps", {"max_steps": -1}),
        ("gradient_accumulation_steps", {"gradient_accumulation_steps": 2}),
        ("selection.n_b: got 64", {"per_device_train_batch_size": 64}),
    ):
        with pytest.raises(ConfigError, match=words):
            trainer(tmp_path, model, data, irreducible_losses=il, arguments=arguments)
    tokens = transformers.BertForTokenClassification(model.config)
    with pytest.raises(ModelError, match="give losses"):
        trainer(tmp_path, tokens, data, irreducible_losses=il)
