"""What a run says when its snapshot store does not give back what was published."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor

from rhoselect import config as configuration
from rhoselect.errors import WaitError
from rhoselect.inputs import open_inputs
from rhoselect.metrics import Metrics
from rhoselect.queue.memory import MemoryQueue
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
        (["selection.audit_every=3"], r"audit: snapshot 2 did not come within 7 s"),
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
