"""The trainer of a run on Ray, and on a cluster the ranks that follow it, each an actor."""

from __future__ import annotations

import socket
from typing import Any, cast

import ray

from rhoselect import config as configuration
from rhoselect.config import Config
from rhoselect.devices import ranks_are_actors
from rhoselect.hardware import check_alike
from rhoselect.runtime.crew import log_of
from rhoselect.runtime.links import FollowerEnd, introduced
from rhoselect.runtime.rank import follow, told
from rhoselect.runtime.ray import placement
from rhoselect.runtime.ray.actors import Endpoints, TrainerActor, inputs_of, log_to
from rhoselect.runtime.ray.followers import HELLO_S, Call, node_address, own_facts
from rhoselect.trainer.runfolder import RunFolder

TRAINER_CALLS = 8  # concurrent calls: ``run``, and requests for its status or control


class RankActor:
    """A rank that follows the trainer, in a process of its own."""

    def __init__(self, rank: int, config: str, run: RunFolder, endpoints: Endpoints) -> None:
        self._rank, self._config = rank, configuration.from_json(config)
        self._run, self._endpoints = run, endpoints

    def address(self) -> str:
        """That of this machine."""
        return node_address()

    def run(self, call: Call) -> None:
        """Follow the lead to the end, or until it or another rank is lost."""
        config, timeout_s = self._config, self._config.cluster.rank_timeout_s
        log_to(log_of(self._run.path, self._rank))
        with socket.create_connection((call.address, call.port), HELLO_S) as link:
            introduced(link, call.token, self._rank)
            lead = FollowerEnd(link, self._run.generation, timeout_s)

            def work() -> None:
                self._endpoints.check_node(config, self._run)
                check_alike(f"rank {self._rank}", own_facts(config), "rank 0", call.facts)
                inputs = inputs_of(config, self._run)
                split, url = call.mode == "split", self._endpoints.queue_url or ""
                follow(inputs, self._run, self._rank, lead, call.meeting(), split, url)

            told(lead, self._rank, work)


class Trainers:
    """The actors, by name: `placement.TRAINER` is the lead."""

    def __init__(
        self, config: Config, folder: RunFolder, endpoints: Endpoints, workers: int
    ) -> None:
        self._group, places = None, [placement.trainer_options(config)]
        if ranks_are_actors(config):
            self._group, places = placement.place_ranks(config)
        make, text = cast(Any, ray).remote, config.model_dump_json()  # Ray's types know no actor
        lead = make(TrainerActor).options(
            **places[0],
            max_concurrency=TRAINER_CALLS,
            enable_task_events=False,  # Ray's head would remember every look at it
        )
        self.lead = lead.remote(text, folder, endpoints, workers)
        self.actors = {placement.TRAINER: self.lead}
        for rank, place in enumerate(places[1:], 1):
            follower = make(RankActor).options(**place, enable_task_events=False)
            self.actors[f"rank {rank}"] = follower.remote(rank, text, folder, endpoints)

    def run(self) -> Any:
        """Train. Returns Ray's reference to the summary."""
        _, *followers = self.actors.values()
        return self.lead.run.remote(followers)

    def end(self) -> None:
        """End all, whatever they do."""
        for actor in self.actors.values():
            ray.kill(actor)
        if self._group is not None:
            cast(Any, ray).util.remove_placement_group(self._group)
