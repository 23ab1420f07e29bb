"""Every mode over several scorers in one process: runs end, without a reminder, within limits."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rhoselect import config as configuration
from rhoselect.selector.windows import Windows
from rhoselect.trainer.records import read_steps
from rhoselect.types import TopK
from threaded import CountedStream, run

WINDOWS = [
    (3, ["selection.lag=0", "scorer.prefetch=4"]),
    (1, ["selection.lag=0", "trainer.scores=false", "selection.chunk=64"]),
    (3, ["selection.lag=1", "selection.rescore=scorers", "trainer.scores=false"]),
    (1, ["selection.lag=1", "selection.rescore=scorers", "scorer.prefetch=1"]),
    (3, ["selection.lag=2", "selection.rescore=scorers", "scorer.prefetch=4"]),
    (3, ["selection.lag=2", "selection.rescore=trainer", "selection.shortlist=8"]),
    (1, ["selection.lag=2", "trainer.publish_every=4", "scorer.prefetch=3"]),
]
STREAM = ["selection.mode=stream"]
SMALLEST = ["stream.ahead=1", "stream.max_age=1", "stream.capacity=40"]


def hashes(summary: dict[str, Any]) -> tuple[str, str]:
    return summary["selected_sha256"], summary["weights_sha256"]


def assert_no_point_twice_in_a_step(folder: Path) -> None:
    for chosen in read_steps(folder)["indices"].to_pylist():
        assert len(set(chosen)) == len(chosen)


@pytest.fixture
def reminders(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The windows that a trainer waited for in vain, for longer than a busy machine makes it."""
    monkeypatch.setattr("rhoselect.selector.windows.RESEND_S", 30.0)
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


@pytest.mark.parametrize("chunk", [16, 64])
def test_a_window_that_opens_late_stalls_nobody(
    tiny_config: Path,
    tmp_path: Path,
    reminders: list[int],
    monkeypatch: pytest.MonkeyPatch,
    chunk: int,
) -> None:
    """In one process nobody else would claim what the trainer asked for before it was there."""
    asked: defaultdict[int, threading.Event] = defaultdict(threading.Event)
    open_, wait = Windows._open, Windows.wait

    def late(self: Windows, window: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            assert asked[window].wait(30.0)
        open_(self, window)

    def noted(self: Windows, window: int, k: int) -> TopK:
        asked[window].set()
        return wait(self, window, k)

    monkeypatch.setattr(Windows, "_open", late)
    monkeypatch.setattr(Windows, "wait", noted)
    run(tiny_config, tmp_path / "run", 0, [f"selection.chunk={chunk}"])
    assert len(asked) > 10
    assert not reminders


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
