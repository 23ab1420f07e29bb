"""Every lag over several scorers in one process: runs end, without a reminder."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rhoselect.inputs import RunInputs
from rhoselect.scorer.build import build_idle_scorer, build_scorer
from rhoselect.scorer.loop import Scorer
from rhoselect.selector.windows import Windows
from rhoselect.trainer.records import read_steps
from rhoselect.types import TopK
from threaded import run

WINDOWS = [
    (3, ["selection.lag=0", "scorer.prefetch=4"]),
    (1, ["selection.lag=0", "trainer.scores=false", "selection.chunk=64"]),
    (3, ["selection.lag=1", "selection.rescore=scorers", "trainer.scores=false"]),
    (1, ["selection.lag=1", "selection.rescore=scorers", "scorer.prefetch=1"]),
    (3, ["selection.lag=2", "selection.rescore=scorers", "scorer.prefetch=4"]),
    (3, ["selection.lag=2", "selection.rescore=trainer", "selection.shortlist=8"]),
    (1, ["selection.lag=2", "trainer.publish_every=4", "scorer.prefetch=3"]),
]


def without_device(inputs: RunInputs, _device: Any, slot: int, _lanes: int, *ends: Any) -> Scorer:
    """The scorer of a trainer's process without the device that scores."""
    return build_idle_scorer(inputs, slot, *ends)


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

    def noted(
        self: Windows, window: int, started: float, moved: float, post: Callable[[], None]
    ) -> int:
        seen.append(window)
        return remind(self, window, started, moved, post)

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


FROZEN = {
    "the trainer scores it": (build_scorer, 0, 16),
    "at lag 1": (build_scorer, 1, 16),
    "the other scorer does": (without_device, 0, 16),
    "the other at lag 1": (without_device, 1, 16),
    "one that has scored nothing": (without_device, 0, 64),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("build", "lag", "chunk"), FROZEN.values(), ids=FROZEN)
def test_a_ticket_of_a_frozen_scorer_is_scored_after_its_lease(
    tiny_config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    build: Callable[..., Scorer],
    lag: int,
    chunk: int,
) -> None:
    """Though the other one holds a ticket of a later window, whose weights do not exist yet, and
    though the trainer may be in a process that cannot score."""
    monkeypatch.setattr("rhoselect.selector.windows.STALL_S", 600.0)
    sets = [f"selection.lag={lag}", f"selection.chunk={chunk}", "selection.rescore=scorers"]
    sets += ["trainer.steps=4"]
    alone, _ = run(tiny_config, tmp_path / "0", 0, sets)
    monkeypatch.setattr("rhoselect.trainer.build.build_scorer", build)
    sets += ["trainer.scores=false", "scorer.prefetch=1", "queue.lease_s=0.2", "queue.timeout_s=20"]
    shared, _ = run(tiny_config, tmp_path / "shared", 2, sets, frozen=1)
    assert hashes(shared) == hashes(alone)
