"""The irreducible-loss table: the best epoch's losses, in index order, tied to their data set."""

from __future__ import annotations

import copy
import dataclasses
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from torch import nn
from torch.utils.data import Dataset as TorchData

from rhoselect.compute import threads
from rhoselect.config import DataConfig, TrainerConfig, parse
from rhoselect.data import Labels, SplitPoints, open_data
from rhoselect.data.il_table import IlMetadata, IlTable, read_table, write_table
from rhoselect.errors import IrreducibleLossError, NonFiniteLossError, UserError
from rhoselect.importers import write_dataset
from rhoselect.inputs import open_inputs
from rhoselect.models.build import build_model, configured_model
from rhoselect.models.numerics import Numerics
from rhoselect.models.replica import Replica
from rhoselect.selection.coreset import write_entropies
from rhoselect.tasks import Classification
from rhoselect.trainer.fit import (
    FitOptions,
    FitProgress,
    fit_folds,
    fit_holdout,
    fit_proxy,
    irreducible_config,
    proxy_config,
    save_model,
    score_reference,
)
from rhoselect.trainer.fit.fitter import Fitter, split_folds
from rhoselect.trainer.fit.training import SmallModel
from rhoselect.trainer.records import weights_sha256
from rhoselect.types import Batch, Indices
from support import CLASSES as CLASSES_OF_PATCHES
from support import made, patches, rhoctl

TASK = Classification()

CPU = torch.device("cpu")
CLASSES = 3
TRAIN, HOLDOUT = (100, 160), (20, 60)
METADATA = {"fingerprint": "f1", "model": "m:m", "split": "holdout", "precision": "fp32"}


class Blobs(SplitPoints):
    """Three overlapping clouds of points [6]; a point depends on its index alone."""

    def _point(self, index: int) -> tuple[torch.Tensor, int]:
        random = torch.Generator().manual_seed(index)
        label = int(torch.randint(CLASSES, (), generator=random))
        return torch.randn(6, generator=random) + F.one_hot(torch.tensor(label), 6), label

    def read(self, indices: Indices, device: torch.device) -> Batch:
        points = [self._point(index) for index in indices.tolist()]
        return Batch(
            indices,
            (
                torch.stack([inputs for inputs, _ in points]),
                torch.tensor([label for _, label in points]),
            ),
        )

    def labels(self, indices: Indices) -> Labels:
        return np.array([self._point(index)[1] for index in indices.tolist()], np.int64)

    def clean_labels(self, indices: Indices) -> Labels | None:
        return None


class Watched(FitProgress):
    """A fitter of a small network, and what it told: mean losses, and the network of each epoch."""

    def __init__(
        self, epochs: int, settings: TrainerConfig, batch: int = 10, patience: int = 0
    ) -> None:
        network, twin = (
            build_model("rhoselect.models:mlp", {"width": 32, "depth": 1}, (6,), CLASSES, 0)
            for _ in range(2)
        )
        replica = Replica(twin, Numerics("fp32"), CPU, TASK)
        self.replica = twin
        self.told: list[float] = []
        self.models: list[nn.Module] = []
        self.steps = 0
        model = SmallModel("m:m", network, replica, "fp32", TASK)
        options = FitOptions(batch, epochs, patience)
        self.fitter = Fitter(model, "f1", settings, 0, options, self)

    def step(self) -> None:
        self.steps += 1

    def epoch(self, epoch: int, loss: float) -> None:
        self.told.append(loss)
        self.models.append(copy.deepcopy(self.replica))


class Fit(Watched):
    """One fit on the holdout: its table, too."""

    def __init__(
        self, epochs: int, settings: TrainerConfig, batch: int = 10, patience: int = 0
    ) -> None:
        super().__init__(epochs, settings, batch, patience)
        self.table, self.model = self.fitter.holdout(Blobs(TRAIN), Blobs(HOLDOUT), "holdout")


OVERFITTING = TrainerConfig(lr=0.02, weight_decay=0.0)


@pytest.fixture(scope="module")
def overfitted() -> Fit:
    return Fit(epochs=12, settings=OVERFITTING)


def test_the_epoch_of_lowest_train_loss_is_kept(overfitted: Fit) -> None:
    best = int(np.argmin(overfitted.told))
    assert 0 < best < 11
    assert overfitted.told[-1] > 1.5 * overfitted.told[best], "it did get worse afterwards"
    mean = overfitted.table.values.mean(dtype=np.float64)
    assert mean == overfitted.told[best]
    assert overfitted.table.metadata.weights_sha256 == weights_sha256(overfitted.models[best])


def test_a_fit_ends_when_passes_do_not_help_any_more(overfitted: Fit) -> None:
    """The same table for less: the best epoch was over long before."""
    short = Fit(epochs=12, settings=OVERFITTING, patience=2)
    best = int(np.argmin(overfitted.told))
    assert short.told == overfitted.told[: best + 3]
    assert np.array_equal(short.table.values, overfitted.table.values)
    per_epoch = overfitted.table.metadata.flops // 12
    assert short.table.metadata.flops == (best + 3) * per_epoch


def test_values_are_the_kept_models_losses_of_the_bare_points_in_index_order(
    overfitted: Fit,
) -> None:
    model = overfitted.models[int(np.argmin(overfitted.told))].eval()
    points = Blobs(TRAIN).read(np.arange(*TRAIN), CPU)
    with threads(1), torch.no_grad():
        losses = F.cross_entropy(model(points.inputs), points.labels, reduction="none")
    table = overfitted.table
    assert table.start == TRAIN[0]
    assert table.values.dtype == np.float32
    assert np.array_equal(table.values, losses.numpy())
    assert table.at(np.array([159, 100, 131])).tolist() == losses[[59, 0, 31]].tolist()


def test_the_same_fit_gives_the_same_table(overfitted: Fit) -> None:
    torch.manual_seed(123)
    again = Fit(epochs=12, settings=OVERFITTING)
    assert np.array_equal(again.table.values, overfitted.table.values)


def test_metadata_tells_where_a_table_comes_from(overfitted: Fit) -> None:
    metadata = overfitted.table.metadata
    assert vars(metadata).items() >= METADATA.items()
    assert (metadata.holdout, metadata.variant, metadata.folds) == (HOLDOUT, "holdout", 0)
    assert metadata.tool.startswith("rhoselect ")
    age = datetime.now(UTC) - datetime.fromisoformat(metadata.date)
    assert 0 <= age.total_seconds() < 600
    assert metadata.seconds > 0
    weights = 6 * 32 + 32 * CLASSES
    trained = 12 * 40 * (2 * 3 * weights - 2 * 6 * 32)  # no gradient of the inputs
    assert metadata.flops == trained + 12 * 60 * 2 * weights


def test_a_cosine_schedule_spans_the_whole_fit_whatever_trainer_steps_says() -> None:
    """Four epochs of four steps are a schedule of sixteen."""

    def values(schedule: str, steps: int) -> list[float]:
        settings = TrainerConfig.model_validate({"schedule": schedule, "steps": steps})
        losses: list[float] = Fit(4, settings).table.values.tolist()
        return losses

    sixteen = values("cosine", 16)
    assert values("cosine", 2) == sixteen
    assert values("cosine", 500) == sixteen
    assert values("constant", 16) != sixteen


def test_a_fit_that_diverges_stops_instead_of_writing_a_table() -> None:
    with pytest.raises(NonFiniteLossError, match="small model"):
        Fit(epochs=2, settings=TrainerConfig(lr=1e30))


class Named(Blobs):
    """Those points with an input of their own each, [6 + 60]: who learnt from a point knows it."""

    def _point(self, index: int) -> tuple[torch.Tensor, int]:
        cloud, label = super()._point(index)
        own = F.one_hot(torch.tensor(index - TRAIN[0]), TRAIN[1] - TRAIN[0])
        return torch.cat([cloud, own]), label


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_a_cross_fitted_loss_is_of_a_model_that_learnt_from_all_points_but_a_fold_with_it(
    folds: int,
) -> None:
    """A linear model's weights of a point's own input stay 0 until it learns from that point."""
    linear, twin = nn.Linear(66, CLASSES, bias=False), nn.Linear(66, CLASSES, bias=False)
    nn.init.zeros_(linear.weight)
    watched = Watched(epochs=1, settings=TrainerConfig(lr=0.1), batch=2)
    replica = Replica(twin, Numerics("fp32"), CPU, TASK)
    watched.replica = twin
    model = SmallModel("m:m", linear, replica, "fp32", TASK)
    table = dataclasses.replace(watched.fitter, model=model).folds(Named(TRAIN), folds)
    points = Named(TRAIN).read(np.arange(*TRAIN), CPU)
    scored = []
    for model in watched.models:
        weights = model.state_dict()["weight"][:, 6:]
        unseen = (weights == 0).all(0).nonzero().flatten()
        assert abs(len(unseen) - 60 / folds) < 1
        losses = F.cross_entropy(model(points.inputs), points.labels, reduction="none")
        np.testing.assert_allclose(table.values[unseen], losses[unseen], rtol=1e-5)
        scored += unseen.tolist()
    assert sorted(scored) == list(range(60)), "every point is in one fold"
    metadata = table.metadata
    assert (metadata.variant, metadata.folds, metadata.split) == ("cross-fit", folds, "train")
    assert metadata.holdout == TRAIN


def test_other_seeds_cut_other_folds() -> None:
    """Of random points, not of neighbours, which may be alike."""
    first, second = (split_folds(1000, 2, seed)[0] for seed in (0, 1))
    assert 400 < len(np.intersect1d(first, second)) * 2 < 600
    assert 400 < (np.diff(first) == 1).sum() * 2 < 600


def test_a_run_takes_a_cross_fitted_table_and_not_one_of_a_model_that_saw_its_points(
    tmp_path: Path,
) -> None:
    path = tmp_path / "il.parquet"
    table = Watched(epochs=1, settings=TrainerConfig()).fitter.folds(Blobs(TRAIN), 2)
    write_table(path, table)
    assert read_table(path, "f1", TRAIN).metadata == table.metadata
    seen = dataclasses.replace(table.metadata, variant="holdout")
    write_table(path, dataclasses.replace(table, metadata=seen))
    with pytest.raises(IrreducibleLossError, match="overlap the train split"):
        read_table(path, "f1", TRAIN)


def test_a_reference_scores_as_it_is() -> None:
    watched = Watched(epochs=1, settings=TrainerConfig())
    table = watched.fitter.reference(Blobs(TRAIN))
    points = Blobs(TRAIN).read(np.arange(*TRAIN), CPU)
    with threads(1), torch.no_grad():
        logits = watched.fitter.model.network.eval()(points.inputs)
        losses = F.cross_entropy(logits, points.labels, reduction="none")
    assert np.array_equal(table.values, losses.numpy())
    assert table.metadata.variant == "reference"
    assert table.metadata.flops == 60 * 2 * (6 * 32 + 32 * CLASSES)


def test_a_table_comes_back_from_its_file(overfitted: Fit, tmp_path: Path) -> None:
    path = tmp_path / "new" / "il.parquet"
    write_table(path, overfitted.table)
    assert [p.name for p in path.parent.iterdir()] == ["il.parquet"]
    back = read_table(path, "f1", TRAIN)
    assert back.start == TRAIN[0]
    assert np.array_equal(back.values, overfitted.table.values)
    assert back.metadata == overfitted.table.metadata
    part = read_table(path, "f1", (110, 120))
    assert np.array_equal(part.at(np.arange(110, 120)), overfitted.table.values[10:20])


def test_the_file_is_parquet_with_the_columns_of_the_contract(tmp_path: Path) -> None:
    path = tmp_path / "il.parquet"
    metadata = IlMetadata("f", "m", "w", "holdout", (0, 4), "bf16", "now", "test", 1.5, 3)
    write_table(path, IlTable(4, np.array([0.5, 0.25], np.float32), metadata))
    rows = pq.read_table(path)
    assert [(f.name, f.type) for f in rows.schema] == [
        ("index", pa.int64()),
        ("irreducible_loss", pa.float32()),
    ]
    assert rows.to_pydict() == {"index": [4, 5], "irreducible_loss": [0.5, 0.25]}


def test_rows_may_stand_in_any_order(tmp_path: Path, overfitted: Fit) -> None:
    """Others may write tables too, as long as every point of the train split has one row."""
    path = tmp_path / "il.parquet"
    write_table(path, overfitted.table)
    rows = pq.read_table(path)
    shuffled = rows.take(pa.array(np.random.default_rng(0).permutation(len(rows))))
    pq.write_table(shuffled.replace_schema_metadata(rows.schema.metadata), path)
    assert np.array_equal(read_table(path, "f1", TRAIN).values, overfitted.table.values)


def table_file(path: Path, index: list[int], losses: list[float]) -> None:
    """A table as somebody else may have written it, in small row groups."""
    metadata = IlMetadata("f", "m", "w", "holdout", (0, 0), "fp32", "now", "test", 0.0, 0)
    write_table(path, IlTable(0, np.zeros(1, np.float32), metadata))
    schema = pq.read_schema(path)
    columns = [pa.array(index, pa.int64()), pa.array(losses, pa.float32())]
    pq.write_table(pa.table(columns, schema=schema), path, row_group_size=3)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    rows=st.lists(
        st.tuples(st.integers(8, 16), st.sampled_from([0.5, 1.25, np.nan, np.inf])), max_size=14
    )
)
def test_each_point_has_one_finite_loss_or_the_table_is_refused(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, float]]
) -> None:
    folder = tmp_path_factory.mktemp("il")
    index, losses = [point for point, _ in rows], [loss for _, loss in rows]
    table_file(folder / "il.parquet", index, losses)
    inside = {point: loss for point, loss in rows if 10 <= point < 14}
    once = sorted(point for point in index if 10 <= point < 14) == [10, 11, 12, 13]
    if once and np.isfinite(list(inside.values())).all():
        table = read_table(folder / "il.parquet", "f", (10, 14), cache=folder)
        assert table.at(np.arange(10, 14)).tolist() == [inside[point] for point in range(10, 14)]
        return
    missing = 4 - len(inside)
    bad = min((point for point, loss in inside.items() if not np.isfinite(loss)), default=0)
    told = f"of index {bad} is not finite" if once else f"{missing} points missing"
    with pytest.raises(IrreducibleLossError, match=told):
        read_table(folder / "il.parquet", "f", (10, 14), cache=folder)
    assert [path.name for path in folder.iterdir()] == ["il.parquet"]


def test_the_array_is_made_once_and_anew_for_another_table(tmp_path: Path) -> None:
    path, cache = tmp_path / "il.parquet", tmp_path / "cache"
    table_file(path, [0, 1, 2], [0.5, 1.0, 1.5])
    first = read_table(path, "f", (0, 3), cache=cache)
    (file,) = cache.iterdir()
    made_at = file.stat().st_mtime_ns
    read_table(path, "f", (0, 3), cache=cache)
    assert [p.stat().st_mtime_ns for p in cache.iterdir()] == [made_at]
    table_file(path, [0, 1, 2], [2.5, 1.0, 1.5])
    assert read_table(path, "f", (0, 3), cache=cache).values.tolist() == [2.5, 1.0, 1.5]
    assert len(list(cache.iterdir())) == 1, "the older table's array is gone"
    assert first.values.tolist() == [0.5, 1.0, 1.5], "but not from under its reader"
    with pytest.raises(IrreducibleLossError, match="made for data set"):
        read_table(path, "another", (0, 3), cache=cache)


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    table_file(tmp_path / "il.parquet", [0, 1], [0.5, 1.0])
    (tmp_path / "file").touch()
    with pytest.raises(IrreducibleLossError, match=r"cannot be kept under .*data\.cache_dir"):
        read_table(tmp_path / "il.parquet", "f", (0, 2), cache=tmp_path / "file" / "below")


# The command.


def values(path: Path) -> list[float]:
    losses: list[float] = pq.read_table(path)["irreducible_loss"].to_pylist()
    return losses


def test_a_model_that_was_fitted_is_a_reference(dataset_dir: Path, tmp_path: Path) -> None:
    """From its file it gives the same losses again; with other weights it would not."""
    fit = ("il", "fit", "--data", dataset_dir, "--set", "model.args.width=16", "--epochs", "2")
    mlp, weights = "rhoselect.models:mlp", tmp_path / "new" / "il.safetensors"
    fitted, again, bare = (tmp_path / f"{name}.parquet" for name in ("fitted", "again", "bare"))
    made(*fit, "--model", mlp, "--out", fitted, "--weights-out", weights)
    made(*fit, "--reference", mlp, "--weights", weights, "--out", again)
    made(*fit, "--reference", mlp, "--out", bare)
    assert values(again) == values(fitted)
    assert values(bare) != values(fitted)


def test_cross_fitting_needs_no_holdout_and_tells_how_it_goes(tmp_path: Path) -> None:
    splits = patches()
    del splits["holdout"]
    write_dataset(tmp_path / "data", "image", splits, CLASSES_OF_PATCHES)
    fit = ("il", "fit", "--data", tmp_path / "data", "--model", "rhoselect.models:mlp")
    small = ("--set", "model.args.width=16", "--epochs", "2", "--batch", "32")
    result = made(*fit, *small, "--folds", "2", "--out", tmp_path / "il.parquet")
    told = [line.split(":")[0] for line in result.out.splitlines()]
    epochs = [f"model {model}/2, epoch {epoch}/2" for model in (1, 2) for epoch in (1, 2)]
    assert told == [*epochs, str(tmp_path / "il.parquet")]
    assert len(values(tmp_path / "il.parquet")) == 400


def test_a_fit_tells_wrong_labels_from_right_ones(dataset_dir: Path, tmp_path: Path) -> None:
    """With the settings that it has by itself."""
    train = open_data(DataConfig(path=str(dataset_dir))).split("train")
    clean = train.clean_labels(train.indices)
    wrong = clean != train.labels(train.indices)
    made("il", "fit", "--data", dataset_dir, "--out", tmp_path / "il", "--epochs", "20")
    losses = np.array(values(tmp_path / "il"))
    assert np.median(losses[wrong]) > 2 > 0.5 > np.median(losses[~wrong])


WIDTH = ("--model", "rhoselect.models:mlp", "--set", "model.args.width=16")


def test_a_fit_tells_how_good_its_model_is(dataset_dir: Path, tmp_path: Path) -> None:
    """By the labels that it gets right, and beside a guess that knows the labels' shares."""
    out, weights = tmp_path / "il.parquet", tmp_path / "il.safetensors"
    fit = ("il", "fit", "--data", dataset_dir, *WIDTH, "--out", out, "--weights-out", weights)
    *_, told = made(*fit).out.splitlines()
    config = irreducible_config(
        str(dataset_dir),
        "rhoselect.models:mlp",
        ["model.args.width=16", f"model.weights={weights}"],
    )
    dataset = open_data(config.data)
    train = dataset.split("train")
    model = configured_model(config.model, dataset.input_shape, dataset.classes, 0).eval()
    points = train.read(train.indices, CPU)
    with threads(1), torch.no_grad():
        right = (model(points.inputs).argmax(1) == points.labels).float().mean()
    shares = np.bincount(points.labels) / len(train)
    guess = -(shares * np.log(shares)).sum()
    mean = np.mean(values(out))
    assert told.startswith(
        f"{out}: 400 irreducible losses, mean {mean:.4f} nats (of a guess {guess:.4f}),"
        f" {right:.1%} of labels right, "
    )
    metadata = read_table(out, dataset.fingerprint, (train.start, train.stop)).metadata
    assert metadata.accuracy == pytest.approx(float(right))
    assert metadata.guess_loss == pytest.approx(guess)


class Ramp(TorchData[Any]):
    """``size`` points [i, 1] * ``scale`` of two classes."""

    def __init__(self, split: str, scale: float, size: int = 16) -> None:
        self.size, self.scale = size, scale

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
        return torch.tensor([place, 1.0]) * self.scale, place % 2


@pytest.mark.parametrize("key", ["il.table", "il.weights", "svp.table"])
def test_a_file_of_other_data_args_names_what_differs(key: str, tmp_path: Path) -> None:
    path, sets = tmp_path / "fitted", ["model.args.width=4", "data.args={scale = 2.0, size = 12}"]
    fit = irreducible_config(f"{__name__}:Ramp", "rhoselect.models:mlp", sets)
    function = "updated_reducible_loss" if key == "il.weights" else "reducible_loss"
    if key == "svp.table":
        write_entropies(path, *fit_proxy(fit, FitOptions(8, 1)))
        function = "svp"
    else:
        table, model = fit_holdout(fit, FitOptions(8, 1))
        write_table(path, table)
        if key == "il.weights":
            save_model(path, model, fit, table)
    data = {"dataset": f"{__name__}:Ramp", "args": {"scale": 1.0}}
    section, name = key.split(".")
    tree = {"data": data, "selection": {"function": function, "n_B": 8, "n_b": 2, "chunk": 8}}
    words = "data.args.scale = 2.0, here 1.0, data.args.size = 12, here unset; run 'rhoctl"
    with pytest.raises(UserError, match=rf"^{key} .*; it was made with {re.escape(words)}"):
        open_inputs(parse(tree | {section: {name: str(path)}}))


def test_a_model_that_learnt_nothing_or_overfits_is_doubted(
    dataset_dir: Path, tmp_path: Path
) -> None:
    fit = ("il", "fit", "--data", dataset_dir, *WIDTH, "--out", tmp_path / "il", "--overwrite")
    assert "warning" not in made(*fit, "--epochs", "10").out
    *_, told = made(*fit, "--set", "trainer.lr=1").out.splitlines()
    assert told.startswith("warning: the model has learnt next to nothing (mean loss ")
    rates = ("--set", "trainer.schedule=constant", "--set", "trainer.lr=0.02")
    long = ("--epochs", "6", "--batch", "16", "--set", "model.args.width=64")
    for folds in ((), ("--folds", "2")):
        *_, told = made(*fit, *long, *rates, *folds).out.splitlines()
        assert re.match(r"warning: the model overfits: .* rose from \d\.\d+ to \d", told)
    *_, told = made(
        *("il", "fit", "--data", dataset_dir, "--out", tmp_path / "other", *WIDTH[2:]),
        *("--reference", "rhoselect.models:mlp"),
    ).out.splitlines()
    assert told.startswith("warning: the model has learnt next to nothing"), "as it is not trained"


@pytest.mark.parametrize("command", ["il", "svp"])
def test_a_fit_replaces_no_file_silently(dataset_dir: Path, tmp_path: Path, command: str) -> None:
    kept = tmp_path / "kept"
    kept.write_text("of another fit")
    fit = (command, "fit", "--data", dataset_dir, *WIDTH, "--epochs", "1", "--out")
    flags = [(kept,)] if command == "svp" else [(kept,), (tmp_path / "il", "--weights-out", kept)]
    for out in flags:
        result = rhoctl(*fit, *out)
        assert result.code == 2 and f"{kept}: exists, allowed a new file" in result.err
        assert "--overwrite" in result.err and kept.read_text() == "of another fit"
        assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    made(*fit, kept, "--overwrite")
    assert kept.stat().st_size > 100


@pytest.mark.parametrize("command", ["il", "svp"])
def test_a_default_network_that_does_not_fit_is_named(tmp_path: Path, command: str) -> None:
    random = np.random.default_rng(0)
    splits = {
        name: (random.random((64, 6), np.float32), random.integers(0, 2, 64))
        for name in ("train", "holdout", "test")
    }
    write_dataset(tmp_path / "data", "float", splits, 2)
    fit = (command, "fit", "--data", tmp_path / "data", "--out", tmp_path / "out", "--batch", "8")
    result = rhoctl(*fit)
    assert result.code == 2 and result.err.count("\n") == 1
    assert "small_cnn" in result.err and "this is the default network" in result.err
    assert "give --model, as rhoselect.models:mlp" in result.err
    named = rhoctl(*fit, "--model", "rhoselect.models:small_cnn")
    assert named.code == 2 and "default" not in named.err
    made(*fit, "--model", "rhoselect.models:mlp")


# The Python functions.


def test_fits_from_python_give_what_the_command_gives(dataset_dir: Path, tmp_path: Path) -> None:
    mlp, width = "rhoselect.models:mlp", "model.args.width=16"
    config = irreducible_config(str(dataset_dir), mlp, [width])
    options = FitOptions(batch=64, epochs=2)
    table, model = fit_holdout(config, options)
    command = ("il", "fit", "--data", dataset_dir, "--model", mlp, "--set", width)
    short = ("--batch", "64", "--epochs", "2")
    made(*command, *short, "--out", tmp_path / "il.parquet")
    assert table.values.tolist() == values(tmp_path / "il.parquet")

    save_model(tmp_path / "il.safetensors", model, config, table)
    ready = irreducible_config(
        str(dataset_dir), mlp, [width, f"model.weights={tmp_path / 'il.safetensors'}"]
    )
    assert np.array_equal(score_reference(ready)[0].values, table.values)

    made(*command, *short, "--folds", "2", "--out", tmp_path / "folds.parquet")
    assert fit_folds(config, 2, options).values.tolist() == values(tmp_path / "folds.parquet")

    made("svp", *command[1:], *short, "--out", tmp_path / "svp.safetensors")
    entropies, _ = fit_proxy(proxy_config(str(dataset_dir), mlp, [width]), options)
    kept = load_file(tmp_path / "svp.safetensors")["entropies"]
    assert np.array_equal(entropies, kept)
