"""The other end of a session's queue and snapshots on Ray: scorer actors for each generation."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from rhoselect.config import Config
from rhoselect.launch.cluster import endpoints_of, failure, scorers
from rhoselect.launch.service.runs import Ends
from rhoselect.queue.redis import RedisQueue
from rhoselect.trainer.runfolder import RunFolder


@contextmanager
def on_ray(config: Config, folder: RunFolder, url: str, workers: int) -> Iterator[Ends]:
    """``workers`` scorer actors on the cluster that this process has joined, a queue at ``url``."""
    with ExitStack() as stack:
        endpoints = endpoints_of(config, folder, url)
        stack.callback(shutil.rmtree, endpoints.folder, ignore_errors=True)
        working = stack.enter_context(scorers(config, folder, endpoints, workers))
        queue = endpoints.queue(config, folder)
        assert isinstance(queue, RedisQueue), "only windows are served"
        stack.callback(queue.disconnect)
        yield queue, endpoints.snapshots(writer=True), _Guard(folder, working)


class _Guard:
    """The fence of a generation whose scorers are all well."""

    def __init__(self, folder: RunFolder, working: list[Any]) -> None:
        self._folder, self._working = folder, working

    def check_fence(self) -> None:
        """Raise FencedError after a newer generation, or what a scorer failed with."""
        self._folder.check_fence()
        failed, _ = ray.wait(self._working, timeout=0)
        try:
            ray.get(failed)
        except (RayTaskError, RayActorError) as error:
            who = f"scorer {self._working.index(failed[0])}"
            how = "a new session, from a step that the loop has the weights of"
            raise failure(error, who, self._folder, how) from None
