"""Followers that are actors: on their lead's machine if it has room, else on others, too.

The driver makes them; the lead calls them and waits at its machine's address until they have come.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, cast

import ray
from ray.exceptions import RayError

from rhoselect.compute import repeatable, threads
from rhoselect.config import Config
from rhoselect.devices import trainer_device
from rhoselect.errors import RunError, listed, shortened
from rhoselect.hardware import Facts, facts_of
from rhoselect.ranks.gloo import LOOPBACK, Meeting
from rhoselect.runtime.crew import GRACE_S, Follower, Mode, follower
from rhoselect.runtime.links import ALIVE_S, introduced
from rhoselect.trainer.runfolder import RunFolder

HELLO_S = 5.0  # for one that connects to prove that it belongs to the run


@dataclass(frozen=True)
class Call:
    """What a follower is told of its lead: where it waits, where the group meets, the run's token,
    and what its machine is."""

    address: str
    port: int
    meeting_port: int
    token: bytes = field(repr=False)
    mode: Mode
    facts: Facts

    def meeting(self) -> Meeting:
        """Where the group meets, for a follower."""
        own = LOOPBACK if self.address == LOOPBACK else node_address()
        return Meeting(self.address, self.meeting_port, own)


@dataclass(frozen=True)
class RemoteProcess:
    """A `RankProcess` that is an actor; ``run`` is Ray's reference to the result of its ``run``."""

    actor: Any
    run: Any
    pid: int
    address: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.address}"

    def kill(self) -> None:
        """See `RankProcess.kill`."""
        ray.kill(self.actor)

    def wait(self, timeout_s: float) -> bool:
        """See `RankProcess.wait`."""
        return bool(ray.wait([self.run], timeout=timeout_s)[0])

    def how(self) -> str:
        """See `RankProcess.how`."""
        if not self.wait(GRACE_S):
            return "was lost: its machine does not answer"
        try:
            ray.get(self.run)
        except RayError as error:
            return f"was killed, or its machine was ({reason(error)})"
        return "ended"


@contextmanager
def followers_on(
    actors: Sequence[Any], config: Config, folder: RunFolder, mode: Mode
) -> Iterator[tuple[Meeting, list[Follower]]]:
    """The followers that ``actors``, by rank, are once they have come to this process. Raises
    RunError if one does not."""
    addresses: list[str] = ray.get([actor.address.remote() for actor in actors])
    own = node_address()
    if all(each == own for each in addresses):
        own = LOOPBACK
    token, facts = secrets.token_bytes(32), own_facts(config)
    with _listening(own) as server, _listening(own) as store:
        port, meeting_port = server.getsockname()[1], store.getsockname()[1]
        call = Call(own, port, meeting_port, token, mode, facts)
        runs = [actor.run.remote(call) for actor in actors]
        links = _joined(server, token, runs, config)
        found = []
        for rank, actor in enumerate(actors, 1):
            link, pid = links[rank]
            process = RemoteProcess(actor, runs[rank - 1], pid, addresses[rank - 1])
            found.append(follower(rank, process, link, folder))
        yield Meeting(own, meeting_port, own, store.detach()), found


def _joined(
    server: socket.socket, token: bytes, runs: Sequence[Any], config: Config
) -> dict[int, tuple[socket.socket, int]]:
    """The connections and processes of the followers, by rank."""
    start_s, limit_ms = config.cluster.start_s, int(1000 * config.cluster.rank_timeout_s)
    deadline = time.monotonic() + start_s
    missing, links = {*range(1, len(runs) + 1)}, {}
    while missing:
        names = listed(f"rank {rank}" for rank in sorted(missing))
        try:
            ray.get(ray.wait(list(runs), timeout=0)[0])
        except RayError as error:
            raise RunError(f"{names}: could not start: {reason(error)}") from None
        if time.monotonic() > deadline:
            raise RunError(f"{names}: not here after {start_s:g} s (cluster.start_s)")
        with suppress(OSError):  # of a stranger, or none came
            link, _ = server.accept()
            link.settimeout(HELLO_S)
            rank, pid = introduced(link, token, 0)
            link.settimeout(None)
            # Orders go out every second, so a machine that takes none in is seen without a step.
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, limit_ms)
            if rank in missing:
                missing.remove(rank)
                links[rank] = link, pid
    return links


def _listening(address: str) -> socket.socket:
    """A socket at a free port of an address of this machine."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = socket.create_server((address, 0), family=family)
    server.settimeout(ALIVE_S)
    return server


def node_address() -> str:
    """The address of this machine in its cluster."""
    address: str = cast(Any, ray).util.get_node_ip_address()
    return address


def own_facts(config: Config) -> Facts:
    """The releases and hardware with which this process trains."""
    device = trainer_device(config)
    with repeatable(device, config.compute.tf32), threads(config.trainer.threads):
        return facts_of(device)


def reason(error: RayError) -> str:
    """What Ray says of the end of an actor, in one line."""
    lines = str(error).strip().splitlines()
    return shortened(next((line for line in lines if "because" in line), lines[-1]), 300)
