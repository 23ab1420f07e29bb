"""``rhoctl plan``: its arithmetic by hand, and the command on a real run's inputs."""

from __future__ import annotations

import io
import json
import math
import multiprocessing
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from rhoselect.cli.run import scorers_of
from rhoselect.config import load
from rhoselect.inputs import open_inputs
from rhoselect.planning.layouts import (
    beside_seconds,
    chosen,
    colocated_seconds,
    layouts,
    row,
    split_seconds,
    uniform_seconds,
)
from rhoselect.planning.model import Exchange, Messages, Parts, enough_workers, step_seconds
from rhoselect.planning.sharing import exchanged
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


SHARED = replace(
    EIGHT,
    share_s=(0.06, 0.04, 0.03),  # of 2, 4 and 8 ranks
    exchange=Exchange(message_s=0.001, sum_s=0.01, gather_s=0.002),
    between=Messages(0.005, 0.0, 0.0, 0.0),
    within=Messages(0.0005, 0.0, 0.0, 0.0),
)


@pytest.mark.parametrize(
    ("devices", "seconds"),
    [
        (1, 0.1),
        (2, 0.06 + 0.001 + 0.01),
        (8, 0.03 + 3 * 0.001 + 2 * 7 / 8 * 0.01),
        (16, 0.03 + 4 * 0.001 + 2 * 15 / 16 * 0.01),  # a share is not known to take less
        (3, 0.04 + 0.02 / 3 + math.log2(3) * 0.001 + 4 / 3 * 0.01),  # a third of 1/4 to 1/2
    ],
)
def test_uniform_steps_by_hand(devices: int, seconds: float) -> None:
    assert uniform_seconds(SHARED, devices) == pytest.approx(seconds)


def test_sums_of_a_library_go_round_a_ring() -> None:
    fast = replace(SHARED, exchange=replace(SHARED.exchange, ring=True))
    assert uniform_seconds(fast, 2) == uniform_seconds(SHARED, 2)
    assert uniform_seconds(fast, 8) == pytest.approx(0.03 + 7 * 0.001 + 2 * 7 / 8 * 0.01)


@pytest.mark.parametrize("reduce", ["tree", "fast"])
def test_ranks_of_a_plan_sum_as_those_of_the_run(
    tiny_config: Path, tmp_path: Path, reduce: str
) -> None:
    inputs = open_inputs(load(tiny_config, [f"trainer.reduce={reduce}"]))
    counts = {"numbers": 100_000, "beside": 0, "scores": 64}

    def one(rank: int) -> Exchange:
        return exchanged(inputs, rank, str(tmp_path / "meeting"), **counts)

    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(one, range(2)):
            assert (found.ring, found.proxy_sum_s) == (reduce == "fast", 0)
            assert found.message_s > 0 and found.gather_s > 0


def test_layouts_by_hand() -> None:
    """Four ranks hear of the lead's picks, or of all scores, in two turns."""
    found = {str(each): each.step_s for each in layouts(SHARED, 8)}
    four_s = 0.04 + 2 * 0.001 + 2 * 3 / 4 * 0.01 + 2 * 0.002
    assert found == {
        "1 train, 7 score": pytest.approx(0.1 + 0.005 + 0.04),
        "2 train, 6 score": pytest.approx(0.071 + 0.002 + 0.005 + 2 * 0.04),
        "4 train, 4 score": pytest.approx(four_s + 0.005 + 2 * 0.04),
        "2 do both, 6 score": pytest.approx(0.071 + 0.005 + 0.04),
        "4 do both, 4 score": pytest.approx(four_s - 2 * 0.002 + 0.005 + 0.04),
        "1 do both": pytest.approx(0.1 + 0.0005 + 8 * 0.04),
        "2 do both": pytest.approx(0.071 + 0.002 + 0.0005 + 4 * 0.04),
        "4 do both": pytest.approx(four_s + 0.0005 + 2 * 0.04),
        "8 do both": pytest.approx(0.0505 + 3 * 0.002 + 0.0005 + 0.04),
    }
    best = row(SHARED, 8, 4)
    assert best["best"] == {"mode": "colocated", "ranks": 8, "workers": 0}
    words = "--workers 0 --set trainer.devices={0} --set cluster.mode=colocated"
    assert best["options"] == f"{words.format(8)} --set trainer.micro_batches=8"
    assert row(SHARED, 4, 4)["options"] == words.format(4)
    assert best["break_even"] == pytest.approx(0.097 / 0.0505)


def test_ranks_beside_scorers_pop_one_after_the_other() -> None:
    popped = replace(SHARED, between=Messages(0.005, 0.0, 0.0, 0.003))
    waited_s = beside_seconds(popped, 8, 4) - beside_seconds(SHARED, 8, 4)
    assert waited_s == pytest.approx(4 * 0.003)
    far = replace(popped, within=Messages(1.0, 0.0, 0.0, 0.0), share_s=(0.04,))
    assert row(far, 8, 4)["layout"] == "2 do both, 6 score"
    assert row(far, 8, 1)["options"] == (
        "--workers 6 --set trainer.devices=2 --set cluster.mode=colocated"
        " --set trainer.micro_batches=2"
    )
    alone = replace(far, trainer_scores=False)
    assert beside_seconds(alone, 8, 2) == pytest.approx(0.051 + 0.005 + 2 * 0.04 + 2 * 0.003)


def test_ranks_are_powers_of_two_that_a_batch_can_be_split_into() -> None:
    assert [str(each) for each in layouts(EIGHT, 17)] == ["1 train, 16 score", "1 do both"]
    assert str(layouts(SHARED, 17)[-1]) == "8 do both"
    assert [each.step_s for each in layouts(EIGHT, 1)] == [step_seconds(EIGHT, 0)]


def test_slow_sums_are_left_to_one_device() -> None:
    slow = replace(SHARED, exchange=Exchange(0.001, 0.2, 0.002))
    found = row(slow, 4, 4)
    assert found["best"] == {"mode": "split", "ranks": 1, "workers": 3}
    assert found["options"] == "--workers 3"
    assert found["uniform_ms"] == pytest.approx(100), "uniform selection does not need all, either"


def test_devices_that_do_not_help_idle() -> None:
    far = replace(SHARED, exchange=Exchange(1.0, 1.0, 1.0), between=Messages(1.0, 0.0, 0.0, 0.0))
    assert row(far, 8, 4)["layout"] == "1 do both"
    assert row(far, 8, 4)["break_even"] == pytest.approx((0.1 + 0.0005 + 8 * 0.04) / 0.1)


@pytest.mark.parametrize(
    ("chunks", "ranks", "workers", "scores", "mode", "started"),
    [
        (8, 4, 1, True, "colocated", 0),  # 2 chunks each, with the worker, too
        (8, 2, 1, True, "colocated", 1),  # 3 chunks, 4 by ranks alone or with one that trains
        (8, 2, 3, True, "split", 3),  # 2 chunks: the ranks would take none from the workers
        (8, 2, 2, False, "colocated", 0),
        (1, 2, 7, True, "colocated", 0),
    ],
)
def test_auto_is_what_is_fastest(
    chunks: int, ranks: int, workers: int, scores: bool, mode: str, started: int
) -> None:
    """Without workers: at any speed of a forward; else with one that takes longer than messages."""
    found, count, why = chosen(chunks, ranks, workers, scores)
    assert (found, count) == (mode, started) and "\n" not in why
    for forward_s in (0.0, 1e-3, 1.0):
        times = {"forward_s": forward_s, "prefetch": chunks}
        parts = replace(SHARED, chunks=chunks, trainer_scores=scores, **times)
        split_s = split_seconds(parts, ranks + workers, ranks)
        beside_s = beside_seconds(parts, ranks + workers, ranks)
        if not count:
            assert colocated_seconds(parts, ranks) <= min(split_s, beside_s)
        elif forward_s == 1.0:
            assert (beside_s < split_s - 0.5) == (mode == "colocated")


@pytest.mark.parametrize(("steps", "enough"), [(10, 0), (100, 7)])
def test_workers_that_start_longer_than_they_save_are_too_many(steps: int, enough: int) -> None:
    """The first saves 160 ms a step, seven 280 ms; their processes start in 10 s."""
    assert enough_workers(replace(EIGHT, start_s=10.0, steps=steps)) == enough


MLP_BYTES = 4 * (256 * 32 + 32 + 32 * 32 + 32 + 32 * 4 + 4)
ADAPTED = ("model.factory=adapted:Adapted", "model.args={}", "snapshots.only=trainable")
# Of the layers' matrices: 256 + 3 * 64 numbers of rank 1, the head's 4 * 64 + 4; of BatchNorm scale
# and shift [64] in float32.
ADAPTED_BYTES = 2 * (256 + 3 * 64 + 4 * 64 + 4) + 4 * 2 * 64


@pytest.mark.parametrize(
    ("cores", "keys", "snapshot_bytes"),
    [
        pytest.param(1, (), MLP_BYTES, marks=pytest.mark.matrix),
        pytest.param(2, ADAPTED, ADAPTED_BYTES, marks=pytest.mark.long),
    ],
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
    [four] = found["devices"]
    assert (four["devices"], [*four["split_ms"]]) == (4, ["1", "2"])
    times = [*four["colocated_ms"].values(), *four["split_ms"].values()]
    assert four["step_ms"] == min(times) and four["options"].startswith("--workers ")
    assert len(found["parts"]["share_s"]) == 2, "eight points make four parts of two at most"
    assert found["verdict"].startswith(("Worth it", "Not worth it", "Doubtful"))
    assert found["lead"]["steps"] == 20, "those of the run"
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
        (("--set", "trainer.parallel=fsdp"), "'fsdp', allowed 'replicated' for a plan"),
    ],
)
def test_bad_input_is_one_line(tiny_config: Path, arguments: tuple[str, ...], said: str) -> None:
    result = rhoctl("plan", tiny_config, *arguments)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert said in result.err


@pytest.mark.parametrize(
    ("keys", "workers", "started", "said"),
    [
        ([], 1, 0, "cluster.mode: colocated, without workers: each of 2 devices scores up to 2 of"),
        ([], 3, 3, "cluster.mode: split, as 4 processes would score up to 1 of the 4 chunks of"),
        (["selection.chunk=8"], 1, 1, "cluster.mode: colocated, as 2 processes would score up to"),
        ([], 0, 0, "cluster.mode: colocated, as there are no workers"),
        (["selection.lag=1"], 1, 1, "cluster.mode: split, in which scoring overlaps training"),
        (["cluster.address=auto"], 1, 1, "cluster.mode: split, as workers may be on other"),
        (["cluster.mode=split"], 1, 1, ""),
        (["trainer.devices=1"], 1, 1, ""),
    ],
    ids=lambda value: str(value),
)
def test_a_run_says_who_scores(
    tiny_config: Path, keys: list[str], workers: int, started: int, said: str
) -> None:
    sets = ["trainer.micro_batches=4", "trainer.devices=2", *keys]
    console = Console(file=io.StringIO(), soft_wrap=True)
    assert scorers_of(open_inputs(load(tiny_config, sets)), workers, console) == started
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.startswith(said) and text.count("\n") == (said != "")
