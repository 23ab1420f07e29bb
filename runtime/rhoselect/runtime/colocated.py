"""``--workers 0`` with several ``trainer.devices``: each has a process that scores its share of a
window and trains on its share of the batch. This process is the lead, rank 0: its trainer is that
of a run in one process, and writes all that is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rhoselect.devices import check_ranks
from rhoselect.errors import RunStopped
from rhoselect.inputs import RunInputs
from rhoselect.ranks.gloo import GlooGroup
from rhoselect.ranks.scores import SharedQueue
from rhoselect.runtime.crew import Crew, crew_of
from rhoselect.runtime.local import run_here
from rhoselect.runtime.run import Watch
from rhoselect.trainer.control import TrainerControl
from rhoselect.trainer.runfolder import RunFolder


class LeadControl(TrainerControl):
    """A `TrainerControl` of a lead: when its trainer goes on, the followers do. One that is asked
    to end stops the run, with a checkpoint."""

    def __init__(self, crew: Crew) -> None:
        super().__init__()
        self._crew = crew

    def poll(self, step: int, save: Callable[[], Path], check_fence: Callable[[], object]) -> bool:
        """See `TrainerControl.poll`. Raises LostRankError if a follower has ended."""

        def check() -> None:
            check_fence()
            self._crew.check()
            self._stopping |= self._crew.asked is not None

        check()
        stops = super().poll(step, save, check)
        if not stops:
            self._crew.go(step)
        elif self._crew.asked is not None:
            save()
        return stops


def run_colocated(inputs: RunInputs, folder: RunFolder, watch: Watch) -> dict[str, Any]:
    """Run to the end and return the summary. Raises RunError, naming the rank, if one is lost."""
    config = inputs.config
    check_ranks(config)
    with crew_of(config, folder) as crew:
        crew.gather()
        timeout_s = config.cluster.rank_timeout_s
        group = GlooGroup(0, config.trainer.devices, crew.meeting, timeout_s)
        queue, control = SharedQueue(config.queue.lease_s, group), LeadControl(crew)
        try:
            return run_here(inputs, folder, watch, queue, control, group)
        except RunStopped as stopped:
            if crew.asked is None:
                raise
            asked = RunStopped(f"{crew.asked} was asked to end (SIGTERM): {stopped}")
            asked.exit_code = 1
            raise asked from None
