"""Every snapshot store under one contract: in this process, in shared memory, through Ray or gRPC.

``Ends.elsewhere`` reads in another thread (local), in another process (shm) or in a Ray worker.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import (
    FIRST_COMPLETED,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rhoselect.config import QueueConfig, load
from rhoselect.errors import RunError, ServiceError, SnapshotGoneError
from rhoselect.inputs import open_inputs
from rhoselect.nest import mapped
from rhoselect.protos import snapshots_pb2
from rhoselect.protos.snapshots_pb2_grpc import SnapshotsStub
from rhoselect.service.channel import open_channel
from rhoselect.service.security import Security
from rhoselect.service.server import Host
from rhoselect.service.snapshots import Snapshots
from rhoselect.snapshots import SnapshotReader, SnapshotStore, shm
from rhoselect.snapshots.base import Pieces
from rhoselect.snapshots.buffers import Buffer, Staging
from rhoselect.snapshots.codec import decode, encode
from rhoselect.snapshots.format import Header, pack, unpack
from rhoselect.snapshots.grpc import GrpcStore
from rhoselect.snapshots.local import LocalStore
from rhoselect.snapshots.shm import RECHECK_S, SharedMemoryStore
from rhoselect.trainer.runfolder import RunFolder

LONG_S = 60.0  # for reads that end before
SOON_S = 20.0
_first = itertools.count(0, 1000)
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Content:
    """What a test publishes: weights as the trainer has them, the scorers' dtypes, the state."""

    tensors: Tensors
    layout: Mapping[str, torch.dtype]
    state: Tensors = field(default_factory=dict)

    def publish(self, store: SnapshotStore, version: int) -> None:
        store.publish(version, self.tensors, self.layout, self.state)

    @property
    def picture(self) -> object:
        """What arrives, by the plainest means."""
        return picture({n: self.tensors[n].to(d) for n, d in self.layout.items()}, self.state)


def picture(weights: Tensors, state: Tensors) -> object:
    """Comparable: bits, not values."""

    def bits(t: Tensor) -> tuple[torch.dtype, list[int], bytes]:
        flat = t.detach().contiguous().reshape(-1)
        return t.dtype, [*t.shape], flat.view(torch.uint8).numpy().tobytes()

    return (
        {name: bits(t) for name, t in weights.items()},
        {name: bits(t) for name, t in state.items()},
    )


def read(store: SnapshotReader, version: int, timeout_s: float) -> object:
    """The picture of a version copied out of the store; None if it did not come."""
    weights: dict[str, Tensor] = {}

    def into(pieces: Pieces) -> None:
        for name, tensor in pieces:
            assert name not in weights
            weights[name] = tensor.clone()

    state = store.load(version, into, timeout_s)
    if state is None:
        assert not weights
        return None
    return picture(weights, state)


def read_shm(folder: Path, version: int, timeout_s: float) -> object:
    store = SharedMemoryStore(folder, writer=False)
    try:
        return read(store, version, timeout_s)
    finally:
        store.close()


@dataclass(frozen=True)
class Ends:
    """A store: its writer, a maker of readers, a read elsewhere; ``first`` version of the test."""

    writer: SnapshotStore
    reader: Callable[[], SnapshotReader]
    elsewhere: Callable[[int, float], Future[object]]
    first: int


@pytest.fixture
def shm_folder() -> Path:
    return SharedMemoryStore.new_folder(f"test{secrets.token_hex(4)}", 1)


@pytest.fixture(scope="module")
def other_process() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.fixture(scope="module")
def ray_ends(ray_session: None) -> Iterator[Ends]:
    import ray

    from rhoselect.snapshots.ray import RayStore, start_board

    board = start_board()

    def work(version: int, timeout_s: float) -> bytes | None:
        weights: dict[str, Tensor] = {}
        state = RayStore(board).load(version, weights.update, timeout_s)
        return None if state is None else encode(version, weights, state)

    def there(version: int, timeout_s: float) -> object:
        task = ray.remote(work).options(num_cpus=0)
        data = ray.get(task.remote(version, timeout_s))
        return None if data is None else picture(*decode(data)[1:])

    with ThreadPoolExecutor(1) as thread:
        yield Ends(
            RayStore(board), lambda: RayStore(board), lambda v, s: thread.submit(there, v, s), 0
        )


@contextmanager
def over_grpc(folder: Path, first: int, serve: type[Snapshots] = Snapshots) -> Iterator[Ends]:
    """The service of a run whose snapshots are in shared memory."""
    writer = SharedMemoryStore(folder, writer=True)
    run: Any = SimpleNamespace(folder=RunFolder(folder, "run", 1))
    run.stores = lambda: SharedMemoryStore(folder, writer=False)
    config = SimpleNamespace(queue=QueueConfig(url="redis://there"))
    inputs: Any = SimpleNamespace(config=config, sha256="")
    service = serve(run, inputs)
    security = Security()
    with (
        closing(writer),
        closing(service),
        Host([service.service], "127.0.0.1:0", security) as host,
        open_channel(host.address, security) as channel,
        ThreadPoolExecutor(1) as thread,
    ):

        def reader() -> GrpcStore:
            return GrpcStore(channel, "run", 1)

        yield Ends(writer, reader, lambda v, s: thread.submit(read, reader(), v, s), first)


@pytest.fixture(params=["local", "shm", "ray", "grpc"])
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    first = next(_first)
    if request.param == "local":
        local = LocalStore()
        with ThreadPoolExecutor(1) as thread:
            yield Ends(local, lambda: local, lambda v, s: thread.submit(read, local, v, s), first)
    elif request.param == "shm":
        folder: Path = request.getfixturevalue("shm_folder")
        pool: ProcessPoolExecutor = request.getfixturevalue("other_process")
        writer, readers = SharedMemoryStore(folder, writer=True), list[SharedMemoryStore]()

        def reader() -> SharedMemoryStore:
            readers.append(SharedMemoryStore(folder, writer=False))
            return readers[-1]

        yield Ends(writer, reader, lambda v, s: pool.submit(read_shm, folder, v, s), first)
        for store in (*readers, writer):
            store.close()
    elif request.param == "grpc":
        with over_grpc(request.getfixturevalue("shm_folder"), first) as found:
            yield found
    else:
        shared: Ends = request.getfixturevalue("ray_ends")
        shared.writer.retire(first)  # what earlier tests left on the board
        yield Ends(shared.writer, shared.reader, shared.elsewhere, first)


def odd_content() -> Content:
    """Tensors of every kind that travels, with values that arithmetic would not keep."""
    odd = torch.tensor([float("nan"), float("inf"), -0.0, 1e-45, 1 / 3])
    tensors: dict[str, Tensor] = {
        "head.weight": torch.nn.Parameter(torch.randn(3, 5)),
        "head.bias": odd,
        "half": odd.half(),
        "transposed": torch.arange(6.0).reshape(2, 3).t(),
        "bn.num_batches_tracked": torch.tensor(2**53 + 1),
        "reference.0.weight": torch.randn(0, 4),
        "not for scorers": torch.randn(7),
    }
    layout = {n: t.dtype for n, t in tensors.items() if n != "not for scorers"}
    layout["head.weight"] = torch.bfloat16
    return Content(tensors, layout, {"class_weights": torch.rand(10), "step": torch.tensor(3)})


def content(version: int) -> Content:
    return Content({"w": torch.full((4,), version + 0.5)}, {"w": torch.float32})


def are_waiting(*futures: Future[object]) -> bool:
    return not wait(futures, timeout=0.3, return_when=FIRST_COMPLETED).done


# The contract of every store


@pytest.mark.parametrize("kind", ["full", "no weights", "no state", "nothing"])
def test_a_snapshot_arrives_cast_and_bit_for_bit(ends: Ends, kind: str) -> None:
    sent = odd_content()
    layout = sent.layout if kind in ("full", "no state") else {}
    state = sent.state if kind in ("full", "no weights") else {}
    for version in (ends.first, ends.first + 1):
        sent = Content(odd_content().tensors, layout, state)
        sent.publish(ends.writer, version)
        assert read(ends.reader(), version, LONG_S) == sent.picture
        assert ends.elsewhere(version, LONG_S).result(SOON_S) == sent.picture


def test_the_trainer_may_change_its_tensors_once_they_are_published(ends: Ends) -> None:
    weight, state = torch.ones(4), torch.ones(2)
    sent = Content({"w": weight}, {"w": torch.float32}, {"s": state})
    before = sent.picture
    sent.publish(ends.writer, ends.first)
    weight.zero_()
    state.zero_()
    assert read(ends.reader(), ends.first, LONG_S) == before


def test_a_reader_waits_for_a_snapshot_that_comes_later(ends: Ends) -> None:
    future = ends.elsewhere(ends.first, LONG_S)
    assert are_waiting(future)
    content(ends.first).publish(ends.writer, ends.first)
    assert future.result(SOON_S) == content(ends.first).picture


def test_no_wake_up_is_lost_however_reads_and_publishes_cross(ends: Ends) -> None:
    for version in range(ends.first, ends.first + 25):
        future = ends.elsewhere(version, LONG_S)
        content(version).publish(ends.writer, version)
        assert future.result(SOON_S) == content(version).picture


def test_one_publish_wakes_every_waiting_reader(ends: Ends) -> None:
    with ThreadPoolExecutor(4) as threads:
        futures = [threads.submit(read, ends.reader(), ends.first, LONG_S) for _ in range(4)]
        assert are_waiting(*futures)
        content(ends.first).publish(ends.writer, ends.first)
        assert all(f.result(SOON_S) == content(ends.first).picture for f in futures)


def test_what_is_not_published_in_time_is_none(ends: Ends) -> None:
    reader = ends.reader()
    assert read(reader, ends.first, 0) is None
    started = time.monotonic()
    assert read(reader, ends.first, 0.4) is None
    assert 0.4 <= time.monotonic() - started < LONG_S / 2
    assert ends.elsewhere(ends.first, 0).result(LONG_S) is None


def test_what_is_there_is_given_without_waiting(ends: Ends) -> None:
    content(ends.first).publish(ends.writer, ends.first)
    assert ends.elsewhere(ends.first, LONG_S).result(LONG_S) is not None  # it has surely arrived
    assert read(ends.reader(), ends.first, 0) == content(ends.first).picture


def test_a_reader_gets_exactly_the_version_it_names(ends: Ends) -> None:
    for version in (ends.first + 3, ends.first + 5):
        content(version).publish(ends.writer, version)
    reader = ends.reader()
    for version in (ends.first + 3, ends.first + 5):
        assert read(reader, version, LONG_S) == content(version).picture
    assert read(reader, ends.first + 4, 0) is None
    assert read(reader, ends.first + 6, 0) is None


def test_a_retired_snapshot_is_gone_and_says_so(ends: Ends) -> None:
    for version in range(ends.first, ends.first + 4):
        content(version).publish(ends.writer, version)
    ends.writer.retire(ends.first + 2)
    with pytest.raises(SnapshotGoneError, match=f"snapshot {ends.first + 1}"):
        ends.elsewhere(ends.first + 1, LONG_S).result(LONG_S)
    reader = ends.reader()
    for timeout_s in (0, LONG_S):
        with pytest.raises(SnapshotGoneError):
            read(reader, ends.first, timeout_s)
    for version in (ends.first + 2, ends.first + 3):
        assert read(reader, version, LONG_S) == content(version).picture


def test_a_reader_that_waits_learns_that_its_snapshot_is_gone(ends: Ends) -> None:
    future = ends.elsewhere(ends.first + 5, LONG_S)
    assert are_waiting(future)
    ends.writer.retire(ends.first + 6)
    with pytest.raises(SnapshotGoneError, match=f"snapshot {ends.first + 5}"):
        future.result(SOON_S)


def test_what_is_retired_stays_retired(ends: Ends) -> None:
    ends.writer.retire(ends.first + 6)
    ends.writer.retire(ends.first + 3)
    with pytest.raises(SnapshotGoneError):
        ends.elsewhere(ends.first + 4, LONG_S).result(LONG_S)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.sampled_from(["publish", "retire"]), st.integers(0, 3)), max_size=25))
def test_shm_keeps_what_the_plain_store_keeps(calls: list[tuple[str, int]]) -> None:
    """Whatever is published and retired, however buffers are reused for it."""
    plain, run = LocalStore(), f"test{secrets.token_hex(4)}"
    writer = SharedMemoryStore(SharedMemoryStore.new_folder(run, 1), writer=True)
    stores: list[SnapshotStore] = [plain, writer]
    version = 0
    for what, number in calls:
        for store in stores:
            if what == "publish":
                content(version).publish(store, version)
            else:
                store.retire(version - number)
        version += what == "publish"
    for asked in range(version + 1):
        found: list[object] = []
        for store in stores:
            try:
                found.append(read(store, asked, 0))
            except SnapshotGoneError:
                found.append("gone")
        assert found[0] == found[1]
    writer.close()


# Shared memory


@pytest.fixture
def store(shm_folder: Path) -> Iterator[SharedMemoryStore]:
    store = SharedMemoryStore(shm_folder, writer=True)
    yield store
    store.close()


def test_shm_folder_is_private_and_goes_with_its_writer(shm_folder: Path) -> None:
    reader = SharedMemoryStore(shm_folder, writer=False)  # may come first
    assert read(reader, 1, 0.01) is None
    writer = SharedMemoryStore(shm_folder, writer=True)
    assert shm_folder.stat().st_mode & 0o777 == 0o700
    content(1).publish(writer, 1)
    assert read(reader, 1, LONG_S) is not None
    assert read(reader, 2, 0.01) is None
    assert len(list(shm_folder.glob("*.sock"))) == 1
    reader.close()
    assert {path.suffix for path in shm_folder.iterdir()} == {"", ".safetensors"}
    other = SharedMemoryStore(shm_folder, writer=False)
    assert read(other, 1, 0) is not None
    writer.close()
    assert not shm_folder.exists()
    assert read(other, 1, 0) is None
    other.close()


def test_shm_is_given_back_by_the_next_generation_of_a_killed_trainer(shm_folder: Path) -> None:
    run = shm_folder.name.split("-")[2]
    killed = SharedMemoryStore(shm_folder, writer=True)
    content(1).publish(killed, 1)
    other = SharedMemoryStore(SharedMemoryStore.new_folder(f"{run}x", 1), writer=True)
    assert SharedMemoryStore.new_folder(run, 2) != shm_folder
    assert not shm_folder.exists()
    content(1).publish(other, 1)
    for store in (other, killed):
        store.close()


@pytest.mark.parametrize(("wanted_bytes", "root"), [(0, "/dev/shm"), (1 << 62, "/tmp")])
def test_shm_without_room_uses_the_disk(
    monkeypatch: pytest.MonkeyPatch, wanted_bytes: int, root: str
) -> None:
    """As in a container; and on a machine without /dev/shm."""
    monkeypatch.setattr(shm, "ROOM_BYTES", wanted_bytes)
    folder = SharedMemoryStore.new_folder(f"test{secrets.token_hex(4)}", 1)
    assert folder.parent == Path(root if Path(root).is_dir() else "/tmp")
    with closing(SharedMemoryStore(folder, writer=True)) as writer:
        content(1).publish(writer, 1)
        with closing(SharedMemoryStore(folder, writer=False)) as reader:
            assert read(reader, 1, LONG_S) is not None


def test_shm_memory_is_bounded_by_what_is_kept(store: SharedMemoryStore, shm_folder: Path) -> None:
    for version in range(20):
        content(version).publish(store, version)
        store.retire(version - 2)
    assert len(list(shm_folder.glob("*.safetensors"))) == 4  # three kept, one to write into


def test_shm_says_so_when_more_are_kept_than_it_has_buffers(
    store: SharedMemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shm, "MOST_BUFFERS", 2)
    for version in (1, 2):
        content(version).publish(store, version)
    with pytest.raises(RunError, match=r"more than 2, .*lower selection\.lag"):
        content(3).publish(store, 3)


def test_shm_buffers_are_safetensors_files(store: SharedMemoryStore, shm_folder: Path) -> None:
    sent = odd_content()
    sent.publish(store, 1)
    (path,) = shm_folder.glob("*.safetensors")
    tensors = safetensors.torch.load_file(path)
    parts = [
        {n.removeprefix(prefix): tensors[n] for n in tensors if n.startswith(prefix)}
        for prefix in ("weights.", "state.")
    ]
    assert picture(*parts) == sent.picture


def test_shm_wakes_its_readers_at_once(store: SharedMemoryStore, shm_folder: Path) -> None:
    """A step must not wait for a poll: 20 round trips take less than a few polls would."""
    reader = SharedMemoryStore(shm_folder, writer=False)
    rounds = 20
    with ThreadPoolExecutor(1) as thread:
        started = time.monotonic()
        for version in range(rounds):
            future = thread.submit(read, reader, version, LONG_S)
            content(version).publish(store, version)
            assert future.result(SOON_S) == content(version).picture
        assert time.monotonic() - started < rounds * RECHECK_S / 2
    reader.close()


def test_shm_reader_of_a_reused_buffer_is_told(store: SharedMemoryStore, shm_folder: Path) -> None:
    """In the middle of a load its version is retired and the buffer written again."""
    reader = SharedMemoryStore(shm_folder, writer=False)
    content(1).publish(store, 1)

    def into(pieces: Pieces) -> None:
        next(pieces)
        store.retire(3)
        content(3).publish(store, 3)

    with pytest.raises(SnapshotGoneError, match="snapshot 1"):
        reader.load(1, into, LONG_S)
    assert read(reader, 3, 0) == content(3).picture
    reader.close()


def test_shm_reader_that_was_too_slow_is_told(store: SharedMemoryStore, shm_folder: Path) -> None:
    """All tensors had arrived when it began to copy; then the buffer was written again."""
    reader, layout = SharedMemoryStore(shm_folder, writer=False), {"w": torch.float32}
    store.publish(1, {"w": torch.full((1000,), 1.0)}, layout, {})
    copied = list[Tensor]()

    def into(pieces: Pieces) -> None:
        arrived = dict(pieces)
        store.retire(3)
        store.publish(3, {"w": torch.full((1000,), 3.0)}, layout, {})
        copied.append(arrived["w"].clone())

    with pytest.raises(SnapshotGoneError, match="snapshot 1"):
        reader.load(1, into, LONG_S)
    assert copied[0].eq(3.0).all(), "the race that the reader must notice"
    reader.close()


def test_shm_staged_as_from_a_gpu_has_the_same_bytes(store: SharedMemoryStore) -> None:
    tensors = {str(n): torch.randn(n % 7 + 1, 5) for n in range(40)}
    layout = {name: (torch.bfloat16, torch.float32)[len(name) % 2] for name in tensors}
    store.publish(1, tensors, layout, {})
    published = read(store, 1, 0)
    store._staging = Staging(store._buffer(0).size, torch.device("cpu"))
    for version in (2, 3):  # the second time in memory that was used before
        store.publish(version, tensors, layout, {})
        assert read(store, version, 0) == published


class Gate(torch.Tensor):
    """A tensor that, when a publish comes to copy it, calls ``reached``."""

    reached: Callable[[], None]

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func is torch._foreach_copy_:
            for gate in args[1]:
                gate.reached()
        plain = mapped(args, lambda tensor: tensor.as_subclass(torch.Tensor))
        return func(*plain, **(kwargs or {}))


def test_shm_is_loaded_while_it_is_still_being_written(
    store: SharedMemoryStore, shm_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that comes half-way begins once it sees progress, so there are many pieces."""
    monkeypatch.setattr(shm, "PART_BYTES", 1)
    first, last = Future[str](), "4999"
    loaded: dict[str, Tensor] = {}

    def into(pieces: Pieces) -> None:
        for name, tensor in pieces:
            loaded[name] = tensor.clone()
            if not first.done():
                first.set_result(name)

    tensors = {str(n): torch.full((1,), float(n)).as_subclass(Gate) for n in range(5000)}
    for gate in tensors.values():
        gate.reached = lambda: wait([first], timeout=0.001)
    tensors[last].reached = lambda: first.result(0)  # or the publish fails
    reader = SharedMemoryStore(shm_folder, writer=False)
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(reader.load, 1, into, LONG_S)
        store.publish(1, tensors, dict.fromkeys(tensors, torch.float32), {})
        assert future.result(SOON_S) == {}
    assert {name: t.item() for name, t in loaded.items()} == {str(n): n for n in range(5000)}
    reader.close()


def publish_slowly(folder: Path, orders: Connection) -> None:
    """Publish version 1 in thousands of pieces, each when told to."""
    shm.PART_BYTES = 1

    def reached() -> None:
        orders.send("here")
        orders.recv()

    tensors = {str(n): torch.ones(1).as_subclass(Gate) for n in range(5000)}
    for gate in tensors.values():
        gate.reached = reached
    layout = dict.fromkeys(tensors, torch.float32)
    SharedMemoryStore(folder, writer=True).publish(1, tensors, layout, {})


def test_shm_half_a_snapshot_of_a_killed_writer_is_not_loaded(
    shm_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a reader that is in the middle of it, nor by one that has not begun."""
    monkeypatch.setattr(shm, "STALL_S", 0.5)
    monkeypatch.setattr(shm, "PART_BYTES", 1)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    writer = context.Process(target=publish_slowly, args=(shm_folder, theirs))
    writer.start()
    assert ours.recv() == "here"
    reader, other = (SharedMemoryStore(shm_folder, writer=False) for _ in range(2))
    first_piece = Future[None]()

    def into(pieces: Pieces) -> None:
        next(pieces)
        first_piece.set_result(None)
        list(pieces)

    with ThreadPoolExecutor(1) as thread:
        load = thread.submit(reader.load, 1, into, LONG_S)
        for _ in range(3):
            ours.send("go")
            assert ours.recv() == "here"
        while not first_piece.done():
            ours.send("go")
            assert ours.recv() == "here"
        writer.kill()
        writer.join()
        with pytest.raises(SnapshotGoneError, match="snapshot 1"):
            load.result(SOON_S)
    for each in (reader, other):
        assert read(each, 1, 0) is None  # it is mapped by now
        busy = time.thread_time()
        assert read(each, 1, 1.0) is None
        assert time.thread_time() - busy < 0.2
        each.close()
    SharedMemoryStore.new_folder(shm_folder.name.split("-")[2], 2)  # tidies up


def test_shm_of_killed_writers_goes_with_the_next_run_of_all(
    store: SharedMemoryStore, shm_folder: Path
) -> None:
    context = multiprocessing.get_context("spawn")
    left = SharedMemoryStore.new_folder(f"test{secrets.token_hex(4)}", 1)
    ours, theirs = context.Pipe()
    writer = context.Process(target=publish_slowly, args=(left, theirs))
    writer.start()
    assert ours.recv() == "here"
    for folder in (left, shm_folder):
        os.utime(folder, (0, 0))
    run = f"test{secrets.token_hex(4)}"
    SharedMemoryStore.new_folder(run, 1)
    assert left.exists() and shm_folder.exists(), "their writers live"
    writer.kill()
    writer.join()
    SharedMemoryStore.new_folder(run, 1)
    assert not left.exists() and shm_folder.exists()


def test_shm_is_not_disturbed_by_a_reader_that_was_killed(
    store: SharedMemoryStore, shm_folder: Path
) -> None:
    abandoned = shm_folder / "1-dead.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as reader:
        reader.bind(str(abandoned))
    content(1).publish(store, 1)
    assert read(store, 1, 0) == content(1).picture
    assert not abandoned.exists()


@pytest.mark.parametrize("how", ["killed", "closed", "closed while waiting"])
def test_shm_reader_neither_hangs_nor_spins_when_its_writer_is_gone(
    store: SharedMemoryStore, shm_folder: Path, how: str
) -> None:
    reader = SharedMemoryStore(shm_folder, writer=False)
    if how == "closed while waiting":
        assert read(reader, 1, 0.01) is None
    if how != "killed":
        store.close()
    started, busy = time.monotonic(), time.thread_time()
    assert read(reader, 1, 1.0) is None
    assert 1.0 <= time.monotonic() - started < LONG_S / 2
    assert time.thread_time() - busy < 0.2
    reader.close()


def test_shm_without_room_says_so_before_it_writes(tmp_path: Path) -> None:
    huge = {"w": torch.zeros(1).expand(1 << 60)}
    with pytest.raises(RunError, match="has no room for"):
        Buffer.create(tmp_path / "huge", Header.of(huge, {"w": torch.int8}))


# Ray


def test_attaching_does_not_hash_the_inputs_again(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every scorer outside attaches every two seconds; the hash may read gigabytes."""
    weights = tmp_path / "first.pt"
    torch.save(open_inputs(load(tiny_config)).new_model().state_dict(), weights)
    places = [f"model.weights={weights}", "queue.url=redis://there"]
    inputs = open_inputs(load(tiny_config, places))
    hashed = []
    file_digest = hashlib.file_digest

    def counted(*arguments: Any) -> Any:
        hashed.append(arguments)
        return file_digest(*arguments)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    folder = RunFolder.create(tmp_path / "run", inputs.config)
    run: Any = SimpleNamespace(folder=folder, workers=list, stores=lambda: None)
    service = Snapshots(run, inputs)
    assert len(hashed) == 1
    with (
        closing(service),
        Host([service.service], "127.0.0.1:0", Security()) as host,
        open_channel(host.address, Security()) as channel,
    ):
        stub = SnapshotsStub(channel)
        found = {stub.Attach(snapshots_pb2.AttachRequest()).inputs_sha256 for _ in range(20)}
    assert found == {inputs.sha256}
    assert len(hashed) == 1


def test_ray_scorers_of_a_node_read_one_copy(ray_session: None) -> None:
    """Two processes find the weights at the same place of the same shared memory."""
    import ray

    from rhoselect.snapshots.ray import RayStore, start_board

    board = start_board()
    big = torch.arange(1 << 20)
    RayStore(board).publish(1, {"w": big}, {"w": torch.int64}, {})

    def look() -> list[int]:
        """This process, and the file and the offset that the weights are mapped from."""
        found = [os.getpid()]

        def into(pieces: Pieces) -> None:
            for _, weights in pieces:
                assert torch.equal(weights, big)
                address = weights.data_ptr()
                for line in Path("/proc/self/maps").read_text().splitlines():
                    span, _, offset, _, inode, *_ = line.split()
                    start, end = (int(each, 16) for each in span.split("-"))
                    if start <= address < end:
                        found.extend([int(inode), int(offset, 16) + address - start])

        RayStore(board).load(1, into, LONG_S)
        return found

    class Scorer:
        place = staticmethod(look)

    actors = [ray.remote(Scorer).options(num_cpus=0).remote() for _ in range(2)]
    (one, *here), (other, *there) = ray.get([actor.place.remote() for actor in actors])
    assert one != other
    assert here[0] != 0, "no file: a private copy"
    assert here == there


# gRPC


class Damaging(Snapshots):
    """Changes a bit of each of the next ``times`` snapshots that it sends."""

    times = 1

    async def Load(
        self, request: snapshots_pb2.LoadRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[snapshots_pb2.LoadResponse]:
        async for part in super().Load(request, context):
            if self.times:
                self.times -= 1
                part.chunk = part.chunk[:-1] + bytes([part.chunk[-1] ^ 1])
            yield part


@pytest.mark.parametrize("times", [1, 3])
def test_a_snapshot_damaged_on_the_way_is_asked_for_again(
    shm_folder: Path, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Damaging, "times", times)
    with over_grpc(shm_folder, 1, Damaging) as ends:
        content(1).publish(ends.writer, 1)
        if times == 1:
            assert read(ends.reader(), 1, LONG_S) == content(1).picture
        else:
            with pytest.raises(ServiceError, match="checksum differs"):
                read(ends.reader(), 1, LONG_S)


# Bytes


DTYPES = st.sampled_from([torch.bfloat16, torch.float32, torch.float16, torch.int64, torch.bool])
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)


@st.composite
def tensor(draw: st.DrawFn) -> Tensor:
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    dtype = draw(DTYPES)
    size = torch.empty(shape).numel() * dtype.itemsize
    data = draw(st.binary(min_size=size, max_size=size))
    if dtype == torch.bool:
        data = bytes(byte & 1 for byte in data)
    flat = torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)
    return flat.reshape(shape)


@settings(deadline=None)
@given(
    version=st.integers(0, 2**62),
    weights=st.dictionaries(NAMES, tensor(), max_size=4),
    state=st.dictionaries(NAMES, tensor(), max_size=2),
)
def test_encoding_keeps_every_bit(
    version: int, weights: dict[str, Tensor], state: dict[str, Tensor]
) -> None:
    decoded = decode(encode(version, weights, state))
    assert decoded[0] == version
    assert picture(*decoded[1:]) == picture(weights, state)


@settings(deadline=None)
@given(st.dictionaries(NAMES, tensor(), max_size=4))
def test_the_format_is_that_of_the_safetensors_library(tensors: dict[str, Tensor]) -> None:
    expected = picture(tensors, {})
    assert picture(safetensors.torch.load(bytes(pack(tensors))), {}) == expected
    assert picture(unpack(safetensors.torch.save(tensors))[0], {}) == expected


PLACE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "header",
    [
        [],
        {"a": PLACE, "b": PLACE},
        {"a": PLACE | {"data_offsets": [4, 8]}},
        {"a": PLACE | {"shape": [-1]}},
        {"a": PLACE | {"shape": [1.0]}},
        {"a": PLACE | {"shape": [True]}},
        {"a": PLACE | {"shape": [2]}},
        {"a": PLACE | {"dtype": "C64"}},
        {"a": {"dtype": "F32"}},
        {"a": PLACE, "b": PLACE | {"shape": [0, 1 << 70], "data_offsets": [4, 4]}},
        {"a": PLACE, "__metadata__": 1},
        {"a": 1},
        "[" * 100_000,
    ],
)
def test_made_up_headers_are_refused(header: object) -> None:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    with pytest.raises(ValueError, match=r"\w"):
        unpack(len(text).to_bytes(8, "little") + text + bytes(4))


def test_any_changed_bit_is_found() -> None:
    """In the payload always; in the header unless it says the same, as other spaces do."""
    weights = {"a.w": torch.randn(2, 3).bfloat16(), "n": torch.tensor(7)}
    data = encode(12, weights, {})
    payload = len(data) - 2 * 3 * 2 - 8
    for place, bit in itertools.product(range(len(data)), range(8)):
        changed = bytearray(data)
        changed[place] ^= 1 << bit
        try:
            version, *found = decode(bytes(changed))
            assert (version, picture(*found)) == (12, picture(weights, {})), (place, bit)
            assert place < payload, (place, bit)
        except RunError:
            continue


def test_cut_or_foreign_bytes_are_refused() -> None:
    data = encode(3, content(3).tensors, {})
    for end in range(len(data)):
        with pytest.raises(RunError, match="not readable"):
            decode(data[:end])
    with pytest.raises(RunError):
        decode(data + b"\0")


@given(st.binary(max_size=200))
def test_noise_is_refused(data: bytes) -> None:
    with pytest.raises(RunError, match="not readable"):
        decode(data)
