"""Checkpoints that a thread hashes and writes while training goes on."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Self

from rhoselect.compute import AtOnce, single_threaded_pool
from rhoselect.metrics import Metrics
from rhoselect.trainer.adapters import adapter_files, is_adapted, save_adapter
from rhoselect.trainer.checkpoint import Checkpoint, Staged
from rhoselect.trainer.learner import Learner
from rhoselect.trainer.records import Records
from rhoselect.trainer.runfolder import RunFolder, writing


class Saver:
    """Writes one checkpoint of a run at a time, the last one by the end of its block, which raises
    the error of its write. Those are FencedError and StorageError."""

    def __init__(self, folder: RunFolder, keep: int, metrics: Metrics) -> None:
        self._folder, self._keep, self._metrics = folder, keep, metrics
        self._pool = single_threaded_pool("saver")
        self._begun: Future[Path] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown()
        if error is None:
            self.check()

    def begin(self, checkpoint: Checkpoint, learner: Learner, records: Records) -> Future[Path]:
        """Copy a checkpoint, and write it in the background, after the part of ``records`` that
        ends with it. The ranks of a divided model write together, before this returns. Waits for
        the checkpoint before this one, and raises the error of its write."""
        self.settle()
        staged = Staged(checkpoint, learner.shards)
        adapter = adapter_files(learner.evaluated) if is_adapted(learner.model) else {}
        rows, pool = records.cut(), self._pool if learner.shards is None else AtOnce()

        def write() -> Path:
            with writing(self._folder):
                records.write(rows)
                path = staged.write(self._folder, self._keep)
                save_adapter(self._folder, adapter)
            self._metrics.last_checkpoint_time.set_to_current_time()
            return path

        self._begun = pool.submit(write)
        return self._begun

    def check(self) -> None:
        """Raise the error of the last write, if it has ended with one."""
        if self._begun is not None and self._begun.done():
            self._begun.result()

    def settle(self) -> None:
        """Wait until the last checkpoint is written. Raises the error of its write."""
        if self._begun is not None:
            self._begun.result()
