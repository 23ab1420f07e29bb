"""Scorers in threads of the loop's own process: torch computes them at the same time."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from rhoselect.errors import ConfigError
from rhoselect.inputs import SelectionInputs
from rhoselect.metrics import Metrics
from rhoselect.models.replica import Replica
from rhoselect.queue.memory import MemoryQueue
from rhoselect.scorer.loop import Scorer
from rhoselect.selector.fence import Fence
from rhoselect.snapshots.local import LocalStore


class Helpers:
    """A scorer for each of ``replicas``, from the start until ``close``. As a fence it is that of
    the loop, and raises what ended a scorer."""

    def __init__(
        self,
        inputs: SelectionInputs,
        replicas: Sequence[Replica],
        queue: MemoryQueue,
        snapshots: LocalStore,
        fence: Fence,
    ) -> None:
        self._fence, self._stop = fence, threading.Event()
        self._failed: list[BaseException] = []
        lanes, self._threads = inputs.config.lanes(len(replicas)), list[threading.Thread]()
        for slot, replica in enumerate(replicas):
            scorer = Scorer(inputs, replica, queue, snapshots, Metrics(), slot, lanes)
            name = f"scorer-{slot}"
            self._threads.append(threading.Thread(target=self._run, args=(scorer,), name=name))
            self._threads[-1].daemon = True  # a loop that ends by an exception does not wait
            self._threads[-1].start()

    def _run(self, scorer: Scorer) -> None:
        try:
            scorer.run(self._stop)
        except BaseException as error:  # it is raised in the loop
            self._failed.append(error)

    def check_fence(self) -> None:
        """Raise what ended a scorer, or as the fence."""
        if self._failed:
            raise self._failed[0]
        self._fence.check_fence()

    def close(self) -> None:
        """End the scorers."""
        self._stop.set()
        for thread in self._threads:
            thread.join()


def check_threads(inputs: SelectionInputs, replicas: Sequence[Replica]) -> None:
    """Raise ConfigError for scorers that cannot work in threads beside a loop."""
    passes, device = inputs.scoring.needs.passes, replicas[0].device
    if len(replicas) > 1 and (passes or device.type != "cpu"):
        what = "of stochastic passes, which share random numbers" if passes else f"on {device}"
        raise ConfigError(
            f"workers: got {len(replicas) - 1} for scorers {what}, allowed 0: threads score on the"
            " CPU, by one forward; set workers = 0, or give the address of rhoctl serve --workers N"
        )
