"""Shards of a remote data set: fetched when first needed, mapped from the node's cache."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from rhoselect.data.blocks import Block, open_shard
from rhoselect.data.cache import Cache
from rhoselect.data.manifest import FILE_NAME, Shard, parse_manifest
from rhoselect.data.shards import Numbers, Shards
from rhoselect.data.store import Store
from rhoselect.errors import ConfigError, DataError, RhoError


class RemoteShards(Shards):
    """The shards of a store. Opening reads the manifest alone.

    A shard is checked as a local one is (size, sha256, schema, rows, labels), when it is fetched
    and mapped. A file evicted from the cache is unmapped at the next miss, so that its disk space
    comes free.
    """

    far = True

    def __init__(self, store: Store, cache: Cache, timeout_s: float) -> None:
        content = store.read(FILE_NAME)
        super().__init__(store.location, parse_manifest(content, f"{store.location}/{FILE_NAME}"))
        self._store, self._cache, self._timeout_s = store, cache, timeout_s
        self._mapped: dict[int, list[Block]] = {}
        self._lock = threading.Lock()
        # At most half of the cache: what is read ahead must not evict what is being read.
        largest = max(shard.bytes for shard in self.manifest.shards)
        self._ahead = ReadAhead(self._fetch_ahead, max(1, cache.limit_bytes // (2 * largest)))
        self.check_room(largest, "its largest shard")

    def path(self, number: int) -> Path:
        return self._fetch(number, patient=True)

    def content(self, name: str) -> bytes:
        return self._store.read(name)

    def blocks(self, number: int) -> Sequence[Block]:
        with self._lock:
            shard = self.manifest.shards[number]
            while number not in self._mapped or not self._cache.touch(shard):
                held = self._mapped.items()
                shards = self.manifest.shards
                self._mapped = {n: blocks for n, blocks in held if self._cache.holds(shards[n])}
                path, name = self.path(number), f"{self.location}/{shard.file}"
                with contextlib.suppress(FileNotFoundError):  # evicted since: once more
                    start = self.start(number)
                    self._mapped[number] = open_shard(path, name, shard, self.manifest, start)
            return self._mapped[number]

    def prefetch(self, numbers: Numbers) -> None:
        """Fetch these shards in the background, as many as half the cache holds."""
        for number in np.unique(numbers).tolist():
            if not self._cache.holds(self.manifest.shards[number]):
                self._ahead.want(number)

    def check_room(self, wanted_bytes: int, reason: str) -> None:
        if self._cache.limit_bytes < wanted_bytes:
            raise ConfigError(
                f"data.cache_bytes: got {self._cache.limit_bytes}, allowed at least {wanted_bytes}"
                f" for {reason}; raise it"
            )

    def _fetch(self, number: int, patient: bool) -> Path:
        shard = self.manifest.shards[number]
        return self._cache.get(
            shard, partial(self._download, shard, patient=patient), self._timeout_s
        )

    def _fetch_ahead(self, number: int) -> None:
        self._fetch(number, patient=False)

    def _download(self, shard: Shard, file: BinaryIO, patient: bool) -> None:
        """Raises DataError if the content is not the manifest's twice in a row: the first time the
        transfer may be at fault."""
        for _ in range(2):
            file.seek(0)
            got = self._store.fetch(shard.file, file, shard.bytes, patient)
            if got == shard.sha256:
                return
        raise DataError(
            f"shard {self.location}/{shard.file}: got sha256 {got}, allowed {shard.sha256} by the"
            " manifest; upload the data set again"
        )


class ReadAhead:
    """A thread that fetches hinted shards. At most ``limit`` hints wait; further ones are dropped.

    A failure is not reported: the reader that needs the shard fetches it itself and raises.
    """

    def __init__(self, fetch: Callable[[int], None], limit: int) -> None:
        self._fetch = fetch
        self._waiting: queue.Queue[int] = queue.Queue(limit)
        self._wanted: set[int] = set()
        self._thread: threading.Thread | None = None

    def want(self, number: int) -> None:
        """Fetch this shard soon, if it is not waiting already."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="read-ahead", daemon=True)
            self._thread.start()
        if number not in self._wanted:
            with contextlib.suppress(queue.Full):
                self._waiting.put_nowait(number)
                self._wanted.add(number)

    def _run(self) -> None:
        while True:
            number = self._waiting.get()
            with contextlib.suppress(RhoError):
                self._fetch(number)
            self._wanted.discard(number)
