"""Checkpoints that a thread writes while training goes on."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rhoselect.config import Config, DataConfig, TrainerConfig
from rhoselect.errors import FencedError, ModelError, NonFiniteLossError, StorageError
from rhoselect.metrics import Metrics
from rhoselect.models import frozen
from rhoselect.tasks import Classification
from rhoselect.trainer import checkpoint as checkpoints
from rhoselect.trainer.checkpoint import Checkpoint, Progress, checkpoint_paths, load_newest
from rhoselect.trainer.learner import Learner
from rhoselect.trainer.records import Records
from rhoselect.trainer.runfolder import RunFolder
from rhoselect.trainer.saving import Saver
from support import rhoctl

PATIENCE_S = 20.0
Write = Callable[..., None]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", Config(data=DataConfig(path="data")))


@pytest.fixture
def learner() -> Learner:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    return Learner(model, TrainerConfig(), 0, torch.device("cpu"), Classification())


def newest_step(folder: RunFolder) -> int:
    found = load_newest(folder.path)
    return 0 if found is None else found.progress.step


def at_disk(monkeypatch: pytest.MonkeyPatch, write: Write) -> None:
    """Checkpoints reach the disk by ``write``."""
    monkeypatch.setattr(checkpoints, "save_file", write)


@contextmanager
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Event, Event]]:
    """A write says that it began, and goes on when it is let go, as it is at the block's end."""
    begun, go_on = Event(), Event()

    def write(*arguments: object) -> None:
        begun.set()
        go_on.wait(PATIENCE_S)
        save_file(*arguments)  # type: ignore[arg-type]

    at_disk(monkeypatch, write)
    try:
        yield begun, go_on
    finally:
        go_on.set()


def test_training_goes_on_while_a_checkpoint_is_written(
    folder: RunFolder, learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file has the weights of its step, though training has changed them since."""
    expected = {name: tensor.clone() for name, tensor in learner.state_dict().items()}
    with (
        Saver(folder, 2, Metrics()) as saver,
        ThreadPoolExecutor(1) as other,
        slow_disk(monkeypatch) as (begun, _),
    ):
        written = saver.begin(
            Checkpoint(Progress(1), learner.state_dict(), {}, []), learner, Records(folder, 0)
        )
        assert begun.wait(PATIENCE_S)
        with torch.no_grad():
            for parameter in learner.model.parameters():
                parameter += 1.0
        saver.check()  # nothing went wrong so far
        assert newest_step(folder) == 0
        waits = other.submit(saver.settle)
        assert not written.done() and not waits.done()
    found = load_newest(folder.path)
    assert found is not None and found.learner.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found.learner[name], tensor), name


def test_one_checkpoint_is_written_at_a_time(
    folder: RunFolder, learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    records, state = Records(folder, 0), learner.state_dict()
    with (
        Saver(folder, 9, Metrics()) as saver,
        ThreadPoolExecutor(1) as trainer,
        slow_disk(monkeypatch) as (begun, go_on),
    ):
        saver.begin(Checkpoint(Progress(1), state, {}, []), learner, records)
        assert begun.wait(PATIENCE_S)
        second = trainer.submit(
            saver.begin, Checkpoint(Progress(2), state, {}, []), learner, records
        )
        assert not second.done()
        go_on.set()
        second.result(PATIENCE_S).result(PATIENCE_S)
    assert [int(path.stem[-1]) for path in checkpoint_paths(folder.path)] == [1, 2]


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("by", ["check", "settle", "begin", "the end"])
def test_the_error_of_a_write_is_raised_by_the_next_call(
    by: str, folder: RunFolder, learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_disk(monkeypatch, full)
    done, records = Checkpoint(Progress(1), {}, {}, []), Records(folder, 0)

    def train() -> None:
        with Saver(folder, 2, Metrics()) as saver:
            written = saver.begin(done, learner, records)
            assert isinstance(written.exception(PATIENCE_S), StorageError)
            if by == "begin":
                saver.begin(done, learner, records)
            elif by != "the end":
                getattr(saver, by)()

    with pytest.raises(StorageError, match=r"No space left.*--resume"):
        train()
    assert checkpoint_paths(folder.path) == []


def test_a_trainer_that_is_replaced_while_its_thread_writes_publishes_nothing(
    folder: RunFolder, learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*arguments: object) -> None:
        RunFolder.resume(folder.path)
        save_file(*arguments)  # type: ignore[arg-type]

    at_disk(monkeypatch, write)
    with pytest.raises(FencedError), Saver(folder, 2, Metrics()) as saver:
        saver.begin(Checkpoint(Progress(1), {}, {}, []), learner, Records(folder, 0))
    assert newest_step(folder) == 0


def test_an_error_of_the_loop_is_not_hidden_by_that_of_a_write(
    folder: RunFolder, learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_disk(monkeypatch, full)

    def train() -> None:
        with Saver(folder, 2, Metrics()) as saver:
            saver.begin(Checkpoint(Progress(1), {}, {}, []), learner, Records(folder, 0))
            raise NonFiniteLossError("the loop's")

    with pytest.raises(NonFiniteLossError, match="the loop's"):
        train()


@pytest.mark.long
def test_a_full_disk_ends_a_run_with_one_line_and_it_goes_on_later(
    tiny_config: Path, tmp_path: Path
) -> None:
    run, writes = tmp_path / "run", list[int]()

    def second_fails(*arguments: object) -> None:
        writes.append(1)
        full() if len(writes) == 2 else save_file(*arguments)  # type: ignore[arg-type]

    words = (tiny_config, "--run-dir", run, "--workers", "0")
    with pytest.MonkeyPatch.context() as patch:
        at_disk(patch, second_fails)
        result = rhoctl("train", *words, "--set", "trainer.checkpoint_every=4")
    assert (result.code, result.err.count("\n")) == (1, 1) and "No space left" in result.err
    found = load_newest(run)
    assert found is not None and found.progress.step == 4
    resumed = rhoctl("train", "--resume", "--run-dir", run)
    assert resumed.code == 0, resumed.err


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("width", [3, 4])
def test_what_does_not_learn_is_hashed_once(
    width: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And again only if it changed, which torch counts no change of here."""
    model = nn.Sequential(nn.Linear(3, width, dtype=dtype).requires_grad_(False))
    model.append(nn.Linear(width, 2))
    learner = Learner(model, TrainerConfig(), 0, torch.device("cpu"), Classification())
    learner.keep(frozen.Frozen.of(model))
    learner.check_frozen("problem")
    with monkeypatch.context() as patch:
        patch.setattr(frozen, "_sha256", None)
        learner.check_frozen("problem")
    model[0].bias.data[1] *= 1.5
    with pytest.raises(ModelError, match=r"problem: 0\.bias"):
        learner.check_frozen("problem")
