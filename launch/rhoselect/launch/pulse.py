"""Whether the scorers answer, and how often they were started again."""

from __future__ import annotations

import time
from typing import Any

import ray
from ray.exceptions import RayActorError

from rhoselect.metrics import WorkerState

ASK_EVERY_S = 1.0
SILENT_S = 5.0
"""A scorer answers within milliseconds, unless it hangs or is being started."""


class Pulse:
    """Asks every scorer for its process number, and never waits for the answer."""

    def __init__(self, scorers: list[Any]) -> None:
        self._scorers = scorers
        self._asked: dict[int, tuple[float, Any]] = {}
        self._processes: dict[int, int] = {}
        self.states: dict[int, WorkerState] = dict.fromkeys(range(len(scorers)), "starting")
        self.restarts = dict.fromkeys(range(len(scorers)), 0)

    def look(self) -> None:
        """Bring ``states`` and ``restarts``, by slot, up to date."""
        now = time.monotonic()
        for slot, scorer in enumerate(self._scorers):
            if slot not in self._asked:
                self._asked[slot] = now, scorer.process.remote()
            asked, answer = self._asked[slot]
            if ray.wait([answer], timeout=0)[0]:
                self._hear(slot, answer)
                if now - asked > ASK_EVERY_S:
                    del self._asked[slot]
            elif slot in self._processes and now - asked > SILENT_S:
                self.states[slot] = "silent"

    def _hear(self, slot: int, answer: Any) -> None:
        try:
            process: int = ray.get(answer)
        except RayActorError:
            self.states[slot] = "stopped"
            return
        self.restarts[slot] += self._processes.setdefault(slot, process) != process
        self._processes[slot] = process
        self.states[slot] = "running"
