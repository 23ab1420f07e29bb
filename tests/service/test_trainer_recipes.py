"""The recipes of transformers' documentation for text classification and for causal language
models, as they stand there, but for the class's name and the size of model and data."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from trainer_helpers import sentences, small_bert, words

from rhoselect.client.batch import SelectionBatch
from rhoselect.trainer.records import read_evaluations, read_steps

pytestmark = pytest.mark.usefixtures("away")

EPOCHS, EPOCH = 3, 128 // 40  # of the steps of 128 points, 40 candidates a step
SAVED = 4  # within the second epoch


def classification(trainer_class: Callable[..., Any], arguments: Any) -> Any:
    import datasets
    import numpy as np
    import transformers

    tokenizer = words()
    texts = [" ".join(map(str, row["input_ids"][: 2 + i % 5])) for i, row in enumerate(sentences())]
    rows = {"text": texts, "label": [row["labels"] for row in sentences()]}

    def preprocess_function(examples: Any) -> Any:
        return tokenizer(examples["text"], truncation=True)

    def compute_metrics(eval_pred: Any) -> dict[str, float]:
        predictions, labels = eval_pred
        return {"accuracy": float((np.argmax(predictions, axis=1) == labels).mean())}

    tokenized = datasets.Dataset.from_dict(rows).map(preprocess_function, batched=True)
    return trainer_class(
        model=small_bert(dropout=0.3),
        args=arguments,
        train_dataset=tokenized,
        eval_dataset=tokenized.select(range(32)),
        processing_class=tokenizer,
        data_collator=transformers.DataCollatorWithPadding(tokenizer=tokenizer),
        compute_metrics=compute_metrics,
    )


def language_model(trainer_class: Callable[..., Any], arguments: Any) -> Any:
    import datasets
    import transformers

    tokenizer = words()
    tokenizer.pad_token = "[PAD]"
    rows = [{"input_ids": row["input_ids"][: 3 + i % 4]} for i, row in enumerate(sentences())]
    blocks = datasets.Dataset.from_list(rows)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = transformers.GPT2Config(
        vocab_size=50, n_positions=8, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return trainer_class(
        model=transformers.GPT2LMHeadModel(config),
        args=arguments,
        train_dataset=blocks,
        eval_dataset=blocks.select(range(16)),
        data_collator=transformers.DataCollatorForLanguageModeling(tokenizer=tokenizer, mlm=False),
    )


@pytest.mark.filterwarnings("ignore:irreducible_losses. got none")
@pytest.mark.parametrize(
    "recipe", [classification, pytest.param(language_model, marks=pytest.mark.matrix)]
)
def test_a_recipe(tmp_path: Path, recipe: Callable[..., Any]) -> None:
    """With accumulation, evaluation and the best model at the end. Two threads choose the same
    points, and so does a start from a checkpoint within an epoch: to the same weights."""
    import transformers

    from rhoselect.client.hugging_face import SelectionTrainer

    def trained(name: str, trainer_class: Any, checkpoint: Path | None = None) -> Any:
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path / name),
            num_train_epochs=EPOCHS,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            weight_decay=0.01,
            learning_rate=1e-3,
            eval_strategy="steps",
            eval_steps=SAVED,
            save_strategy="steps",
            save_steps=SAVED,
            logging_steps=1,
            load_best_model_at_end=True,
            use_cpu=True,
            report_to=["tensorboard"] if name == "whole" else [],
            disable_tqdm=True,
        )
        made = recipe(partial(trainer_class, run_dir=tmp_path / f"{name}-run"), arguments)
        made.train(resume_from_checkpoint=checkpoint and str(checkpoint))
        return made

    whole = trained("whole", SelectionTrainer)
    threads = trained("threads", partial(SelectionTrainer, workers=2))
    again = trained("again", SelectionTrainer, tmp_path / "whole" / f"checkpoint-{SAVED}")
    history = whole.state.log_history
    epochs = [row["epoch"] for row in history if "loss" in row]
    assert epochs == [pytest.approx((step + 1) / EPOCH) for step in range(EPOCHS * EPOCH)]
    evaluated = [row["eval_loss"] for row in history if "eval_loss" in row]
    assert whole.evaluate()["eval_loss"] == pytest.approx(min(evaluated))
    chosen = read_steps(tmp_path / "whole-run", ["indices"]).column(0).to_pylist()
    assert read_steps(tmp_path / "threads-run", ["indices"]).column(0).to_pylist() == chosen
    assert (
        read_steps(tmp_path / "again-run", ["indices"]).column(0).to_pylist()[SAVED:]
        == (chosen[SAVED:])
    )
    for other in (threads, again):
        for name, tensor in whole.model.state_dict().items():
            assert torch.equal(other.model.state_dict()[name], tensor), name
    logged = read_evaluations(tmp_path / "whole-run")
    assert [row["step"] for row in logged] == [4, 8, 9, 9]
    assert ("accuracy" in logged[0]) == (recipe is classification)
    shown = b"".join(path.read_bytes() for path in (tmp_path / "whole").rglob("events.out.*"))
    assert b"train/selection_share_kept" in shown and b"train/selection_score" in shown


def test_a_sequence_s_loss_is_what_its_model_computes_of_it(tmp_path: Path) -> None:
    import transformers

    from rhoselect.client.hugging_face import causal_lm_losses

    made = language_model(transformers.Trainer, transformers.TrainingArguments(str(tmp_path)))
    one = made.data_collator([made.train_dataset[3]])
    batch = SelectionBatch(0, torch.tensor([3]), one, None, torch.ones(1))
    made.model.eval()
    with torch.no_grad():
        torch.testing.assert_close(causal_lm_losses(made.model, batch)[0], made.model(**one).loss)
