"""The Selection service by its protocol: bare stubs, a real server, broken and hostile callers."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
import torch
from safetensors.torch import load, save
from service_helpers import Gated, inputs, service
from torch import Tensor

from rhoselect.errors import FencedError, ModelError, UserError, WaitError
from rhoselect.inputs import RunInputs
from rhoselect.metrics import Metrics
from rhoselect.protos import selection_pb2 as pb
from rhoselect.protos.selection_pb2_grpc import SelectionStub
from rhoselect.queue.memory import MemoryQueue
from rhoselect.scorer.build import build_scorer
from rhoselect.selector.build import build_session
from rhoselect.selector.start import Start
from rhoselect.service import blobs
from rhoselect.service.channel import open_channel
from rhoselect.service.errors import status_to_errors
from rhoselect.service.security import Security
from rhoselect.service.selection import Selection
from rhoselect.service.server import Host
from rhoselect.snapshots.local import LocalStore
from rhoselect.trainer.runfolder import RunFolder

MIB = 1 << 20


class Learner:
    """A session by its bare calls."""

    def __init__(self, run: RunInputs, channel: grpc.Channel) -> None:
        self.stub = SelectionStub(channel)
        self.run = self.stub.OpenRun(pb.OpenRunRequest())
        self.session = self.run.session
        self.weights: dict[str, Tensor] = dict(run.new_model().state_dict())
        self.layout = blobs.from_specs(self.run.layout)

    def publish(self, version: int, weights: dict[str, Tensor] | None = None) -> None:
        self.send(version, blobs.pack(weights or self.weights, self.layout))

    def send(self, version: int, blob: bytes, head: pb.BlobHeader | None = None) -> None:
        self.stub.PublishSnapshot(iter(self.parts(version, blob, head)))

    def parts(
        self, version: int, blob: bytes, head: pb.BlobHeader | None = None
    ) -> list[pb.PublishSnapshotRequest]:
        header = pb.PublishSnapshotHeader(
            session=self.session, version=version, blob=head or blobs.header(blob)
        )
        chunks = [pb.PublishSnapshotRequest(chunk=chunk) for chunk in blobs.chunks(blob)]
        return [pb.PublishSnapshotRequest(header=header), *chunks]

    def next(self, step: int, timeout_s: float = 30.0) -> dict[str, Tensor]:
        request = pb.NextBatchRequest(session=self.session, step=step, with_inputs=True)
        parts = self.stub.NextBatch(request, timeout=timeout_s)
        arriving = blobs.Arriving(next(parts).header.blob)
        for part in parts:
            arriving.add(part.chunk)
        return arriving.tensors()

    def indices(self, step: int) -> list[int]:
        indices: list[int] = self.next(step)["indices"].tolist()
        return indices


@pytest.fixture(scope="module")
def run(tiny_config: Path) -> RunInputs:
    return inputs(tiny_config, ["selection.function=service_helpers:Gated"])


@pytest.fixture(scope="module")
def channel(run: RunInputs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpc.Channel]:
    folder = tmp_path_factory.mktemp("served") / "run"
    with service(run, folder) as address, open_channel(address, Security()) as channel:
        yield channel


@pytest.fixture
def learner(run: RunInputs, channel: grpc.Channel) -> Learner:
    return Learner(run, channel)


def test_calls_may_be_repeated(learner: Learner) -> None:
    learner.publish(0)
    first = learner.next(0)
    other = {name: tensor + 1 for name, tensor in learner.weights.items()}
    learner.publish(0, other)
    again = learner.next(0)
    assert first.keys() == again.keys() >= {"indices", "inputs", "labels", "scores", "weights"}
    assert all(torch.equal(first[name], again[name]) for name in first)
    learner.publish(1, other)
    learner.publish(0)
    after = learner.indices(1)
    assert after != first["indices"].tolist()
    assert learner.indices(1) == after
    report = pb.ReportRequest(session=learner.session, step=1, losses=[1.0] * 8)
    for _ in range(2):
        learner.stub.Report(report)
        learner.stub.Close(pb.CloseRequest(session=pb.Session(run_id="another", generation=1)))
    learner.stub.Close(pb.CloseRequest(session=learner.session))
    learner.stub.Close(pb.CloseRequest(session=learner.session))
    with pytest.raises(FencedError), status_to_errors(""):
        learner.next(1)


def test_calls_out_of_turn_are_refused_and_change_nothing(learner: Learner) -> None:
    learner.publish(0)
    wrong: list[Callable[[], object]] = [
        lambda: learner.publish(1),
        lambda: learner.next(1),
        lambda: learner.next(-1),
        lambda: learner.next(20),
        lambda: learner.stub.Report(pb.ReportRequest(session=learner.session, step=0)),
        lambda: learner.stub.OpenRun(pb.OpenRunRequest(step=21)),
        lambda: learner.stub.OpenRun(pb.OpenRunRequest(step=-1)),
    ]
    for call in wrong:
        with pytest.raises(UserError, match="allowed"), status_to_errors(""):
            call()
    first = learner.indices(0)
    with pytest.raises(UserError, match="before its weights"), status_to_errors(""):
        learner.next(1)
    losses = pb.ReportRequest(session=learner.session, step=0, losses=[float("nan")] * 8)
    with pytest.raises(UserError, match="finite"), status_to_errors(""):
        learner.stub.Report(losses)
    assert learner.indices(0) == first


def test_a_broken_snapshot_stream_started_again(learner: Learner) -> None:
    learner.publish(0)
    expected = learner.indices(0)
    parts = learner.parts(1, blobs.pack(learner.weights, learner.layout))
    held = threading.Event()
    got_there = threading.Event()

    def broken() -> Iterator[pb.PublishSnapshotRequest]:
        yield parts[0]
        yield pb.PublishSnapshotRequest(chunk=parts[1].chunk[: len(parts[1].chunk) // 2])
        got_there.set()
        held.wait()

    call = learner.stub.PublishSnapshot.future(broken())
    got_there.wait()
    call.cancel()
    held.set()
    with pytest.raises(UserError, match="before its weights"), status_to_errors(""):
        learner.next(1)
    learner.publish(1)
    assert learner.indices(1) != expected


def test_of_two_snapshots_that_arrive_at_once_the_later_is_taken(learner: Learner) -> None:
    """So that streams which stand still do not add up in memory."""
    parts = learner.parts(0, blobs.pack(learner.weights, learner.layout))
    held, got_there = threading.Event(), threading.Event()

    def slow() -> Iterator[pb.PublishSnapshotRequest]:
        yield from parts[:-1]
        got_there.set()
        held.wait()
        yield parts[-1]

    call = learner.stub.PublishSnapshot.future(slow())
    got_there.wait()
    learner.publish(0)
    held.set()
    with pytest.raises(UserError, match="another one began to arrive"), status_to_errors(""):
        call.result()
    assert len(learner.indices(0)) == 8


@pytest.fixture(params=["fp32", "bf16"])
def precise_learner(
    request: pytest.FixtureRequest, tiny_config: Path, tmp_path: Path
) -> Iterator[Learner]:
    """Of a service whose snapshots have this precision."""
    run = inputs(tiny_config, [f"scorer.precision={request.param}"])
    with service(run, tmp_path / "run") as address, open_channel(address, Security()) as channel:
        yield Learner(run, channel)


def test_malformed_snapshots_are_refused(precise_learner: Learner) -> None:
    learner = precise_learner
    good = bytes(blobs.pack(learner.weights, learner.layout))
    sent = load(good)
    names = sorted(sent, key=lambda name: sent[name].nbytes)  # a greater size is refused earlier
    fewer = {name: sent[name] for name in names[1:]}
    other_shape = sent | {names[0]: torch.zeros(3, dtype=sent[names[0]].dtype)}
    doubled = sent | {names[0]: sent[names[0]].double()}
    head, empty = blobs.header(good), pb.PublishSnapshotRequest
    parts = learner.parts(0, good)
    for kind, call in (
        (UserError, lambda: learner.stub.PublishSnapshot(iter([]))),
        (UserError, lambda: learner.stub.PublishSnapshot(iter(parts[1:]))),
        (UserError, lambda: learner.stub.PublishSnapshot(iter(parts[:1]))),
        (UserError, lambda: learner.stub.PublishSnapshot(iter([*parts, parts[0]]))),
        (UserError, lambda: learner.stub.PublishSnapshot(iter([*parts, parts[1]]))),
        (UserError, lambda: learner.stub.PublishSnapshot(iter([parts[0], empty(), *parts[1:]]))),
        (UserError, lambda: learner.send(0, good[:-1], head)),
        (UserError, lambda: learner.send(0, good[:-1] + bytes([good[-1] ^ 1]), head)),
        (UserError, lambda: learner.send(0, b"garbled" * 20)),
        (UserError, lambda: learner.send(0, good, pb.BlobHeader(size_bytes=1 << 60))),
        (ModelError, lambda: learner.send(0, save(fewer))),
        (ModelError, lambda: learner.send(0, save(other_shape))),
        (ModelError, lambda: learner.send(0, save(doubled))),
    ):
        with pytest.raises(UserError) as caught, status_to_errors(""):
            call()
        assert type(caught.value) is kind
        assert "\n" not in str(caught.value)
    learner.publish(0)
    assert len(learner.indices(0)) == 8


def test_oversized_and_garbled_messages_are_refused(
    learner: Learner, channel: grpc.Channel
) -> None:
    header = learner.parts(0, b"?", pb.BlobHeader(size_bytes=MIB, sha256=bytes(32)))[0]
    for size in (MIB + 1, 2 * MIB, 64 * MIB):
        chunk = pb.PublishSnapshotRequest(chunk=bytes(size))
        with pytest.raises(grpc.RpcError) as caught:
            learner.stub.PublishSnapshot(iter([header, chunk]))
        refused = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED
        assert caught.value.code() in refused
    for method in ("OpenRun", "NextBatch", "Report", "Close", "NoSuchMethod"):
        bare = channel.unary_unary(f"/rhoselect.v1.Selection/{method}")
        with pytest.raises(grpc.RpcError):
            bare(b"\xff" * 100)
    learner.publish(0)
    assert len(learner.indices(0)) == 8


def test_a_deadline_ends_the_call_and_not_the_work(learner: Learner) -> None:
    Gated.gate.clear()
    try:
        learner.publish(0)
        with pytest.raises(WaitError, match="deadline"), status_to_errors(""):
            learner.next(0, timeout_s=0.3)
    finally:
        Gated.gate.set()
    assert len(learner.indices(0)) == 8


def test_a_newer_session_ends_the_older(run: RunInputs, channel: grpc.Channel) -> None:
    older = Learner(run, channel)
    older.publish(0)
    newer = Learner(run, channel)
    assert newer.session.run_id == older.session.run_id
    assert newer.session.generation > older.session.generation
    for call in (lambda: older.next(0), lambda: older.publish(1)):
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert caught.value.code() is grpc.StatusCode.ABORTED
        with pytest.raises(FencedError), status_to_errors(""):
            call()
    newer.publish(0)
    assert len(newer.indices(0)) == 8


def test_a_session_whose_caller_left_while_it_opened_is_ended() -> None:
    """And so is the one before it, which it has fenced."""
    began, gate, ended = threading.Event(), threading.Event(), []
    abandoned = SimpleNamespace(abandon=lambda: None)

    @contextmanager
    def opening(step: int, ranks: int) -> Iterator[tuple[pb.OpenRunResponse, Any]]:
        if step == 1:
            began.set()
            gate.wait()
        yield pb.OpenRunResponse(session=pb.Session(generation=step)), abandoned
        ended.append(step)

    selection = Selection(opening)
    with (
        Host([selection.service], "127.0.0.1:0", Security()) as host,
        open_channel(host.address, Security()) as channel,
    ):
        stub = SelectionStub(channel)
        stub.OpenRun(pb.OpenRunRequest(step=0))
        left = stub.OpenRun.future(pb.OpenRunRequest(step=1))
        assert began.wait(20)
        left.cancel()
        with pytest.raises(grpc.FutureCancelledError):
            left.result()
        gate.set()
        answer = stub.OpenRun(pb.OpenRunRequest(step=2))  # waits until those before have ended
        assert (answer.session.generation, ended) == (2, [1, 0])
        asyncio.run_coroutine_threadsafe(selection.end(), host.loop).result()
    assert ended == [1, 0, 2]


@pytest.mark.matrix
def test_thousands_of_calls_leave_nothing_behind(learner: Learner) -> None:
    learner.publish(0)
    report = pb.ReportRequest(session=learner.session, step=0, losses=[1.0] * 8)
    learner.next(0)

    def calls(count: int) -> tuple[int, int]:
        """Open files, and resident bytes, after more calls."""
        for number in range(count):
            if number % 50:
                learner.stub.Report(report)
            else:
                learner.next(0)
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return len(os.listdir("/proc/self/fd")), pages * os.sysconf("SC_PAGE_SIZE")

    files, resident = calls(500)
    files_after, resident_after = calls(2500)
    assert files_after <= files
    assert resident_after - resident < 4 * MIB, "under two kilobytes a call"


def test_a_call_that_waits_is_let_go_at_the_end(tiny_config: Path, tmp_path: Path) -> None:
    """Of a session whose one scorer never comes."""
    run = inputs(tiny_config, ["trainer.scores=false"])
    folder = RunFolder.create(tmp_path / "run", run.config)
    queue, snapshots = MemoryQueue(lease_s=30.0), LocalStore()
    scorer = build_scorer(run, torch.device("cpu"), 1, 2, queue, snapshots, Metrics())
    session = build_session(run, scorer, queue, snapshots, folder, workers=1, start=Start())
    session.publish(0, run.new_model().state_dict())
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(session.next, 0)
        session.abandon()
        with pytest.raises(FencedError, match="one client of a run at a time"):
            waiting.result()
