"""A run over several ranks in forks of the warm interpreter, without the orders of ``rhoctl``. As a
program, ``ranked.py FOLDER RANK MEETING MODE``, it is one of the ranks."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

from rhoselect.config import load
from rhoselect.inputs import open_inputs
from rhoselect.queue.memory import MemoryQueue
from rhoselect.ranks import Group
from rhoselect.ranks.fast import group_of
from rhoselect.ranks.picks import give
from rhoselect.ranks.scores import SharedQueue
from rhoselect.runtime.local import run_here
from rhoselect.selector import SelectedBatch
from rhoselect.trainer.build import build_follower
from rhoselect.trainer.control import TrainerControl
from rhoselect.trainer.runfolder import RunFolder, stored_config
from support import ended_well
from warm import Process


class Giving(TrainerControl):
    """That of a lead whose followers do not score."""

    def __init__(self, group: Group) -> None:
        super().__init__()
        self._group = group

    def chosen(self, batch: SelectedBatch) -> None:
        give(self._group, batch.points)


def run(config: Path, folder: Path, devices: int, sets: list[str], mode: str = "colocated") -> None:
    """Train with so many ranks in a new run folder."""
    keys = [*sets, f"trainer.devices={devices}", f"cluster.mode={mode}"]
    inputs = open_inputs(load(config, keys))
    RunFolder.create(folder, inputs.config, inputs.sha256)
    meeting = folder.with_name(f"{folder.name}.meeting")
    ranks = [
        Process(__file__, str(folder), str(rank), str(meeting), mode) for rank in range(devices)
    ]
    for rank in ranks:
        ended_well(rank)


def main(folder: Path, rank: int, meeting: Path, mode: str) -> None:
    inputs, run_folder = open_inputs(stored_config(folder)), RunFolder.newest(folder)
    config = inputs.config
    group = group_of(config, rank, meeting)
    split = mode == "split"
    shared = SharedQueue(config.queue.lease_s, group)
    if rank == 0:
        queue = MemoryQueue(config.queue.lease_s) if split else shared
        control = Giving(group) if split else TrainerControl()
        run_here(inputs, run_folder, nullcontext, queue, control, group)
        return
    follower = build_follower(inputs, run_folder, None if split else shared, group)
    follower.begin(0)
    for step in range(config.trainer.steps):
        follower.step(step)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
