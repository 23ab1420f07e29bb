"""Irreducible losses of data sets of Hugging Face are those of the command on the same folder.

The libraries take seconds to import, so each function does that itself.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from hub import reviews, sentences, word_tokenizer
from rhoselect.client import fit_irreducible_losses as fit
from rhoselect.data.token_losses import COLUMN
from rhoselect.errors import DataError
from rhoselect.models import configured_model
from rhoselect.trainer.fit import FitOptions, fit_folds, fit_holdout, irreducible_config

pytestmark = [
    pytest.mark.usefixtures("away"),
    pytest.mark.filterwarnings("ignore:irreducible losses"),  # of a few steps
]

PAGE = Path(__file__).parents[2] / "docs" / "il.md"
OPTIONS = FitOptions(batch=8, epochs=2)
SIZES = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
CONFIG = {"trainer": {"lr": 1e-2, "device": "cpu"}, "il": {"overlap": "allow"}}  # texts are alike


def small_bert(classes: int) -> Any:
    import transformers

    torch.set_num_threads(1)
    config = transformers.BertConfig(vocab_size=16, hidden_size=16, num_labels=classes, **SIZES)
    return transformers.BertForSequenceClassification(config)


def test_a_mapped_data_set_in_place(tmp_path: Path) -> None:
    """Memory-mapped, with columns that the model does not take, through the usual collator; by a
    holdout and by folds. A Trainer takes the file."""
    import datasets
    import transformers

    from rhoselect.client.hugging_face import SelectionTrainer, fit_irreducible_losses

    folder, words = reviews(tmp_path / "reviews"), word_tokenizer(tmp_path / "words")
    keys = [f"data.args={{path = '{folder}', tokenizer = '{words}'}}", "trainer.lr=1e-2"]
    texts, factory = "rhoselect.data.hugging_face:texts", f"{__name__}:small_bert"
    config = irreducible_config(texts, factory, [*keys, "trainer.device=cpu"])
    model = configured_model(config.model, (), 2, config.seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(words)
    loaded = datasets.load_from_disk(folder)
    data = loaded.map(lambda row: tokenizer(row["text"]))
    collator, out = transformers.DataCollatorWithPadding(tokenizer), tmp_path / "il.parquet"
    how: dict[str, Any] = {"data_collator": collator, "options": OPTIONS, "config": CONFIG}
    of_holdout = fit_irreducible_losses(model, data["train"], holdout=data["validation"], **how)
    assert np.array_equal(of_holdout, fit_holdout(config, OPTIONS)[0].values)
    of_folds = fit_irreducible_losses(model, data["train"], folds=2, out=out, **how)
    assert np.array_equal(of_folds, fit_folds(config, 2, OPTIONS).values)
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=1, use_cpu=True, report_to=[], disable_tqdm=True
    )
    parts = {"train_dataset": data["train"], "data_collator": collator}
    trainer = SelectionTrainer(
        model,
        arguments,
        **parts,
        selection={"n_B": 16, "chunk": 16},
        irreducible_losses=out,
        run_dir=None,
    )
    assert trainer.train().global_step == 1

    with pytest.raises(DataError, match=r"a DatasetDict of train, validation, test, allowed one"):
        fit_irreducible_losses(model, data, folds=2, **how)
    with pytest.raises(DataError, match=r"got columns text, label, allowed some that BertForSequ"):
        fit_irreducible_losses(model, loaded["train"], folds=2, **how)


def test_a_language_model_in_memory(tmp_path: Path) -> None:
    """Its tokens, whichever function computes their losses."""
    import datasets
    import transformers

    from rhoselect.client.hugging_face import fit_irreducible_losses

    tokenizer = transformers.AutoTokenizer.from_pretrained(word_tokenizer(tmp_path / "words"))
    data = datasets.Dataset.from_dict(sentences(96)).map(lambda row: tokenizer(row["text"]))
    data = data.filter(lambda row: len(row["input_ids"]) > 1)
    torch.manual_seed(0)
    without = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)
    sizes = {"vocab_size": 16, "n_positions": 8, "n_embd": 16, "n_layer": 1, "n_head": 2}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **without))
    collator = transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False)
    options = FitOptions(batch=8, epochs=2, tokens=True)
    how: dict[str, Any] = {"folds": 2, "options": options}
    ours, theirs = tmp_path / "ours.parquet", tmp_path / "theirs.parquet"
    keys = {**CONFIG, "task": {"name": "causal_lm"}}
    il = fit(model, data, config=keys, out=ours, **how)
    usual = fit_irreducible_losses(
        model, data, data_collator=collator, config=CONFIG, out=theirs, **how
    )
    torch.testing.assert_close(il, usual, rtol=1e-3, atol=1e-4)
    columns = [pq.read_table(path)[COLUMN].to_pylist() for path in (ours, theirs)]
    assert [len(each) for each in columns[1]] == [len(ids) - 1 for ids in data["input_ids"]]
    for one, other in zip(*columns, strict=True):
        assert other == pytest.approx(one, rel=1e-3, abs=1e-4)


def test_the_worked_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands in the page, with one wrong label in ten: their losses are greater."""
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.S)
    names: dict[str, Any] = {}
    torch.set_num_threads(1)
    torch.manual_seed(0)
    exec(code, names)
    il, data = names["il"], names["data"]
    right = torch.tensor(data["input_ids"])[:, 0] % 3 == torch.tensor(data["label"])
    assert len(right) == len(il) == pq.read_table("il.parquet").num_rows
    assert il[~right].median() > 2 * il[right].median()
