"""How long the trainer waits for a window: as long as scores come, by a clock of the test's own."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from queue_helpers import chunk_scores

from rhoselect.config import load
from rhoselect.errors import RunError, WaitError
from rhoselect.metrics import Metrics
from rhoselect.plan import Plan
from rhoselect.queue.memory import MemoryQueue
from rhoselect.selector import windows
from rhoselect.selector.windows import Windows
from rhoselect.types import Ticket, TopK

TIMEOUT_S, CHUNKS = 600.0, 4


class Slow(MemoryQueue):
    """A scorer pushes a chunk of ``pushes`` whenever 400 seconds have passed; each look takes
    ``pause_s``."""

    def __init__(self, pushes: int, pause_s: float = 400.0) -> None:
        super().__init__(lease_s=1e9)
        self.seconds, self.pause_s = 0.0, pause_s
        self.have(pushes)

    def have(self, pushes: int) -> None:
        self._todo = list(range(pushes))

    def pop(self, window: int, k: int, timeout_s: float, shortlist: bool = False) -> TopK | None:
        if timeout_s:
            self.seconds += self.pause_s
            if self._todo and self.seconds % 400.0 == 0:
                chunk = self._todo.pop(0)
                self.push(Ticket(window, chunk, window), chunk_scores({16 * chunk: 1.0}))
        return super().pop(window, k, 0.0, shortlist)


class Idle:
    """A scorer that never scores, and a fence that never closes."""

    asked = 0

    def score_one(self) -> bool:
        self.asked += 1
        return False

    def score_ahead(self, window: int, own_lane: bool) -> bool:
        return False

    def score_shortlist(self) -> bool:
        return False

    def share(self, slot: int, lanes: int) -> None:
        pass

    def check_fence(self) -> None:
        pass


def windows_on(
    queue: Slow, scorer: Idle, tiny_config: Path, monkeypatch: pytest.MonkeyPatch
) -> Windows:
    monkeypatch.setattr(windows, "time", SimpleNamespace(monotonic=lambda: queue.seconds))
    sets = [f"queue.timeout_s={TIMEOUT_S}", "queue.lease_s=500", "trainer.scores=false"]
    plan = Plan(0, n=1000, n_B=16 * CHUNKS, chunk=16)
    inputs = SimpleNamespace(config=load(tiny_config, sets), plan=plan)
    return Windows(inputs, queue, scorer, scorer, Metrics(), workers=1)


@pytest.mark.parametrize("pushes", [CHUNKS, CHUNKS - 1])
def test_a_slow_scorer_is_waited_for_and_a_silent_one_is_not(
    tiny_config: Path, monkeypatch: pytest.MonkeyPatch, pushes: int
) -> None:
    queue = Slow(pushes)
    waiting = windows_on(queue, Idle(), tiny_config, monkeypatch)
    waiting.open_from(0)
    if pushes == CHUNKS:
        assert len(waiting.wait(0, CHUNKS).positions) == CHUNKS
        assert queue.seconds > TIMEOUT_S
    else:
        with pytest.raises(WaitError, match="no scores for 800 s"):
            waiting.wait(0, CHUNKS)


def test_slow_scorers_are_left_alone_once_it_is_known_how_slow_they_are(
    tiny_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With trainer.scores = false the trainer scores for scorers that are gone alone."""
    queue, scorer = Slow(CHUNKS, pause_s=2.0), Idle()
    waiting = windows_on(queue, scorer, tiny_config, monkeypatch)
    waiting.open_from(0)
    waiting.wait(0, CHUNKS)
    assert scorer.asked > 0, "nothing had come for 5 s"
    scorer.asked = 0
    queue.have(CHUNKS)
    waiting.wait(1, CHUNKS)
    assert scorer.asked == 0
    queue.have(0)
    with pytest.raises(WaitError):
        waiting.wait(2, CHUNKS)
    assert scorer.asked > 0, "nothing had come for a lease"


def test_scores_by_another_version_are_refused(
    tiny_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = Slow(0)
    queue.open(0, 7, 1)
    queue.push(Ticket(0, 0, 7), chunk_scores({1: 1.0}))
    waiting = windows_on(queue, Idle(), tiny_config, monkeypatch)
    with pytest.raises(RunError, match=r"window 0: .* version 7, allowed 0 alone"):
        waiting.wait(0, 1)
