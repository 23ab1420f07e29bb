"""Every key name that a run holds in Redis.

All names of a run share a hash tag, so they live in one slot of a cluster. All but one also begin
with the trainer's generation, so that two trainers of a run never share a key. Every key expires;
`open`, which a waiting trainer repeats, renews them.

    newest      string  the newest generation that has opened a window; shared by all generations

A window's stages are numbered in the order of work, its shortlist before its candidates: see
`stage`. Tickets are named "stage:chunk:version", the chunk with ten digits.

    closed      string  the highest stage ever closed
    stages      hash    open stage -> "version chunks"
    todo        zset    waiting tickets; score: stage; members order by chunk within a stage
    leases      hash    leased ticket -> "deadline worker": ms of server time, slot
    shortlists  hash    ticket of an open shortlist -> its points
    counters    hash    accepted, repeated, late (pushes), rejected (points), reclaimed (tickets)
    notify      stream  one entry, replaced when new tickets are waiting
    ready       stream  one entry, replaced when a stage is complete

and for each open stage:

    scores      hash    chunk -> its points with their scores: see ``packing``
    rejected    hash    chunk -> its points with a NaN or infinite score, if there are any
    features    hash    chunk -> float32 little-endian rows of its points, if there are any
"""

from __future__ import annotations

from dataclasses import dataclass


def stage(window: int, shortlist: bool) -> int:
    """The number of a stage of ``window``."""
    return 2 * window + (not shortlist)


@dataclass(frozen=True)
class StageKeys:
    """The keys of one stage."""

    scores: str
    rejected: str
    features: str

    def all(self) -> list[str]:
        """Every key, in the order the scripts take them."""
        return [self.scores, self.rejected, self.features]


class Names:
    """The names of one run and generation. ``run_id`` holds no braces, which end a hash tag."""

    def __init__(self, run_id: str, generation: int) -> None:
        assert not set("{}") & set(run_id), run_id
        self.generation = generation
        self.newest = f"rho:{{{run_id}}}:newest"
        self._prefix = f"rho:{{{run_id}}}:{generation}:"
        self.counters = self.name("counters")
        self.notify = self.name("notify")
        self.ready = self.name("ready")

    def name(self, *parts: object) -> str:
        """One key's name."""
        return self._prefix + ":".join(map(str, parts))


class Keys(Names):
    """The keys of a queue of windows."""

    def __init__(self, run_id: str, generation: int) -> None:
        super().__init__(run_id, generation)
        self.closed = self.name("closed")
        self.stages = self.name("stages")
        self.todo = self.name("todo")
        self.leases = self.name("leases")
        self.shortlists = self.name("shortlists")

    def run(self) -> list[str]:
        """The keys that belong to no stage."""
        held = [self.closed, self.stages, self.todo, self.leases, self.shortlists]
        return [*held, self.counters, self.notify, self.ready]

    def stage(self, stage: int) -> StageKeys:
        """The keys of a stage, by its number."""
        return StageKeys(
            *(self.name("stage", stage, part) for part in ("scores", "rejected", "features"))
        )
