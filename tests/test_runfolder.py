"""What a run leaves on disk: exact, cut back after a crash, closed to an old trainer."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import struct
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rhoselect.config import Config, DataConfig
from rhoselect.errors import FencedError, RunFolderError, StorageError
from rhoselect.models import resnet18_small
from rhoselect.trainer import checkpoint as checkpoints
from rhoselect.trainer.checkpoint import (
    Checkpoint,
    Progress,
    Staged,
    checkpoint_paths,
    load_newest,
)
from rhoselect.trainer.driver import check_ended, driver_of, driving
from rhoselect.trainer.records import (
    SCHEMA,
    Records,
    StepRecord,
    read_evaluations,
    read_selected,
    read_steps,
    selected_sha256,
    weights_sha256,
)
from rhoselect.trainer.runfolder import RunFolder, default_run_dir, writing
from rhoselect.types import Snapshot

CONTRACT = [
    ("step", pa.int64()),
    ("window", pa.int64()),
    ("indices", pa.list_(pa.int64())),
    ("scores", pa.list_(pa.float64())),
    ("loss", pa.float64()),
    ("staleness", pa.int64()),
    ("candidates", pa.int64()),
    ("wait_ms", pa.float64()),
    ("step_ms", pa.float64()),
    ("corrupted_share", pa.float64()),
    ("correct_share", pa.float64()),
]
EVALUATION = {"metric": 0.5, "accuracy": 0.5, "loss": 1.25, "worst_class_accuracy": 0.25}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", Config(data=DataConfig(path="data")))


def record(step: int, corrupted_share: float | None = 0.0) -> StepRecord:
    return StepRecord(
        step=step,
        window=step,
        indices=np.array([2**40 + step, step], np.int64),
        scores=[0.1 + step, -0.1],
        loss=1.5,
        staleness=step % 2,
        candidates=320,
        wait_ms=0.5,
        step_ms=2.0,
        corrupted_share=corrupted_share,
        correct_share=0.5,
    )


def checkpoint(step: int) -> Checkpoint:
    values = {"model.0.weight": torch.full((2, 3), float(step)), "optimizer.0.step": torch.ones(())}
    return Checkpoint(Progress(step), values, {}, [])


def save(folder: RunFolder, checkpoint: Checkpoint, keep: int) -> Path:
    return Staged(checkpoint).write(folder, keep)


def saved_steps(folder: RunFolder) -> list[int]:
    return [int(path.stem.removeprefix("step-")) for path in checkpoint_paths(folder.path)]


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype, name
        assert torch.equal(tensor, other[name]), name


def test_a_checkpoint_comes_back_with_weights_state_and_snapshots(folder: RunFolder) -> None:
    progress = Progress(step=7, wall_seconds=12.5, wait_seconds=0.25, scored_points=2240)
    learner = {
        "model.1.running_mean": torch.randn(3),
        "model.1.num_batches_tracked": torch.tensor(7),
        "optimizer.0.exp_avg": torch.randn(2, 3).t(),
    }
    state = {"class_weights": torch.rand(10)}
    snapshots = [
        Snapshot(5, {"head.weight": torch.randn(2, 2).bfloat16()}, {"weights": torch.ones(3)}),
        Snapshot(6, {"head.weight": torch.randn(2, 2).bfloat16()}),
    ]
    save(folder, Checkpoint(progress, learner, state, snapshots), keep=2)
    found = load_newest(folder.path)
    assert found is not None
    assert found.progress == progress
    assert_same(found.learner, learner)
    assert_same(found.state, state)
    assert [snapshot.version for snapshot in found.snapshots] == [5, 6]
    for snapshot, expected in zip(found.snapshots, snapshots, strict=True):
        assert_same(dict(snapshot.tensors), dict(expected.tensors))
        assert_same(dict(snapshot.state), dict(expected.state))


def test_weights_that_are_one_tensor_under_two_names_can_be_saved(folder: RunFolder) -> None:
    """As in a language model whose head is its embedding."""
    tied = torch.randn(4, 2)
    learner = {"model.embedding.weight": tied, "model.head.weight": tied}
    save(folder, Checkpoint(Progress(1), learner, {"a": tied, "b": tied[1:]}, []), keep=1)
    found = load_newest(folder.path)
    assert found is not None
    assert_same(found.learner, learner)
    assert_same(found.state, {"a": tied, "b": tied[1:]})


def test_only_the_newest_checkpoints_are_kept(folder: RunFolder) -> None:
    assert load_newest(folder.path) is None
    for step in (5, 10, 999_999_999):
        save(folder, checkpoint(step), keep=2)
    assert saved_steps(folder) == [10, 999_999_999]
    found = load_newest(folder.path)
    assert found is not None
    assert found.progress.step == 999_999_999


def test_a_half_written_checkpoint_is_not_taken_for_one(folder: RunFolder) -> None:
    path = save(folder, checkpoint(5), keep=2)
    whole = path.read_bytes()
    path.with_name(".step-000000010.safetensors.1").write_bytes(whole[:100])
    found = load_newest(folder.path)
    assert found is not None
    assert found.progress.step == 5
    path.write_bytes(whole[:100])
    with pytest.raises(RunFolderError, match="cannot be read"):
        load_newest(folder.path)


def test_the_newest_checkpoint_that_is_whole_is_taken(
    folder: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    """One bit of a weight is enough to be passed over, by name."""
    for step in (5, 10):
        path = save(folder, checkpoint(step), keep=2)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    found = load_newest(folder.path)
    assert found is not None and found.progress.step == 5
    passed, taken = caplog.messages
    assert f"checkpoint {path}: cannot be read (ValueError: its hash" in passed
    assert "step-000000005.safetensors" in taken
    for older in checkpoint_paths(folder.path)[:-1]:
        older.unlink()
    with pytest.raises(RunFolderError, match="its hash is not that"):
        load_newest(folder.path)


def test_broken_newer_checkpoints_do_not_count_among_those_that_are_kept(
    folder: RunFolder,
) -> None:
    """A run goes on from before them: what it saves then must stay."""
    for step in (5, 10, 15):
        path = save(folder, checkpoint(step), keep=3)
        if step > 5:
            path.write_bytes(b"broken")
    saved = save(folder, checkpoint(7), keep=2)
    assert saved_steps(folder)[:2] == [5, 7] and saved.exists()


def test_a_checkpoint_of_other_contents_is_passed_over(folder: RunFolder) -> None:
    """One whose hash is right, but that no trainer of ours wrote."""
    save(folder, checkpoint(5), keep=2)
    tensors = {"x": torch.ones(2)}
    progress = json.dumps(asdict(Progress(10)))
    metadata = {"progress": progress, "sha256": checkpoints._sha256(progress, tensors)}
    save_file(tensors, folder.path / "checkpoints" / "step-000000010.safetensors", metadata)
    found = load_newest(folder.path)
    assert found is not None and found.progress.step == 5


def test_an_old_trainer_writes_nothing_any_more(folder: RunFolder) -> None:
    old, records = folder, Records(folder, 0)
    save(old, checkpoint(1), keep=2)
    records.add_values(1, 0.5, EVALUATION)
    records.append(record(0))
    new = RunFolder.resume(folder.path)
    assert (new.generation, new.run_id) == (old.generation + 1, old.run_id)
    before = {p: p.read_bytes() for p in folder.path.rglob("*") if p.is_file()}
    with pytest.raises(FencedError, match=f"generation {old.generation}"):
        save(old, checkpoint(2), keep=1)
    with pytest.raises(FencedError):
        records.flush()
    with pytest.raises(FencedError):
        records.add_values(2, 0.75, EVALUATION)
    with pytest.raises(FencedError):
        records.finish({"steps": 2})
    with pytest.raises(FencedError):
        Records(old, 0)
    assert {p: p.read_bytes() for p in folder.path.rglob("*") if p.is_file()} == before
    save(new, checkpoint(2), keep=1)
    assert saved_steps(new) == [2]


def test_a_trainer_that_is_replaced_while_it_writes_a_checkpoint_does_not_publish_it(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_slowly(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        RunFolder.resume(folder.path)
        save_file(tensors, path, metadata)

    monkeypatch.setattr("rhoselect.trainer.checkpoint.save_file", write_slowly)
    with pytest.raises(FencedError):
        save(folder, checkpoint(1), keep=2)
    assert load_newest(folder.path) is None


def test_a_trainer_that_is_replaced_while_it_writes_steps_leaves_those_of_the_new_one(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both come to the same step; the old one wakes up in the middle of its file."""
    old, write = Records(folder, 0), pq.write_table
    old.append(record(0, corrupted_share=1.0))

    def write_slowly(table: pa.Table, path: Path) -> None:
        monkeypatch.setattr(pq, "write_table", write)
        write(table, path)
        new = Records(RunFolder.resume(folder.path), 0)
        new.append(record(0, corrupted_share=0.0))
        new.flush()

    monkeypatch.setattr(pq, "write_table", write_slowly)
    with pytest.raises(FencedError), writing(folder):
        old.flush()
    assert read_steps(folder.path)["corrupted_share"].to_pylist() == [0.0]


def test_a_full_disk_is_said_and_what_was_written_stays(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    save(folder, checkpoint(1), keep=2)
    monkeypatch.setattr("rhoselect.trainer.checkpoint.save_file", full)
    with pytest.raises(StorageError, match=r"No space left.*--resume"), writing(folder):
        save(folder, checkpoint(2), keep=2)
    assert saved_steps(folder) == [1]


def test_two_runs_of_the_same_second_have_folders_of_their_own() -> None:
    assert len({default_run_dir("my") for _ in range(100)}) == 100
    assert default_run_dir("my").parent == Path("runs")


def test_a_run_has_one_driver(folder: RunFolder) -> None:
    assert driver_of(folder.path) is None, "it was made, and never started"
    with driving(folder.path):
        driver = driver_of(folder.path)
        assert driver is not None and driver.lives and driver.pid == os.getpid()
        with pytest.raises(RunFolderError, match=rf"process {os.getpid()} on .* runs it"):
            check_ended(folder.path)
        with pytest.raises(RunFolderError, match="runs it"), driving(folder.path):
            pass
    check_ended(folder.path)
    with driving(folder.path):
        pass


def test_every_trainer_gets_a_generation_of_its_own(folder: RunFolder) -> None:
    later = [RunFolder.resume(folder.path) for _ in range(3)]
    assert [run.generation for run in later] == [2, 3, 4]
    later[-1].check_fence()
    for run in (folder, *later[:-1]):
        with pytest.raises(FencedError):
            run.check_fence()


def test_files_of_file_systems_are_no_generations(folder: RunFolder) -> None:
    for name in (".DS_Store", "._1", ".nfs00000000012ab"):
        (folder.path / "generations" / name).touch()
    assert RunFolder.resume(folder.path).generation == folder.generation + 1


def test_what_a_crash_left_beyond_the_checkpoint_is_cut_back(folder: RunFolder) -> None:
    """The steps after the checkpoint are taken again; their first records must not stay."""
    records = Records(folder, 0)
    for step in range(6):
        records.append(record(step))
        if step % 2:
            records.add_values(step + 1, 0.5 * step, EVALUATION)
            records.flush()
            if step < 5:
                save(folder, checkpoint(step + 1), keep=2)
    records.append(record(6))  # never flushed
    with (folder.path / "eval.jsonl").open("a") as file:
        file.write('{"step": 8, "accur')

    found = load_newest(folder.path)
    assert found is not None
    resumed = RunFolder.resume(folder.path)
    records = Records(resumed, found.progress.step)
    assert read_steps(folder.path)["step"].to_pylist() == [0, 1, 2, 3]
    assert [line["step"] for line in read_evaluations(folder.path)] == [2, 4]
    for step in range(4, 6):
        records.append(record(step))
    records.add_values(6, 3.0, EVALUATION)
    records.flush()
    assert read_steps(folder.path)["step"].to_pylist() == list(range(6))
    lines = (folder.path / "eval.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4, 6]


def write_part(folder: RunFolder, steps: range, staleness: int) -> None:
    """As a trainer does that does not know yet that another one took over."""
    rows = [replace(record(step), staleness=staleness) for step in steps]
    columns = {name: [getattr(row, name) for row in rows] for name in SCHEMA.names}
    path = folder.path / "steps" / f"part-{steps.stop:09d}-{folder.generation}.parquet"
    pq.write_table(pa.table(columns, schema=SCHEMA), path)


def test_what_an_older_trainer_wrote_again_gives_way_to_the_newer_rows(folder: RunFolder) -> None:
    older = RunFolder.resume(folder.path)
    newer = RunFolder.resume(folder.path)
    write_part(folder, range(4), staleness=1)
    write_part(newer, range(4, 8), staleness=3)
    write_part(older, range(2, 6), staleness=2)
    write_part(older, range(6, 8), staleness=2)  # the same end as the newer part
    records = Records(newer, 8)
    for step in range(8, 10):
        records.append(replace(record(step), staleness=3))
    records.flush()
    assert read_steps(folder.path)["step"].to_pylist() == list(range(10))
    records.finish({})
    steps = pq.read_table(folder.path / "steps.parquet")
    assert steps["step"].to_pylist() == list(range(10))
    assert steps["staleness"].to_pylist() == [1, 1, 2, 2, 3, 3, 3, 3, 3, 3]
    assert np.concatenate(list(read_selected(folder.path))).size == 20


@pytest.mark.parametrize(("lost", "named"), [(0, "steps 0 to 2"), (1, "steps 3 to 5")])
def test_steps_that_are_missing_are_named(folder: RunFolder, lost: int, named: str) -> None:
    parts = [range(3), range(3, 6), range(6, 7)]
    for number, part in enumerate(parts):
        if number != lost:
            write_part(folder, part, staleness=0)
    with pytest.raises(RunFolderError, match=f"{named} are missing in steps/"):
        Records(folder, 7).finish({})
    assert not (folder.path / "summary.json").exists()


def test_evaluations_are_lines_of_the_contract(folder: RunFolder) -> None:
    Records(folder, 0).add_values(50, 1.23456, EVALUATION)
    (line,) = read_evaluations(folder.path)
    assert line == {"step": 50, "seconds": 1.235, **EVALUATION}
    names = ["step", "seconds", "metric", "accuracy", "loss", "worst_class_accuracy"]
    assert list(line) == names


def test_steps_parquet_has_exactly_the_columns_of_the_contract(folder: RunFolder) -> None:
    """A share that nobody knows is null, a share of nothing is zero; rows are in step order."""
    records = Records(folder, 0)
    rows = [record(0, None), record(1), record(2, 0.25)]
    for row in rows:
        records.append(row)
        records.flush()
    unfinished = read_steps(folder.path)
    records.finish({"steps": 3})
    steps = pq.read_table(folder.path / "steps.parquet")
    assert [(field.name, field.type) for field in steps.schema] == CONTRACT
    assert steps.equals(unfinished)
    expected = [{**vars(row), "indices": row.indices.tolist()} for row in rows]
    assert steps.to_pylist() == expected
    assert json.loads((folder.path / "summary.json").read_text()) == {"steps": 3}


def test_a_run_without_a_step_has_the_columns_too(folder: RunFolder) -> None:
    Records(folder, 0).finish({})
    steps = pq.read_table(folder.path / "steps.parquet")
    assert [(field.name, field.type) for field in steps.schema] == CONTRACT
    assert len(steps) == 0


def test_selected_sha256_is_over_little_endian_int64_in_training_order() -> None:
    rows = [np.array([3, 2**40], np.int64), np.array([0], np.int64)]
    expected = hashlib.sha256(struct.pack("<3q", 3, 2**40, 0)).hexdigest()
    assert selected_sha256(rows) == expected
    assert selected_sha256([np.array([2**40, 3], np.int64), rows[1]]) != expected


def test_weights_sha256_is_over_the_state_dict_in_name_order() -> None:
    linear, norm = nn.Linear(2, 3), nn.BatchNorm1d(3)
    model = nn.ModuleDict({"b": linear, "ä": norm})
    digest = hashlib.sha256()
    for name in ("b.bias", "b.weight"):
        digest.update(name.encode() + b"\0")
        values = model.state_dict()[name].flatten().tolist()
        digest.update(struct.pack(f"<{len(values)}f", *values))
    digest.update("ä.bias".encode() + b"\0" + bytes(12))
    digest.update("ä.num_batches_tracked".encode() + b"\0" + bytes(8))
    for name, values in {
        "running_mean": (0, 0, 0),
        "running_var": (1, 1, 1),
        "weight": (1, 1, 1),
    }.items():
        digest.update(f"ä.{name}".encode() + b"\0" + struct.pack("<3f", *values))
    assert weights_sha256(model) == digest.hexdigest()


def test_batchnorm_statistics_and_each_name_of_a_tied_weight_count() -> None:
    norm = nn.BatchNorm1d(3)
    before = weights_sha256(norm)
    with torch.no_grad():
        norm.running_var[1] += 1e-3
    assert weights_sha256(norm) != before
    tied = TiedModel()
    before = weights_sha256(tied)
    del tied.head.weight
    assert weights_sha256(tied) != before


class TiedModel(nn.Module):
    """A head that is its embedding, as language models have it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
        self.head.weight = self.embedding.weight


@pytest.mark.parametrize(
    "make", [TiedModel, lambda: resnet18_small(input_shape=(1, 16, 16), classes=4, width=4)]
)
def test_the_final_weights_are_taken_by_load_state_dict(
    folder: RunFolder, make: Callable[[], nn.Module]
) -> None:
    model, twin = make(), make()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.add_(3)
    checkpoints.save_model(folder, model)
    twin.load_state_dict(load_file(folder.path / "model.safetensors"))
    assert weights_sha256(twin) == weights_sha256(model)
    RunFolder.resume(folder.path)
    with pytest.raises(FencedError):
        checkpoints.save_model(folder, make())
