"""The backends of a session on Ray: a queue, snapshots and scorer actors for each generation."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import ray

from rhoselect.config import Config
from rhoselect.queue.redis import RedisQueue
from rhoselect.runtime.ray.cluster import endpoints_of, scorers
from rhoselect.runtime.ray.fleet import Fleet
from rhoselect.service.served import Backends
from rhoselect.trainer.runfolder import RunFolder

HOW = "a new session, from a step that the loop has the weights of"
"""How a loop goes on after a scorer has failed for good."""
LOOK_S = 5.0  # for a look at the queue


@contextmanager
def on_ray(config: Config, folder: RunFolder, workers: int, url: str) -> Iterator[Backends]:
    """``workers`` scorer actors on the cluster that this process has joined, a queue at ``url``."""
    with ExitStack() as stack:
        endpoints = endpoints_of(config, folder, url)
        stack.callback(shutil.rmtree, endpoints.folder, ignore_errors=True)
        fleet = stack.enter_context(scorers(config, folder, endpoints, workers, HOW))
        queue = endpoints.queue(config, folder)
        assert isinstance(queue, RedisQueue), "only windows are served"
        stack.callback(queue.disconnect)
        status_queue = endpoints.queue(config, folder, timeout_s=LOOK_S)
        assert isinstance(status_queue, RedisQueue)
        stack.callback(status_queue.disconnect)
        yield Backends(
            queue,
            endpoints.snapshots(writer=True),
            _Guard(folder, fleet),
            status_queue,
            scorers=fleet,
        )


class _Guard:
    """A fence that also raises the error of a scorer that failed."""

    def __init__(self, folder: RunFolder, fleet: Fleet) -> None:
        self._folder, self._fleet = folder, fleet

    def check_fence(self) -> None:
        """Raise FencedError if a newer generation took over, or the error of a failed scorer."""
        self._folder.check_fence()
        ended, _ = ray.wait(self._fleet.runs(), timeout=0)
        self._fleet.check(ended)
        self._fleet.look()
