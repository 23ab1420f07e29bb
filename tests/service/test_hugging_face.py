"""A Trainer with selection trains as Algorithm 1 in plain torch does, on a small BERT.

The library takes seconds to import, so each function does that itself.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from trainer_helpers import (
    CHUNK,
    LR,
    STEPS,
    accumulated,
    n_B,
    n_b,
    sentences,
    small_bert,
    trainer,
)

from rhoselect.client.batch import SelectionBatch
from rhoselect.errors import ConfigError, DataError, ModelError
from rhoselect.plan import Plan

pytestmark = pytest.mark.usefixtures("away")


@pytest.mark.parametrize("parts", [1, 2], ids=["whole", "accumulated"])
def test_trainer_is_algorithm_1(tmp_path: Path, fast_bf16: bool, parts: int) -> None:
    """It scores in bf16 where the hardware has it, and trains in float32. Label smoothing is of the
    training alone."""
    import transformers

    from rhoselect.client.hugging_face import classification_losses

    data, model = sentences(), small_bert()
    twin, il = copy.deepcopy(model).train(), torch.rand(128)
    smoothing = 0.2 if fast_bf16 else 0.0
    arguments = {"label_smoothing_factor": smoothing, **accumulated(parts)}
    workers = 2 if parts > 1 else 0
    more = {"irreducible_losses": il, "workers": workers, "arguments": arguments}
    assert trainer(tmp_path, model, data, **more).train().global_step == STEPS

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
        inputs = transformers.default_data_collator([data[int(i)] for i in best])
        labels = inputs.pop("labels")
        loss = F.cross_entropy(twin(**inputs).logits, labels, label_smoothing=smoothing)
        loss.backward()
        optimizer.step()
    for name, expected in twin.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], expected, msg=name)


def test_each_train_is_a_run(tmp_path: Path) -> None:
    """The second goes on from the weights of the first, and is what a new Trainer would do; with
    model_init both begin anew."""
    data, il, model = sentences(), torch.rand(128), small_bert()
    made = trainer(tmp_path, model, data, irreducible_losses=il)
    made.train()
    twin = copy.deepcopy(model)
    made.optimizer = None
    assert made.train().global_step == STEPS
    trainer(tmp_path, twin, data, irreducible_losses=il).train()
    for name, expected in twin.state_dict().items():
        assert torch.equal(model.state_dict()[name], expected), name

    mixed = trainer(tmp_path, model, data, irreducible_losses=il, arguments={"bf16": True})
    assert [mixed.train().global_step for _ in range(2)] == [STEPS, STEPS]

    fresh = trainer(tmp_path, None, data, irreducible_losses=il, model_init=lambda: small_bert())
    losses = [fresh.train().training_loss for _ in range(2)]
    assert losses[0] == losses[1]


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_compiled_model_learns_what_the_bare_one_does(tmp_path: Path) -> None:
    """Compiled by the Trainer, or before, where transformers finds no names of columns."""
    bare, by_trainer, before = (small_bert() for _ in range(3))
    compiled: Any = torch.compile(before, backend="eager")
    for model, arguments in (
        (bare, {}),
        (by_trainer, {"torch_compile": True, "torch_compile_backend": "eager"}),
        (compiled, {"remove_unused_columns": False}),
    ):
        arguments = {"max_steps": 3, **arguments}
        trainer(
            tmp_path,
            model,
            sentences(),
            irreducible_losses=torch.arange(128) / 128,
            arguments=arguments,
        ).train()
    for name, expected in bare.state_dict().items():
        assert torch.equal(by_trainer.state_dict()[name], expected), name
        assert torch.equal(before.state_dict()[name], expected), name


@pytest.mark.parametrize(
    ("parts", "smoothing"),
    [(1, 0.0), (2, 0.0), (2, 0.2)],
    ids=["whole", "accumulated", "smoothed"],
)
def test_a_batch_that_was_sampled_has_its_weights(
    tmp_path: Path, parts: int, smoothing: float
) -> None:
    """They multiply the losses that it trains by, which may be smoothed; those that choose never
    are."""
    import transformers

    from rhoselect.client.hugging_face import classification_losses

    data, model = sentences(), small_bert()
    twin = copy.deepcopy(model).train()
    selection = {"n_B": n_B, "chunk": CHUNK, "function": "user_code:Sampled"}
    arguments = {"max_steps": 1, "optim": "sgd", "label_smoothing_factor": smoothing}
    arguments |= accumulated(parts)
    trainer(tmp_path, model, data, selection=selection, arguments=arguments).train()

    def losses(indices: Tensor) -> Tensor:
        inputs = transformers.default_data_collator([data[int(i)] for i in indices])
        batch = SelectionBatch(0, indices, inputs, None, torch.ones(len(indices)))
        return classification_losses(twin, batch)

    plan = Plan(42, 128, n_B, CHUNK)
    candidates = torch.from_numpy(plan.indices(plan.window(0)))
    with torch.no_grad():
        best = candidates[losses(candidates).topk(n_b).indices]
    optimizer = torch.optim.SGD(twin.parameters(), LR)
    inputs = transformers.default_data_collator([data[int(i)] for i in best])
    labels = inputs.pop("labels")
    found = F.cross_entropy(
        twin(**inputs).logits, labels, reduction="none", label_smoothing=smoothing
    )
    (found * torch.tensor([3.0, 1.0] * (n_b // 2))).mean().backward()
    optimizer.step()
    for name, expected in twin.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], expected, msg=name)


def test_mistakes_fail_when_it_is_made(tmp_path: Path) -> None:
    import datasets
    import transformers

    from rhoselect.client.hugging_face import classification_losses

    data, model = sentences(), small_bert()
    il = torch.rand(128)
    for words, arguments in (
        ("auto_find_batch_size", {"auto_find_batch_size": True}),
        ("enable_jit_checkpoint", {"enable_jit_checkpoint": True}),
        ("train_sampling_strategy", {"train_sampling_strategy": "group_by_length"}),
        ("selection.n_b: got 64", {"per_device_train_batch_size": 64}),
    ):
        with pytest.raises(ConfigError, match=words):
            trainer(tmp_path, model, data, irreducible_losses=il, arguments=arguments)
    tokens = transformers.BertForTokenClassification(model.config)
    with pytest.raises(ModelError, match="name the loss of each point"):
        trainer(tmp_path, tokens, data, irreducible_losses=il)
    hot = [{**row, "labels": [1.0, 0.0, 1.0]} for row in data]
    with pytest.raises(ModelError, match=r"labels \[2, 3\] of torch.float32, allowed"):
        trainer(tmp_path, model, hot, irreducible_losses=il)
    own_loss = {"compute_loss_func": lambda outputs, labels, **_: outputs.logits.mean()}
    with pytest.raises(ConfigError, match="losses: got none with compute_loss_func"):
        trainer(tmp_path, model, data, irreducible_losses=il, **own_loss)
    n_b_too = {"n_B": n_B, "chunk": CHUNK, "n_b": 4}
    with pytest.raises(ConfigError, match=r"selection\.n_b: got 4, allowed .*batch_size = 8"):
        trainer(tmp_path, model, data, irreducible_losses=il, selection=n_b_too)
    smoothed = {"max_steps": 1, "label_smoothing_factor": 0.1}
    sampled = {"n_B": n_B, "chunk": CHUNK, "function": "user_code:Sampled"}
    own_too = {"losses": classification_losses, "selection": sampled, "arguments": smoothed}
    with pytest.raises(
        ConfigError, match=r"label_smoothing_factor: got 0\.1, allowed 0 with losses"
    ):
        trainer(tmp_path, model, data, **own_too).train()
    own = trainer(tmp_path, model, data, irreducible_losses=il)
    with pytest.raises(ConfigError, match=r"which has no selection\.pt, allowed a checkpoint of a"):
        own.train(resume_from_checkpoint=str(tmp_path))
    streamed = datasets.Dataset.from_list(data).to_iterable_dataset()
    for given, got in ((None, "none"), (streamed, "a IterableDataset")):
        with pytest.raises(DataError, match=f"train_dataset: got {got}, allowed a map-style"):
            trainer(tmp_path, model, given, irreducible_losses=il)
