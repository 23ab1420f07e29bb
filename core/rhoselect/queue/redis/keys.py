"""Every key name that a run holds in Redis.

All names of one run and generation share a hash tag, so they live in one slot of a cluster and two
runs, or two trainers of one run, never meet.

    closed    string  the highest window ever closed
    windows   hash    window -> "version chunks", of the open windows
    todo      zset    tickets waiting; score: window; members order by chunk within a window
    leases    zset    tickets leased; score: deadline in ms of server time
    owners    hash    ticket -> worker slot, of the tickets leased
    bell      list    one token per ticket made available, for claimers that block (capped)
    counters  hash    accepted, repeated, late (pushes), rejected (points), reclaimed (tickets)

and for each open window:

    done      set     chunks pushed
    scores    zset    point -> score; member: see ``backend.members``
    rejected  set     positions with a NaN or infinite score, in decimal
    features  hash    point -> float32 little-endian row, if the selector wants features
    ready     list    one token once the window is complete, for poppers that block
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WindowKeys:
    """The keys of one window."""

    done: str
    scores: str
    rejected: str
    features: str
    ready: str

    def all(self) -> list[str]:
        """Every key, in the order the scripts take them."""
        return [self.done, self.scores, self.rejected, self.features, self.ready]


@dataclass(frozen=True)
class Keys:
    """The keys of one run and generation; ``run_id`` may not hold braces (they end a hash tag)."""

    run_id: str
    generation: int

    def __post_init__(self) -> None:
        assert not set("{}") & set(self.run_id), self.run_id

    def _name(self, *parts: object) -> str:
        return ":".join([f"rho:{{{self.run_id}:{self.generation}}}", *map(str, parts)])

    @property
    def closed(self) -> str:
        return self._name("closed")

    @property
    def windows(self) -> str:
        return self._name("windows")

    @property
    def todo(self) -> str:
        return self._name("todo")

    @property
    def leases(self) -> str:
        return self._name("leases")

    @property
    def owners(self) -> str:
        return self._name("owners")

    @property
    def bell(self) -> str:
        return self._name("bell")

    @property
    def counters(self) -> str:
        return self._name("counters")

    def run(self) -> list[str]:
        """The keys that belong to no window."""
        return [
            self.closed,
            self.windows,
            self.todo,
            self.leases,
            self.owners,
            self.bell,
            self.counters,
        ]

    def window(self, window: int) -> WindowKeys:
        """The keys of ``window``."""
        return WindowKeys(
            *(
                self._name("window", window, part)
                for part in ("done", "scores", "rejected", "features", "ready")
            )
        )
