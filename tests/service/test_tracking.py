"""What a run shows of itself in a tracker, read back."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from service_helpers import inputs, train

import threaded
from rhoselect.client import SelectionClient
from rhoselect.config import load
from rhoselect.errors import ConfigError
from rhoselect.trainer.records import read_steps

pytestmark = pytest.mark.usefixtures("away")


def shown(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    names = found.Tags()["scalars"]
    return {name: [(each.step, each.value) for each in found.Scalars(name)] for name in names}


def test_tensorboard_has_the_figures_of_a_run(tiny_config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    threaded.run(tiny_config, folder, 0, ["trainer.tracker=tensorboard"])
    found = shown(folder)
    rows = read_steps(folder).to_pylist()
    losses = [(row["step"] + 1, pytest.approx(row["loss"])) for row in rows]
    assert found["train/loss"] == losses
    assert [step for step, _ in found["selection/wait_ms"]] == list(range(1, 21))
    assert {value for _, value in found["selection/staleness_steps"]} == {0.0}
    assert [step for step, _ in found["test/accuracy"]] == [10, 20]


class Kept:
    """A tracker of a user's own."""

    seen: list[tuple[int, Mapping[str, float]]] = []  # noqa: RUF012
    closed = 0

    def __init__(self, folder: Path, step: int) -> None:
        self.folder = folder

    def log(self, step: int, values: Mapping[str, float]) -> None:
        Kept.seen.append((step, values))

    def close(self) -> None:
        Kept.closed += 1


def test_a_loop_tells_a_tracker_of_one_s_own(tiny_config: Path, tmp_path: Path) -> None:
    run = inputs(tiny_config, [f"trainer.tracker={__name__}:Kept", "trainer.steps=3"])
    model = run.new_model()
    where: dict[str, Any] = {"local": True, "config": run.config.model_dump()}
    selection = SelectionClient(model, **where, run_dir=tmp_path / "run")
    train(run, selection, model)
    selection.log(3, accuracy=0.5)
    assert [step for step, _ in Kept.seen] == [1, 2, 3, 3]
    assert Kept.seen[-1][1]["test/accuracy"] == 0.5 and "train/loss" in Kept.seen[0][1]
    assert Kept.closed >= 1
    where["config"]["trainer"]["tracker"] = "board"
    with pytest.raises(
        ConfigError, match=r"trainer\.tracker: got 'board', allowed 'tensorboard', "
    ):
        SelectionClient(model, **where, run_dir=tmp_path / "other")


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_tracker_without_its_package_is_one_line_and_no_folder(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    model, folder = inputs(tiny_config).new_model(), tmp_path / "run"
    config = load(tiny_config, [f"trainer.tracker={name}"]).model_dump()
    words = rf"trainer\.tracker: got '{name}' and no package .*pip install 'rhoselect\[{name}\]'"
    with pytest.raises(ConfigError, match=words):
        SelectionClient(model, local=True, config=config, run_dir=folder)
    assert not folder.exists()


@pytest.mark.matrix
def test_wandb_has_the_figures_of_a_run(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offline. Both parts of a resumed run are of the same run there."""
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tmp_path / "run"
    loop_with(tiny_config, folder, "wandb")
    found, ids = dict[str, list[tuple[int, float]]](), set[str]()
    for path in sorted((folder / "wandb").glob("offline-run-*/*.wandb")):
        for record in map(Record.FromString, leveldb_log(path.read_bytes())):
            ids |= {record.run.run_id} - {""}
            items = record.history.item
            row = {each.key or each.nested_key[0]: json.loads(each.value_json) for each in items}
            for name, value in row.items():
                found.setdefault(name, []).append((row["step"], value))
    assert ids == {(folder / "run_id").read_text()}
    check_shown(found, folder)


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # MLflow with SQLAlchemy 2.1
@pytest.mark.parametrize(
    "store",
    [
        pytest.param("sqlite:///{}/mlflow.db", marks=pytest.mark.long),
        pytest.param("file://{}/mlruns", marks=pytest.mark.matrix),
    ],
    ids=["sqlite", "files"],
)
def test_mlflow_has_the_figures_of_a_run(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.format(tmp_path))
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    folder = tmp_path / "run"
    loop_with(tiny_config, folder, "mlflow")
    client = mlflow.tracking.MlflowClient()
    [run] = client.search_runs([client.get_experiment_by_name("rhoselect").experiment_id])
    assert run.info.run_name == "run" and run.info.status == "FINISHED"
    assert run.data.params["selection.n_b"] == "8"
    found = {
        name: [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }
    check_shown(found, folder)


def loop_with(config: Path, folder: Path, tracker: str) -> None:
    """A loop of 6 steps that goes on after the third, and tells of an evaluation at its end."""
    run = inputs(config, [f"trainer.tracker={tracker}", "trainer.steps=6"])
    model, where = run.new_model(), {"local": True, "config": run.config.model_dump()}
    first = SelectionClient(model, **where, run_dir=folder)
    train(run, first, model, 3)
    state = first.state_dict()
    first.close()
    second = SelectionClient(model, **where, run_dir=folder, step=state)
    train(run, second, model)
    second.log(6, accuracy=0.5)


def check_shown(found: Mapping[str, list[tuple[int, float]]], folder: Path) -> None:
    rows = read_steps(folder).to_pylist()
    losses = [(row["step"] + 1, pytest.approx(row["loss"])) for row in rows]
    assert found["train/loss"] == losses and len(losses) == 6
    assert found["test/accuracy"] == [(6, 0.5)]


def leveldb_log(data: bytes) -> Iterator[bytes]:
    """The records of a file of W&B: after 7 bytes, blocks of 32 KiB with parts of records, each
    with a checksum, its length and its kind: whole, first, middle or last."""
    place, whole = 7, b""
    while place + 7 <= len(data):
        left = -place % 32768 or 32768
        if left < 7:
            place += left
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield whole
            whole = b""
