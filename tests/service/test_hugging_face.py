"""A Trainer with selection trains as Algorithm 1 in plain torch does, on a small BERT.

The library takes seconds to import, so each function does that itself.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rhoselect.client import fit_irreducible_losses
from rhoselect.client.batch import SelectionBatch
from rhoselect.errors import ConfigError, DataError, ModelError
from rhoselect.plan import Plan
from rhoselect.trainer.fit import FitOptions

pytestmark = pytest.mark.usefixtures("away")

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
        if not smoothing:  # transformers adds the means of micro-batches that a BERT computes
            loss = loss * parts
        loss.backward()
        optimizer.step()
    for name, expected in twin.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], expected, msg=name)


def accumulated(parts: int) -> dict[str, int]:
    """Arguments of n_b points a step, in several micro-batches."""
    return {"per_device_train_batch_size": n_b // parts, "gradient_accumulation_steps": parts}


@pytest.mark.parametrize(
    ("saved", "lag"), [(4, 1), (3, 0), (6, 1)], ids=["between", "in_first", "in_second"]
)
def test_it_resumes_exactly_in_an_epoch_and_between(tmp_path: Path, lag: int, saved: int) -> None:
    """Of 4 steps an epoch, with dropout, accumulation and a rate that decays."""
    data, il = sentences(), torch.rand(128)

    def made(folder: str) -> tuple[Any, nn.Module]:
        model = small_bert(dropout=0.3)
        return trainer(
            tmp_path / folder,
            model,
            data,
            selection={"n_B": n_B, "chunk": CHUNK, "lag": lag},
            irreducible_losses=il,
            arguments={
                **accumulated(2),
                "max_steps": -1,
                "num_train_epochs": 2,
                "lr_scheduler_type": "linear",
                "save_strategy": "steps",
                "save_steps": saved,
                "logging_steps": 1,
            },
        ), model

    whole, expected = made("whole")
    whole.train()
    again, model = made("again")
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{saved}"))
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    told = [
        [
            (row["step"], row["epoch"], row["loss"], row["selection_score"])
            for row in rows
            if "loss" in row
        ]
        for rows in (whole.state.log_history, again.state.log_history)
    ]
    assert len(told[0]) == 8 and told[0] == told[1]
    ages = [row["selection_staleness"] for row in whole.state.log_history if "loss" in row]
    assert ages == [0, *[lag] * 7]


def test_the_recipe_of_language_models(tmp_path: Path) -> None:
    """With evaluation and the best model at the end; nothing names a loss. A sequence's loss is
    what the model itself computes of it."""
    import transformers

    from rhoselect.client.hugging_face import SelectionTrainer, causal_lm_losses

    tokenizer = words()
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=50, n_positions=8, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    model = transformers.GPT2LMHeadModel(config)
    data = [{"input_ids": row["input_ids"][: 3 + i % 4]} for i, row in enumerate(sentences())]
    collator = transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False)
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        num_train_epochs=2,
        per_device_train_batch_size=n_b // 2,
        gradient_accumulation_steps=2,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )
    made = SelectionTrainer(
        model,
        arguments,
        train_dataset=data,
        eval_dataset=data[:16],
        data_collator=collator,
        irreducible_losses=torch.rand(128),
    )
    made.train()
    assert made.state.global_step == 2 * (128 // (10 * n_b))
    evaluated = [row["eval_loss"] for row in made.state.log_history if "eval_loss" in row]
    assert made.evaluate()["eval_loss"] == pytest.approx(min(evaluated))
    one = collator([data[3]])
    batch = SelectionBatch(0, torch.tensor([3]), one, None, torch.ones(1))
    with torch.no_grad():
        torch.testing.assert_close(causal_lm_losses(model, batch)[0], model(**one).loss)


def test_the_usual_recipe(tmp_path: Path) -> None:
    """A data set of texts mapped by a tokenizer, whose texts stay in it; the collator that pads;
    epochs, evaluation at each end of one. An epoch is a pass over the candidates."""
    import datasets
    import transformers

    from rhoselect.client.hugging_face import SelectionTrainer

    tokenizer = words()
    texts = [" ".join(map(str, row["input_ids"][: 2 + i % 5])) for i, row in enumerate(sentences())]
    rows = {"text": texts, "label": [row["labels"] for row in sentences()]}
    data = datasets.Dataset.from_dict(rows).map(lambda row: tokenizer(row["text"]))
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        num_train_epochs=2,
        per_device_train_batch_size=n_b,
        eval_strategy="epoch",
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        logging_steps=3,
    )
    made = SelectionTrainer(
        small_bert(),
        arguments,
        train_dataset=data,
        eval_dataset=data.select(range(32)),
        compute_metrics=lambda predicted: {"accuracy": 0.5},
        data_collator=transformers.DataCollatorWithPadding(tokenizer),
        selection={"n_B": n_B, "chunk": CHUNK},
        irreducible_losses=torch.rand(128),
    )
    made.train()
    [folder] = (tmp_path / "runs").iterdir()
    lines = [json.loads(line) for line in (folder / "eval.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8]
    assert lines[1]["accuracy"] == 0.5
    steps = 2 * (128 // n_B)
    history = made.state.log_history
    assert made.state.global_step == steps
    assert [row["epoch"] for row in history if "loss" in row] == [3 / 4, 6 / 4]
    assert [row["epoch"] for row in history if "eval_loss" in row] == [1.0, 2.0]


def words() -> Any:
    """A tokenizer of the words "0" to "49"."""
    import tokenizers
    import transformers

    vocabulary = {"[PAD]": 0} | {str(word): word for word in range(1, 50)}
    model = tokenizers.models.WordLevel(vocabulary, unk_token="[PAD]")
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]")


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


@pytest.mark.parametrize("parts", [1, 2], ids=["whole", "accumulated"])
def test_a_batch_that_was_sampled_has_its_weights(tmp_path: Path, parts: int) -> None:
    import transformers

    from rhoselect.client.hugging_face import classification_losses

    data, model = sentences(), small_bert()
    twin = copy.deepcopy(model).train()
    selection = {"n_B": n_B, "chunk": CHUNK, "function": "user_code:Sampled"}
    arguments = {"max_steps": 1, "optim": "sgd", **accumulated(parts)}
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
    (losses(best) * torch.tensor([3.0, 1.0] * (n_b // 2))).mean().backward()
    optimizer.step()
    for name, expected in twin.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], expected, msg=name)


def test_mistakes_fail_when_it_is_made(tmp_path: Path) -> None:
    import transformers

    data, model = sentences(), small_bert()
    il = torch.rand(128)
    for words, arguments in (
        ("auto_find_batch_size", {"auto_find_batch_size": True}),
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
    own = trainer(tmp_path, model, data, irreducible_losses=il)
    with pytest.raises(ConfigError, match=r"which has no selection\.pt, allowed a checkpoint of a"):
        own.train(resume_from_checkpoint=str(tmp_path))
    with pytest.raises(DataError, match="train_dataset: got none"):
        trainer(tmp_path, model, None, irreducible_losses=il)


@pytest.mark.filterwarnings("ignore:irreducible losses. the model overfits")  # of 64 sentences
def test_irreducible_losses_of_its_own_data_tell_wrong_labels() -> None:
    """Those of cross-fitted copies of a classifier, on what the collator gives."""
    import transformers

    from rhoselect.client.hugging_face import classification_losses

    il = fit_irreducible_losses(
        small_bert(),
        sentences(),
        folds=2,
        options=FitOptions(batch=8, epochs=8),
        losses=classification_losses,
        collate_fn=transformers.default_data_collator,
        config={"trainer": {"lr": 1e-2}},
    )
    wrong = torch.arange(128) % 10 == 0
    assert il[wrong].median() > 2 * il[~wrong].median()
