"""What a run says when its snapshot store does not give back what was published; what a scorer
holds goes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rhoselect import config as configuration
from rhoselect.errors import WaitError
from rhoselect.inputs import open_inputs
from rhoselect.metrics import Metrics
from rhoselect.queue.base import HELPERS
from rhoselect.queue.memory import MemoryQueue
from rhoselect.scorer.build import build_scorer
from rhoselect.snapshots.base import Pieces
from rhoselect.snapshots.local import LocalStore
from rhoselect.trainer.build import build_trainer
from rhoselect.trainer.runfolder import RunFolder


class Silent(LocalStore):
    """As one whose head is slow: who is ready to wait for a snapshot does not get it."""

    def load(
        self, version: int, into: Callable[[Pieces], None], timeout_s: float
    ) -> dict[str, Tensor] | None:
        return None if timeout_s else super().load(version, into, timeout_s)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], r"snapshot 9: published, .*within 7 s \(queue\.timeout_s\)"),
        (["selection.audit_every=3"], r"audit: snapshot 2 was not available within 7 s"),
    ],
)
def test_a_snapshot_that_does_not_come_back_is_named(
    tiny_config: Path, tmp_path: Path, more: list[str], message: str
) -> None:
    """For a checkpoint at lag 1, and for an audit."""
    sets = ["selection.lag=1", "queue.timeout_s=7", *more]
    inputs = open_inputs(configuration.load(tiny_config, sets))
    folder = RunFolder.create(tmp_path / "run", inputs.config)
    trainer = build_trainer(inputs, folder, MemoryQueue(60), Silent(), Metrics(), workers=0)
    with pytest.raises(WaitError, match=message):
        trainer.run()


def test_a_scorer_gives_back_what_it_claimed_in_an_older_slot(tiny_config: Path) -> None:
    """When it leaves a run that was scaled meanwhile; then nobody waits for its leases."""
    inputs = open_inputs(configuration.load(tiny_config))
    queue, stop = MemoryQueue(lease_s=600), threading.Event()
    scorer = build_scorer(inputs, torch.device("cpu"), HELPERS, 2, queue, LocalStore(), Metrics())
    queue.open(0, 0, 4)
    thread = threading.Thread(target=scorer.run, args=(stop,))
    thread.start()
    deadline = time.monotonic() + 20
    while queue.stats().leased < 2:  # read ahead of their weights, which do not come
        assert time.monotonic() < deadline
    scorer.share(HELPERS + 1, 3)
    stop.set()
    thread.join()
    scorer.release()
    assert (queue.stats().leased, queue.stats().waiting) == (0, 4)
