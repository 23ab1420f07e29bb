"""A follower as a program, which the lead starts: ``-m rhoselect.runtime.rank FOLDER GENERATION
RANK LINK MEETING MODE``. LINK is the number of its end of the link, MEETING where the group meets;
MODE: see ``leading``."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

from rhoselect.compute import keep_memory
from rhoselect.config import resolve
from rhoselect.devices import of_rank
from rhoselect.errors import LostRankError, RhoError
from rhoselect.importing import one_line
from rhoselect.inputs import RunInputs, open_inputs
from rhoselect.queue import SelectionQueue
from rhoselect.ranks.fast import group_of
from rhoselect.ranks.gloo import Meeting
from rhoselect.ranks.group import Work
from rhoselect.ranks.scores import SharedQueue
from rhoselect.runtime.crew import Mode, in_mode
from rhoselect.runtime.links import FollowerEnd, Kind
from rhoselect.runtime.queue_address import open_queue
from rhoselect.trainer.build import build_follower
from rhoselect.trainer.runfolder import RunFolder, check_inputs, stored_config


def main() -> int:
    """Follow the lead to the end; 0 if it said so."""
    path, generation, rank = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    meeting, mode = Path(sys.argv[5]), cast(Mode, sys.argv[6])
    for number in (signal.SIGINT, signal.SIGHUP):  # a terminal tells them to the lead, too
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    folder = replace(RunFolder.newest(path), generation=generation)
    config = in_mode(of_rank(resolve(stored_config(path)), rank), mode)
    link = socket.socket(fileno=int(sys.argv[4]))
    lead = FollowerEnd(link, generation, config.cluster.rank_timeout_s)

    def work() -> None:
        inputs = open_inputs(config)
        check_inputs(path, inputs.sha256)
        follow(inputs, folder, rank, lead, meeting, mode == "split")

    return told(lead, rank, work)


def told(lead: FollowerEnd, rank: int, work: Callable[[], None]) -> int:
    """Do ``work`` and tell the lead of its failure; 0 without one."""
    logging.info("rank %d of process %d starts", rank, os.getpid())
    signal.signal(signal.SIGTERM, lambda number, frame: lead.say("stop"))
    try:
        work()
    except LostRankError as error:
        logging.error("%s", error)
        lead.say("lost", error)
        return 1
    except Exception as error:  # the user's code: anything may come out of it
        logging.exception("rank %d of process %d ends", rank, os.getpid())
        lead.say("failed", error if isinstance(error, RhoError) else one_line(error))
        return 1
    return 0


def follow(
    inputs: RunInputs,
    folder: RunFolder,
    rank: int,
    lead: FollowerEnd,
    meeting: Path | Meeting,
    split: bool,
    url: str = "",
) -> None:
    """Follow the lead to the end. ``url``: of a queue that the ranks share with scorers, if it is
    not the lead that tells it. Raises what may end a rank."""
    keep_memory()
    config = inputs.config
    lead.say("ready")
    order = lead.next()
    if order.kind == Kind.END:
        return
    group = group_of(config, rank, meeting)
    group.check = lead.check_fence
    workers, told_url = group.gathered(b"")[0].decode().split(" ")
    queue: SelectionQueue | None = None
    if not split and (url := url or told_url):
        queue = open_queue(config, url, folder.run_id, folder.generation)
    elif not split:
        queue = SharedQueue(config.queue.lease_s, group)
    follower = build_follower(inputs, replace(folder, queue=lead), queue, group, int(workers))
    while (order := lead.next()).kind != Kind.END:
        if order.kind == Kind.BEGIN:
            follower.begin(order.step)
            lead.say("begun")
        elif order.kind == Kind.STEP:
            follower.step(order.step)
        elif order.kind == Kind.SHARE:
            follower.share(order.step)
        else:
            follower.take_part(cast(Work, order.kind.name.lower()), order.step)


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # threads may still wait for ranks that are gone
