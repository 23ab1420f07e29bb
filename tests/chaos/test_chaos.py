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

SEED, STEPS = 1, 2500
SETTINGS = [f"trainer.steps={STEPS}", "trainer.checkpoint_every=5", "trainer.eval_every=500"]
SETTINGS += ["queue.lease_s=1", "queue.timeout_s=60", "selection.lag=1"]
SETTINGS += ["selection.rescore=scorers"]
KINDS = [
    "scorers killed",
    "scorer frozen",
    "killed in mid-publish",
    "killed before a checkpoint's rename",
    "queue flushed",
    "server restarted empty",
    "workers added or removed",
    "taken over",
]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_one_fault_after_another(tiny_config: Path, tmp_path: Path) -> None:
    """At lag 1, where windows, shortlists and old snapshots are in use at once."""
    kinds = random.Random(SEED).sample(KINDS, len(KINDS))
    with QueueServer(tmp_path) as server:
        run = ChaoticRun(tmp_path / "chaos", tiny_config, SETTINGS, SEED, server, slow=True)
        outcome = run.run((kind, FAULTS[kind][1]) for kind in kinds)
    assert outcome.problem is None
    assert len(outcome.faults) == len(kinds), "it ended before all had happened to it"
    words = [word for key in SETTINGS for word in ("--set", key)]
    made("train", tiny_config, "--run-dir", tmp_path / "undisturbed", *words)
    assert outcome.hashes == hashes(tmp_path / "undisturbed")
