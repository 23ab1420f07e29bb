"""``rhoctl plan``: its arithmetic by hand, and the command on a real run's inputs."""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhoselect.planning.model import Messages, Parts, enough_workers, split, step_seconds
from rhoselect.snapshots.shm import SharedMemoryStore
from support import made, rhoctl

SILENT = Messages(0.0, 0.0, 0.0, 0.0)
EIGHT = Parts(
    chunks=8,
    prefetch=2,
    trainer_scores=True,
    train_s=0.1,
    forward_s=0.04,
    forward_cpu_s=0.04,
    read_s=0.0,
    load_s=0.0,
    within=SILENT,
    between=SILENT,
    cores=None,
    slowdown=1.0,
)
SECONDS = st.floats(0, 10)


@pytest.mark.parametrize(
    ("parts", "workers", "seconds"),
    [
        (EIGHT, 0, 0.1 + 8 * 0.04),
        (EIGHT, 1, 0.1 + 4 * 0.04),
        (EIGHT, 2, 0.1 + 3 * 0.04),
        (EIGHT, 7, 0.1 + 0.04),
        (EIGHT, 32, 0.1 + 0.04),
        (replace(EIGHT, trainer_scores=False), 2, 0.1 + 4 * 0.04),
        # Two of four chunks were read ahead; the other two wait for slower reads.
        (replace(EIGHT, read_s=0.05), 1, 0.1 + 2 * 0.04 + 2 * 0.05),
        # Reading two ahead takes 0.2 s longer than training.
        (replace(EIGHT, read_s=0.15), 7, 0.1 + 0.05 + 0.04),
        (replace(EIGHT, between=Messages(0.001, 0.0, 0.002, 0.003)), 7, 0.1 + 0.04 + 0.006),
        # Two cores share eight forwards, each 1.25 times as long as alone.
        (replace(EIGHT, cores=2, slowdown=1.25), 0, 0.1 + 8 * 0.04),
        (replace(EIGHT, cores=2, slowdown=1.25), 4, 0.1 + 8 * 0.05 / 2),
    ],
)
def test_step_by_hand(parts: Parts, workers: int, seconds: float) -> None:
    assert step_seconds(parts, workers) == pytest.approx(seconds)


@given(
    chunks=st.integers(1, 64),
    prefetch=st.integers(1, 8),
    times=st.tuples(*[SECONDS] * 7),
    scores=st.booleans(),
    workers=st.integers(0, 64),
)
def test_more_workers_with_a_device_each_are_never_slower(
    chunks: int, prefetch: int, times: tuple[float, ...], scores: bool, workers: int
) -> None:
    train_s, forward_s, read_s, *talk = times
    messages = Messages(*talk)
    parts = Parts(
        chunks, prefetch, scores, train_s, forward_s, 0, read_s, 0, messages, messages, None, 1
    )
    now = step_seconds(parts, workers)
    assert step_seconds(parts, workers + 1) <= now * (1 + 1e-9)
    assert now >= train_s + forward_s
    assert step_seconds(parts, enough_workers(parts)) <= 1.01 * step_seconds(parts, 10_000) + 1e-9


def test_one_device_trains_and_as_many_as_help_score() -> None:
    assert split(EIGHT, 1)["scoring"] == 0
    three = split(EIGHT, 3)
    assert three["scoring"] == 2
    assert three["step_ms"] == pytest.approx(220)
    assert three["break_even"] == pytest.approx(6.6)
    assert split(EIGHT, 17)["scoring"] == 7, "eight chunks, of which the trainer scores one"


@pytest.mark.parametrize(("steps", "enough"), [(10, 0), (100, 7)])
def test_workers_that_start_longer_than_they_save_are_too_many(steps: int, enough: int) -> None:
    """The first saves 160 ms a step, seven 280 ms; their processes start in 10 s."""
    assert enough_workers(replace(EIGHT, start_s=10.0, steps=steps)) == enough


ADAPTED = ("model.factory=adapted:Adapted", "model.args={}", "snapshots.only=trainable")
# Of the layers' matrices: 256 + 3 * 64 numbers of rank 1, the head's 4 * 64 + 4; of BatchNorm scale
# and shift [64] in float32.
ADAPTED_BYTES = 2 * (256 + 3 * 64 + 4 * 64 + 4) + 4 * 2 * 64


@pytest.mark.parametrize(
    ("cores", "keys", "snapshot_bytes"),
    [(1, (), 4 * (256 * 32 + 32 + 32 * 32 + 32 + 32 * 4 + 4)), (2, ADAPTED, ADAPTED_BYTES)],
    ids=["one core in fp32", "two cores, adapters in bf16"],
)
def test_the_command_leaves_nothing(
    tiny_config: Path,
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    keys: tuple[str, ...],
    snapshot_bytes: int,
) -> None:
    """It tells what travels: with adapters, nothing of what is frozen."""
    folders: list[Path] = []
    new_folder = SharedMemoryStore.new_folder

    def noted(run_id: str, generation: int) -> Path:
        folders.append(new_folder(run_id, generation))
        return folders[-1]

    monkeypatch.setattr(SharedMemoryStore, "new_folder", noted)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    precision = "scorer.precision=bf16" if keys else "scorer.precision=fp32"
    words = [word for key in (precision, *keys) for word in ("--set", key)]
    with tempfile.TemporaryDirectory(prefix="t") as scratch:
        monkeypatch.setattr(tempfile, "tempdir", scratch)
        monkeypatch.chdir(scratch)
        found = json.loads(made("plan", tiny_config, "--devices", "4", "--json", *words).out)
        assert list(Path(scratch).iterdir()) == [], "the embedded server's folder, for one"
    assert [folder.exists() for folder in folders] == [False]
    assert multiprocessing.active_children() == []
    assert [row["workers"] for row in found["rows"]] == [0, 1, 2, 4, 8, 16, 32]
    assert [row["devices"] for row in found["split"]] == [4]
    assert found["verdict"].startswith(("Worth it", "Not worth it"))
    assert found["snapshot_mb"] == snapshot_bytes / 1e6
    for name in ("parts", "forward_share", "precision_factor", "workers_enough", "machine"):
        assert name in found


def test_a_method_without_forward_has_nothing_to_plan(tiny_config: Path) -> None:
    arguments = ("plan", tiny_config, "--set", "selection.function=uniform")
    assert "nothing to plan" in made(*arguments).out
    assert "nothing to plan" in json.loads(made(*arguments, "--json").out)["verdict"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--set", "selection.chunk=15"), "selection.chunk: got 15"),
        (("--set", "queue.url=http://host"), "queue.url: got scheme 'http'"),
        (("--devices", "0"), "--devices"),
    ],
)
def test_bad_input_is_one_line(tiny_config: Path, arguments: tuple[str, ...], said: str) -> None:
    result = rhoctl("plan", tiny_config, *arguments)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert said in result.err
