"""How long the trainer waits for a window: as long as scores come, by a clock of the test's own."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from queue_helpers import chunk_scores

from rhoselect.config import load
from rhoselect.errors import WaitError
from rhoselect.metrics import Metrics
from rhoselect.plan import Plan
from rhoselect.queue.memory import MemoryQueue
from rhoselect.selector import windows
from rhoselect.selector.windows import Windows
from rhoselect.types import Ticket, TopK

TIMEOUT_S, CHUNKS = 600.0, 4


class Slow(MemoryQueue):
    """A scorer pushes a chunk of ``pushes`` whenever 400 seconds have passed."""

    def __init__(self, pushes: int) -> None:
        super().__init__(lease_s=1e9)
        self.seconds, self._todo = 0.0, list(range(pushes))

    def pop(self, window: int, k: int, timeout_s: float, shortlist: bool = False) -> TopK | None:
        if timeout_s:
            self.seconds += 400.0
            if self._todo:
                chunk = self._todo.pop(0)
                self.push(Ticket(window, chunk, 0), chunk_scores({16 * chunk: 1.0}))
        return super().pop(window, k, 0.0, shortlist)


class Idle:
    """A scorer that never scores, and a fence that never closes."""

    def score_one(self) -> bool:
        return False

    def score_ahead(self, window: int, own_lane: bool) -> bool:
        return False

    def score_shortlist(self) -> bool:
        return False

    def share(self, slot: int, lanes: int) -> None:
        pass

    def check_fence(self) -> None:
        pass


@pytest.mark.parametrize("pushes", [CHUNKS, CHUNKS - 1])
def test_a_slow_scorer_is_waited_for_and_a_silent_one_is_not(
    tiny_config: Path, monkeypatch: pytest.MonkeyPatch, pushes: int
) -> None:
    queue = Slow(pushes)
    monkeypatch.setattr(windows, "time", SimpleNamespace(monotonic=lambda: queue.seconds))
    config = load(tiny_config, [f"queue.timeout_s={TIMEOUT_S}", "trainer.scores=false"])
    plan = Plan(0, n=1000, n_B=16 * CHUNKS, chunk=16)
    inputs = SimpleNamespace(config=config, plan=plan)
    waiting = Windows(inputs, queue, Idle(), Idle(), Metrics(), workers=1)
    waiting.open_from(0)
    if pushes == CHUNKS:
        assert len(waiting.wait(0, CHUNKS).positions) == CHUNKS
        assert queue.seconds > TIMEOUT_S
    else:
        with pytest.raises(WaitError, match="no scores for 800 s"):
            waiting.wait(0, CHUNKS)
