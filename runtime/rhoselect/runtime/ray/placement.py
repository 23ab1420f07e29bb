"""The placement of a run's actors on a Ray cluster, and the error if an actor has no place there.

An actor takes one CPU per thread, a GPU if it computes on one, and the resources in ``[cluster]``.
Ranks are on as few nodes as have room for them.
Custom resources (``ray start --resources``) keep the trainer apart from the scorers: give each kind
of node a resource of its own. Scorers are spread over the nodes that fit.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import ray
import torch
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rhoselect import devices
from rhoselect.config import Config
from rhoselect.errors import ConfigError, QueueConfigError, RunError, listed
from rhoselect.hardware import Facts, check_alike, releases
from rhoselect.queue.redis import check_server

Resources = dict[str, float]
_ray = cast(Any, ray)  # its own types do not know these

TRAINER = "trainer"  # the name of its actor
TELL_S = 5.0  # wait for a place after which a message is printed


def trainer_options(config: Config) -> dict[str, Any]:
    """Ray's options of the trainer: on the node of ``rhoctl`` if it fits there."""
    return _options(_trainer_resources(config), "DEFAULT")


def place_ranks(config: Config) -> tuple[Any, list[dict[str, Any]]]:
    """A placement group for ``trainer.devices`` actors, and Ray's options of each."""
    resources = _trainer_resources(config)
    bundle = {name: n for name, n in resources.items() if n > 0} or {"CPU": 0.01}  # Ray wants one
    group = _ray.util.placement_group([bundle] * config.trainer.devices, strategy="PACK")
    ranks = range(config.trainer.devices)
    places = [PlacementGroupSchedulingStrategy(group, rank) for rank in ranks]
    return group, [_options(resources, place) for place in places]


def scorer_options(config: Config) -> dict[str, Any]:
    """Ray's options of a scorer: on the node that has most room left for it."""
    return _options(_scorer_resources(config), "SPREAD")


def tell_sharing(config: Config, workers: int) -> None:
    """Say on stderr that scorers of a "local" cluster share GPUs, if they do: Ray does not count
    them there."""
    if config.cluster.address != "local":
        return
    line = devices.sharing(config, workers, torch.cuda.device_count())
    if line is not None:
        print(f"rhoctl: {line}", file=sys.stderr)


def _options(
    resources: Resources, strategy: str | PlacementGroupSchedulingStrategy
) -> dict[str, Any]:
    custom = {name: n for name, n in resources.items() if name not in ("CPU", "GPU") and n > 0}
    return {
        "num_cpus": resources["CPU"],
        "num_gpus": resources.get("GPU", 0),
        "resources": custom,
        "scheduling_strategy": strategy,
    }


def _trainer_resources(config: Config) -> Resources:
    if config.cluster.address == "local":
        return {"CPU": 1}
    return _own_resources(config.trainer.threads, config.trainer.device) | config.cluster.trainer


def _scorer_resources(config: Config) -> Resources:
    if config.cluster.address == "local":
        return {"CPU": 0}  # any number of them, on however few cores and GPUs
    return _own_resources(config.scorer.threads, config.scorer.device) | config.cluster.scorer


def _own_resources(threads: int, device: str) -> Resources:
    """The resources that an actor takes by default, by Ray's names."""
    gpus = {"GPU": 1.0} if device.startswith("cuda") else {}
    return {"CPU": float(threads), **gpus}


def wait_for_actors(config: Config, actors: Mapping[str, Any]) -> None:
    """Wait until every actor has started; ``actors`` maps names to handles.

    After `TELL_S` it prints the missing resources on stderr. Raises ConfigError after
    ``cluster.start_s`` (Ray would wait without limit), RunError if an actor fails to start on its
    node. On a "local" cluster, which mostly has room, it waits for the trainer alone, and prints
    nothing.
    """
    local = config.cluster.address == "local"
    if local:
        actors = {name: actor for name, actor in actors.items() if name == TRAINER}
    pending = {actor.__ray_ready__.remote(): name for name, actor in actors.items()}
    started, told = time.monotonic(), local
    while pending:
        waited_s = time.monotonic() - started
        if waited_s >= config.cluster.start_s:
            raise ConfigError(
                f"cluster.address: {_shortage(config, [*pending.values()], len(actors))} after"
                f" {config.cluster.start_s:g} s; lower --workers, add nodes, or change"
                " cluster.trainer, cluster.scorer or cluster.start_s"
            )
        if waited_s >= TELL_S and not told:
            told = True
            shortage = _shortage(config, [*pending.values()], len(actors))
            print(f"rhoctl: {shortage}; waiting", file=sys.stderr)
        until_s = config.cluster.start_s if told else min(TELL_S, config.cluster.start_s)
        placed, _ = ray.wait([*pending], timeout=max(until_s - waited_s, 0.0))
        for reference in placed:
            name = pending.pop(reference)
            try:
                ray.get(reference)
            except RayActorError as error:
                reason = str(error).strip().splitlines()[-1].strip()
                raise RunError(
                    f"{name} could not start: {reason}; every node needs this rhoselect"
                ) from None


def _shortage(config: Config, names: list[str], actors: int) -> str:
    """A message: the actors without a place, the resources they need, and those that are free."""
    asked = {"trainer": _trainer_resources(config), "scorer": _scorer_resources(config)}
    kinds = sorted({resource for each in asked.values() for resource in each})
    free, total = _ray.available_resources(), _ray.cluster_resources()
    has = ", ".join(f"{kind} {free.get(kind, 0):g} of {total.get(kind, 0):g}" for kind in kinds)
    asks = "; ".join(f"a {who} asks for {_listed(each)}" for who, each in asked.items())
    return (
        f"{len(names)} of {actors} actors do not run ({listed(names)}); {asks}; free in the"
        f" cluster: {has}"
    )


def _listed(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {amount:g}" for name, amount in sorted(resources.items()))


def check_node(config: Config, run: Path, queue_url: str | None, expected: Facts) -> None:
    """Raise ConfigError, naming this node, unless it can take part in a run.

    Called by an actor when it starts. ``expected`` are the ``releases`` of the process that began
    the run; a run whose ranks score has no ``queue_url``.
    """
    if config.cluster.address == "local":
        return
    node = f"node {_ray.util.get_node_ip_address()}"
    check_alike(node, releases(), "the process that began the run", expected)
    for key, path in {"--run-dir": str(run), **config.inputs}.items():
        if "://" in path:
            continue
        if not os.access(path, os.R_OK):
            reason = "may not be read" if os.access(path, os.F_OK) else "does not exist"
            raise ConfigError(
                f"{node}: {key} {path} {reason} there; allowed a path at which every node sees the"
                " same files; mount a shared folder on all of them"
            )
    if queue_url is None:
        return
    try:
        check_server(queue_url)
    except QueueConfigError as error:
        raise ConfigError(f"{node}: {error}") from None
