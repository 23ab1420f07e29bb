"""Every mode over several scorers in one process: runs end, without a reminder, within limits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rhoselect import config as configuration
from rhoselect.launch.wiring import build_scorer, build_trainer, prepare, run_trainer
from rhoselect.metrics import Metrics
from rhoselect.queue.memory import MemoryQueue
from rhoselect.queue.memory_stream import MemoryStream
from rhoselect.snapshots.local import LocalStore
from rhoselect.trainer.records import read_steps
from rhoselect.trainer.runfolder import RunFolder
from rhoselect.trainer.windows import Windows, lanes
from rhoselect.types import ChunkScores, Ticket

WINDOWS = [
    (3, ["selection.lag=0", "scorer.prefetch=4"]),
    (1, ["selection.lag=0", "trainer.scores=false", "selection.chunk=64"]),
    (3, ["selection.lag=1", "selection.rescore=scorers", "trainer.scores=false"]),
    (1, ["selection.lag=1", "selection.rescore=scorers", "scorer.prefetch=1"]),
    (3, ["selection.lag=2", "selection.rescore=scorers", "scorer.prefetch=4"]),
    (3, ["selection.lag=2", "selection.rescore=trainer", "selection.shortlist=8"]),
    (1, ["selection.lag=2", "trainer.publish_every=4", "scorer.prefetch=3"]),
]
AUTO = ["selection.lag=auto", "selection.max_lag=2", "trainer.steps=120"]
STREAM = ["selection.mode=stream"]
SMALLEST = ["stream.ahead=1", "stream.max_age=1", "stream.capacity=40"]


class CountedStream(MemoryStream):
    """A rolling queue that notes how full it ever was."""

    most = 0

    def push(self, ticket: Ticket, scores: ChunkScores) -> bool:
        counted = super().push(ticket, scores)
        self.most = max(self.most, self.stats().points)
        return counted


def run(
    config: Path, folder: Path, workers: int, sets: list[str]
) -> tuple[dict[str, Any], MemoryQueue | CountedStream]:
    """Train with ``workers`` scorers in threads; whatever one of them raises is raised here."""
    prepared = prepare(configuration.load(config, sets))
    resolved, snapshots = prepared.config, LocalStore()
    queue: MemoryQueue | CountedStream = MemoryQueue(lease_s=600)
    if resolved.selection.mode == "stream":
        stream = resolved.stream
        queue = CountedStream(prepared.plan.chunks, resolved.capacity, stream.ahead, stream.max_age)
    run_folder = RunFolder.create(folder, resolved)
    trainer = build_trainer(prepared, run_folder, queue, snapshots, Metrics(), workers)
    share, stop, failures = lanes(resolved, workers), threading.Event(), []

    def guarded(score: Callable[[threading.Event], None]) -> None:
        try:
            score(stop)
        except BaseException as error:
            failures.append(error)

    scorers = [
        build_scorer(prepared, slot, share, queue, snapshots, Metrics()) for slot in range(workers)
    ]
    threads = [threading.Thread(target=guarded, args=(scorer.run,)) for scorer in scorers]
    for thread in threads:
        thread.start()
    try:
        summary = run_trainer(prepared, run_folder, trainer, workers)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures, failures
    return summary, queue


def hashes(summary: dict[str, Any]) -> tuple[str, str]:
    return summary["selected_sha256"], summary["weights_sha256"]


def assert_no_point_twice_in_a_step(folder: Path) -> None:
    for chosen in read_steps(folder)["indices"].to_pylist():
        assert len(set(chosen)) == len(chosen)


@pytest.fixture
def reminders(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The windows that a trainer waited for in vain, for longer than a busy machine makes it."""
    monkeypatch.setattr("rhoselect.trainer.windows.RESEND_S", 30.0)
    seen: list[int] = []
    remind = Windows._remind

    def noted(self: Windows, window: int, waited_s: float, post: Callable[[], None]) -> None:
        seen.append(window)
        remind(self, window, waited_s, post)

    monkeypatch.setattr(Windows, "_remind", noted)
    return seen


@pytest.mark.parametrize(("workers", "sets"), WINDOWS, ids=lambda v: str(v))
def test_a_fixed_lag_gives_the_serial_result_without_a_reminder(
    tiny_config: Path, tmp_path: Path, reminders: list[int], workers: int, sets: list[str]
) -> None:
    alone, _ = run(tiny_config, tmp_path / "0", 0, sets)
    shared, queue = run(tiny_config, tmp_path / "shared", workers, sets)
    assert hashes(shared) == hashes(alone)
    assert not reminders
    assert queue.stats().windows == 0, "every window was closed"
    assert_no_point_twice_in_a_step(tmp_path / "shared")


@pytest.mark.parametrize("workers", [0, 3])
def test_auto_lag_stays_within_its_bound(
    tiny_config: Path, tmp_path: Path, reminders: list[int], workers: int
) -> None:
    summary, _ = run(tiny_config, tmp_path / "run", workers, AUTO)
    assert summary["max_staleness_steps"] <= 2
    assert not reminders
    assert not summary["exact"]
    assert (tmp_path / "run" / "auto.jsonl").exists()


@pytest.mark.parametrize("function", ["reducible_loss", "irreducible_loss"])
@pytest.mark.parametrize("more", [[], SMALLEST], ids=["defaults", "smallest"])
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_stream_stays_within_its_bounds(
    tiny_config: Path, tmp_path: Path, workers: int, more: list[str], function: str
) -> None:
    """Scores without weights never grow too old: such a run goes on beyond ``max_age`` steps."""
    sets = [*STREAM, *more, f"selection.function={function}", "trainer.steps=40"]
    summary, queue = run(tiny_config, tmp_path / "run", workers, sets)
    config = configuration.load(tiny_config, sets)
    assert isinstance(queue, CountedStream)
    assert queue.most <= config.capacity
    assert summary["max_staleness_steps"] <= config.stream.max_age
    assert not summary["exact"]
