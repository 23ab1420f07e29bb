"""The lead of several ``trainer.devices``: rank 0, whose trainer is that of a run on one device. It
alone writes. The followers are processes on its machine, or actors on any of a cluster.

*Colocated*, all ranks score and train: they get the order for a step before its window is scored.
If there are scorers, too, all get their chunks from the queue's server, and pick the same points.
*Split*, scorers score, and the followers train: they get it with the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rhoselect.config import Config
from rhoselect.errors import RunStopped
from rhoselect.ranks import Group
from rhoselect.ranks.fast import group_of
from rhoselect.ranks.picks import give
from rhoselect.runtime.crew import Crew, Mode, Started, crew_of
from rhoselect.runtime.followers import followers_here
from rhoselect.selector import SelectedBatch
from rhoselect.trainer.control import TrainerControl
from rhoselect.trainer.runfolder import RunFolder


class LeadControl(TrainerControl):
    """A `TrainerControl` of a lead: when its trainer goes on, the followers do. One that is asked
    to end stops the run, with a checkpoint. Before it is ``leading`` it has no followers."""

    def __init__(self) -> None:
        super().__init__()
        self._crew: Crew | None = None
        self._split: Group | None = None

    @contextmanager
    def leading(
        self,
        config: Config,
        folder: RunFolder,
        mode: Mode,
        start: Callable[[Config, RunFolder, Mode], Started] = followers_here,
        workers: int = 0,
        url: str = "",
    ) -> Iterator[Group]:
        """The group of a run's ranks for the block; ``start`` makes the followers, which are told
        the ``url`` of the queue that they share with ``workers`` scorers, unless they know it.
        Raises RunError, naming the rank, if one is lost, and what ``start`` raises."""
        with (
            start(config, folder, mode) as (meeting, followers),
            crew_of(config, folder, followers) as crew,
        ):
            crew.gather()
            group = group_of(config, 0, meeting)
            group.gathered(f"{workers} {url}".encode())  # not an argument: it may hold a password
            group.calls, group.check = crew.call, crew.check
            self._crew, self._split = crew, group if mode == "split" else None
            try:
                yield group
            except RunStopped as stopped:
                if crew.asked is None:
                    raise
                asked = RunStopped(f"{crew.asked} was asked to end (SIGTERM): {stopped}")
                asked.exit_code = 1
                raise asked from None
            finally:
                group.leave()

    def begins(self, step: int) -> None:
        """See `TrainerControl.begins`."""
        assert self._crew is not None, "a trainer begins while it leads"
        self._crew.begin(step)

    def poll(self, step: int, save: Callable[[], Path], check_fence: Callable[[], object]) -> bool:
        """See `TrainerControl.poll`. Raises LostRankError if a follower has ended."""
        crew = self._crew
        assert crew is not None, "a trainer polls while it leads"

        def check() -> None:
            check_fence()
            crew.check()
            self._stopping |= crew.asked is not None

        check()
        stops = super().poll(step, save, check)
        if stops and crew.asked is not None:
            save()
        if not stops and self._split is None:
            crew.go(step)
        return stops

    def check(self) -> None:
        """See `TrainerControl.check`."""
        if self._crew is not None:
            self._crew.check()

    def share(self, workers: int) -> None:
        """Tell the followers, if they are here, that there are so many scorers from now on."""
        if self._crew is not None:
            self._crew.share(workers)

    def chosen(self, batch: SelectedBatch) -> None:
        """See `TrainerControl.chosen`."""
        if self._crew is not None and self._split is not None:
            self._crew.go(batch.step)
            give(self._split, batch.points)
