"""Token ids end to end: the built-in transformer through import, ``il fit`` and runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from rhoselect.config import TrainerConfig, parse
from rhoselect.config.sections import ModelConfig
from rhoselect.data import ArrowDataset
from rhoselect.errors import DataError
from rhoselect.importers import write_dataset
from rhoselect.inputs import open_dataset
from rhoselect.models.build import build_model, vocabulary_of
from rhoselect.models.numerics import Numerics
from rhoselect.models.replica import Replica
from rhoselect.tasks import Classification
from rhoselect.trainer.learner import Learner
from rhoselect.types import Batch
from support import made, rhoctl

TASK = Classification()

CPU = torch.device("cpu")
TEXT = "rhoselect.models:text_transformer"
SMALL = {"vocabulary": 20, "width": 16, "heads": 2}


def texts(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Texts of 2 to 12 tokens, padded with 0; the class is which of the tokens 1 and 2 is there."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, count)
    tokens = random.integers(3, 20, (count, 12))
    lengths = random.integers(2, 13, count)
    tokens[np.arange(12) >= lengths[:, None]] = 0
    tokens[np.arange(count), random.integers(0, lengths)] = 1 + labels
    return tokens, labels


@pytest.fixture(scope="module")
def text_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text") / "data"
    splits = {"train": texts(0, 640), "holdout": texts(1, 320), "test": texts(2, 200)}
    write_dataset(folder, "tokens", splits)
    return folder


def settings(data: Path, more: list[str]) -> list[str]:
    given = [
        f"data.path={data}",
        f"model.factory={TEXT}",
        "model.args={vocabulary = 20, width = 16, heads = 2}",
        "selection.n_b=8",
        "selection.n_B=64",
        "selection.chunk=16",
        "scorer.precision=fp32",
        "metrics.port=-1",
        *more,
    ]
    return [word for item in given for word in ("--set", item)]


@pytest.mark.matrix
def test_token_ids_train_to_the_same_bits_with_and_without_a_worker(
    ray_session: None, text_data: Path, tmp_path: Path
) -> None:
    table = tmp_path / "il.parquet"
    args = [word for key, value in SMALL.items() for word in ("--set", f"model.args.{key}={value}")]
    made("il", "fit", "--data", text_data, "--model", TEXT, "--out", table, "--epochs", "1", *args)
    more = [f"il.table={table}", "trainer.steps=8"]
    hashes = []
    for workers in (0, 1):
        run = tmp_path / str(workers)
        made("train", "--run-dir", run, "--workers", workers, *settings(text_data, more))
        summary = json.loads((run / "summary.json").read_text())
        hashes.append((summary["selected_sha256"], summary["weights_sha256"]))
    assert hashes[0] == hashes[1]


def test_the_page_shows_imported_texts_in_words_and_other_ids_as_they_are(
    text_data: Path, tmp_path: Path
) -> None:
    lines = [f"{'Great' if n % 2 else 'Poor'} film number {n}\t{n % 2}\n" for n in range(200)]
    (tmp_path / "films.tsv").write_text("text\tlabel\n" + "".join(lines))
    made("data", "import", "tsv", tmp_path / "films.tsv", tmp_path / "films", "--test", "0.2")
    for data, vocabulary in ((tmp_path / "films", 8192), (text_data, 20)):
        more = [f"model.args.vocabulary={vocabulary}", "selection.function=loss"]
        run, page = tmp_path / f"run-{vocabulary}", tmp_path / f"{vocabulary}.html"
        made("train", "--run-dir", run, *settings(data, [*more, "trainer.steps=4"]))
        made("report", run, "--out", page)
    texts_shown = re.findall("<q>(.*?)</q>", (tmp_path / "8192.html").read_text())
    assert len(texts_shown) == 24
    assert all(re.fullmatch(r"(great|poor) film number \d+", text) for text in texts_shown)
    assert "share a token id" in (tmp_path / "8192.html").read_text()
    ids_shown = re.findall("<q>(.*?)</q>", (tmp_path / "20.html").read_text())
    assert len(ids_shown) == 24
    assert all(re.fullmatch(r"\d+( \d+)*", ids) for ids in ids_shown)
    assert "share a token id" not in (tmp_path / "20.html").read_text()


def test_the_transformer_learns_which_token_is_there(text_data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    more = ["selection.function=uniform", "trainer.steps=200", "trainer.lr=0.005"]
    made("train", "--run-dir", run, "--workers", "0", *settings(text_data, more))
    assert json.loads((run / "summary.json").read_text())["best_accuracy"] > 0.9


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_replica_computes_what_plain_autocast_does(precision: str) -> None:
    tokens, labels = texts(3, 16)
    points = Batch(np.arange(16), (torch.from_numpy(tokens), torch.from_numpy(labels)))
    learner = Learner(build_model(TEXT, SMALL, (12,), 2, 0), TrainerConfig(), 0, CPU, TASK)
    learner.update(points, None, 0)
    replica = Replica(build_model(TEXT, SMALL, (12,), 2, 9), Numerics(precision), CPU, TASK)
    replica.load(learner.pieces(replica.layout))
    low = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    with torch.no_grad(), low:
        logits = learner.model.eval()(points.inputs).float()
    assert torch.equal(replica(points).logits, logits)
    assert torch.equal(replica(points).logits, logits)


def test_padding_changes_nothing_and_an_empty_text_is_finite() -> None:
    model = build_model(TEXT, SMALL, (6,), 3, seed=0).eval()
    padded = torch.tensor([[5, 7, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]])
    logits = model(padded)
    assert torch.isfinite(logits).all()
    with torch.no_grad():
        model.embedding.weight[0] = 9.0  # type: ignore[union-attr, index]
    assert torch.equal(model(padded), logits)
    assert not torch.allclose(model(padded.roll(1, 1)), logits)


def test_a_token_outside_the_vocabulary_is_one_line(text_data: Path, tmp_path: Path) -> None:
    words = settings(text_data, ["selection.function=uniform", "trainer.steps=12"])
    words += ["--set", "model.args.vocabulary=10"]
    result = rhoctl("train", "--run-dir", tmp_path / "run", "--workers", "0", *words)
    assert result.code == 2 and result.err.count("\n") == 1
    assert re.search(
        r"data: got token id 1\d in point \d+, allowed 0 to 9 by the model", result.err
    )
    assert "set model.args.vocabulary to the number of ids" in result.err
    assert not (tmp_path / "run").exists()
    args = ("--model", TEXT, "--set", "model.args.vocabulary=10", "--out", tmp_path / "il.parquet")
    fitted = rhoctl("il", "fit", "--data", text_data, *args)
    assert fitted.code == 2 and "allowed 0 to 9 by the model" in fitted.err


@pytest.mark.parametrize("unknown", [-1, 20, 2**40])
def test_a_token_outside_the_vocabulary_of_its_data_set(tmp_path: Path, unknown: int) -> None:
    """Refused by the import, and by a read of a folder that was changed since. On a GPU an
    embedding would end the process without a message, at the first such point."""
    splits = {"train": texts(0, 64), "test": texts(1, 8)}
    write_dataset(tmp_path / "good", "tokens", splits, vocabulary=20)
    points = ArrowDataset.open(tmp_path / "good").split("train")
    assert points.read(points.indices, CPU).inputs.max() == 19
    splits["train"][0][[5, 7], 3] = unknown
    allowed = r"allowed 0 to 19"
    with pytest.raises(DataError, match=f"train: got token id {unknown} in row 5, {allowed}, as"):
        write_dataset(tmp_path / "bad", "tokens", splits, vocabulary=20)
    assert not (tmp_path / "bad").exists()

    write_dataset(tmp_path / "unchecked", "tokens", splits)
    manifest = tmp_path / "unchecked" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"vocabulary": null', '"vocabulary": 20'))
    points = ArrowDataset.open(tmp_path / "unchecked").split("train")
    points.read(np.array([0, 4, 6]), CPU)
    with pytest.raises(DataError, match=f"got token id {unknown} in point 7, {allowed} by the man"):
        points.read(np.array([9, 7, 0, 5]), CPU)


class Numbers:
    """Texts of a torch data set."""

    classes = 2

    def __init__(self, split: str) -> None:
        self.texts = texts(0, 64)

    def __len__(self) -> int:
        return 64

    def __getitem__(self, place: int) -> tuple[np.ndarray, int]:
        return self.texts[0][place], int(self.texts[1][place])


def test_a_token_of_a_torch_data_set_that_the_model_does_not_know() -> None:
    config = parse(
        {
            "data": {"dataset": "test_text_models:Numbers"},
            "model": {"factory": TEXT, "args": {"vocabulary": 19}},
        }
    )
    points = open_dataset(config).split("train")
    bad = np.flatnonzero((texts(0, 64)[0] == 19).any(axis=1))
    with pytest.raises(
        DataError, match=rf"Numbers': got token id 19 in point {bad[0]}, .*18 by the"
    ):
        points.read(points.indices, CPU)
    points.read(np.setdiff1d(points.indices, bad), CPU)


def made_with(factory: str, **args: int) -> int | None:
    return vocabulary_of(ModelConfig(factory=f"rhoselect.models:{factory}", args=args))


def test_a_model_says_how_many_tokens_it_knows_before_it_is_made() -> None:
    assert made_with("text_transformer", vocabulary=7) == 7
    assert made_with("albert") == 30_000
    assert made_with("mlp") is None
    assert made_with("text_transformer", unknown=1) is None
    assert made_with("no_such") is None
    for other in (True, 0, -1):  # a factory's own meaning of the word
        assert made_with("text_transformer", vocabulary=other) is None


@pytest.mark.parametrize(
    ("args", "shape", "message"),
    [
        ({"vocabulary": 9, "width": 10, "heads": 4}, (5,), r"width: got 10, allowed a multiple"),
        ({"vocabulary": 9}, (3, 8, 8), r"shape \[3, 8, 8\], allowed \[T\] token ids"),
    ],
)
def test_arguments_that_do_not_fit(
    args: dict[str, int], shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(TEXT, args, shape, 3, seed=0)


def test_albert_ignores_padding_and_has_the_librarys_names() -> None:
    import transformers  # here, because it takes seconds

    args = {"vocabulary": 30, "embedding": 8, "width": 16, "heads": 2, "layers": 2, "hidden": 32}
    model = build_model("rhoselect.models:albert", args, (6,), 3, seed=0).eval()
    assert "albert.embeddings.word_embeddings.weight" in model.state_dict()
    padded, twin = torch.tensor([[5, 7, 0, 0, 0, 0]]), torch.tensor([[5, 7]])
    plain = transformers.AlbertForSequenceClassification(model.config).eval()  # type: ignore[operator]
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(padded), plain(input_ids=twin).logits)
