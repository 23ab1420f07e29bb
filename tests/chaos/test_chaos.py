"""A run to which faults of many kinds happen ends with the bits of one that nothing happened to.

All kinds, as often as one likes: benchmarks/chaos.py.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from driver import ChaoticRun
from faults import FAULTS
from queue_server import QueueServer

from support import hashes, made

SEED = 1
SETTINGS = ["trainer.checkpoint_every=5", "trainer.eval_every=500", "selection.lag=1"]
SETTINGS += ["queue.lease_s=1", "queue.timeout_s=60", "selection.rescore=scorers"]
FEW = ["scorers killed", "killed in mid-publish", "server restarted empty"]
OTHERS = [
    "scorer frozen",
    "killed before a checkpoint's rename",
    "queue flushed",
    "workers added or removed",
    "taken over",
]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("kinds", "steps"),
    [
        pytest.param(FEW, 1200, marks=pytest.mark.long),
        pytest.param([*FEW, *OTHERS], 2500, marks=pytest.mark.matrix),
    ],
    ids=["some", "all"],
)
def test_one_fault_after_another(
    tiny_config: Path, tmp_path: Path, kinds: list[str], steps: int
) -> None:
    """At lag 1, where windows, shortlists and old snapshots are in use at once."""
    kinds = random.Random(SEED).sample(kinds, len(kinds))
    settings = [*SETTINGS, f"trainer.steps={steps}"]
    with QueueServer(tmp_path) as server:
        run = ChaoticRun(tmp_path / "chaos", tiny_config, settings, SEED, server, slow=True)
        outcome = run.run((kind, FAULTS[kind][1]) for kind in kinds)
    assert outcome.problem is None
    assert len(outcome.faults) == len(kinds), "it ended before all had happened to it"
    words = [word for key in settings for word in ("--set", key)]
    made("train", tiny_config, "--run-dir", tmp_path / "undisturbed", *words)
    assert outcome.hashes == hashes(tmp_path / "undisturbed")
