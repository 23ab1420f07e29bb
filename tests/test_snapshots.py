"""Every snapshot store under one contract: in this process, in shared memory, through Ray.

``Ends.elsewhere`` reads in another thread (local), in another process (shm) or in a Ray worker.
"""

from __future__ import annotations

import itertools
import multiprocessing
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rhoselect.errors import RunError, SnapshotGoneError
from rhoselect.snapshots import SnapshotStore
from rhoselect.snapshots.codec import decode, encode
from rhoselect.snapshots.local import LocalStore
from rhoselect.snapshots.shm import RECHECK_S, SharedMemoryStore
from rhoselect.types import Snapshot

LONG_S = 60.0  # for reads that end before
SOON_S = 20.0
_first = itertools.count(0, 1000)


@dataclass(frozen=True)
class Ends:
    """A store: its writer, a maker of readers, a read elsewhere; ``first`` version of the test."""

    writer: SnapshotStore
    reader: Callable[[], SnapshotStore]
    elsewhere: Callable[[int, float], Future[bytes | None]]
    first: int


def read(store: SnapshotStore, version: int, timeout_s: float) -> bytes | None:
    snapshot = store.get(version, timeout_s)
    return None if snapshot is None else encode(snapshot)


def read_shm(folder: Path, version: int, timeout_s: float) -> bytes | None:
    store = SharedMemoryStore(folder, writer=False)
    try:
        return read(store, version, timeout_s)
    finally:
        store.close()


@pytest.fixture
def shm_folder() -> Path:
    return SharedMemoryStore.new_folder(f"test{secrets.token_hex(4)}", 1)


@pytest.fixture(scope="module")
def other_process() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.fixture(scope="module")
def ray_ends(ray_session: None) -> Ends:
    import ray

    from rhoselect.snapshots.ray import RayStore, start_board

    board = start_board()

    def work(version: int, timeout_s: float) -> bytes | None:
        snapshot = RayStore(board).get(version, timeout_s)
        return None if snapshot is None else encode(snapshot)

    def elsewhere(version: int, timeout_s: float) -> Future[bytes | None]:
        task = ray.remote(work).options(num_cpus=0)
        future: Future[bytes | None] = task.remote(version, timeout_s).future()
        return future

    return Ends(RayStore(board), lambda: RayStore(board), elsewhere, 0)


@pytest.fixture(params=["local", "shm", "ray"])
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
    else:
        shared: Ends = request.getfixturevalue("ray_ends")
        yield Ends(shared.writer, shared.reader, shared.elsewhere, first)


def tensors() -> dict[str, Tensor]:
    """Weights of every dtype that travels, with values that arithmetic would not keep."""
    odd = torch.tensor([float("nan"), float("inf"), -0.0, 1e-45, 1 / 3])
    return {
        "head.weight": torch.randn(3, 5).bfloat16(),
        "head.bias": odd,
        "half": odd.half(),
        "transposed": torch.arange(6.0).reshape(2, 3).t(),
        "bn.num_batches_tracked": torch.tensor(2**53 + 1),
        "reference.0.weight": torch.randn(0, 4),
    }


def snapshot(version: int) -> Snapshot:
    return Snapshot(version, {"weight": torch.full((4,), version + 0.5)})


def picture(of: Snapshot | None) -> object:
    """All that a snapshot says, comparable: bits, not values."""
    assert of is not None

    def bits(t: Tensor) -> tuple[torch.dtype, list[int], bytes]:
        return t.dtype, [*t.shape], t.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()

    return (
        of.version,
        {name: bits(t) for name, t in of.tensors.items()},
        {name: bits(t) for name, t in of.state.items()},
    )


def arrived(future: Future[bytes | None]) -> object:
    data = future.result(SOON_S)
    assert data is not None, "the read timed out"
    return picture(decode(data))


def are_waiting(*futures: Future[bytes | None]) -> bool:
    return not wait(futures, timeout=0.3, return_when=FIRST_COMPLETED).done


# The contract of every store


def test_a_snapshot_arrives_bit_for_bit_here_and_elsewhere(ends: Ends) -> None:
    contents = [
        Snapshot(ends.first, tensors(), {"class_weights": torch.rand(10), "step": torch.tensor(3)}),
        Snapshot(ends.first + 1, tensors()),
        Snapshot(ends.first + 2, {}, {"class_weights": torch.rand(10)}),
        Snapshot(ends.first + 3, {}),
    ]
    for content in contents:
        ends.writer.publish(content)
    for content in contents:
        assert picture(ends.reader().get(content.version, LONG_S)) == picture(content)
        assert arrived(ends.elsewhere(content.version, LONG_S)) == picture(content)


def test_a_reader_waits_for_a_snapshot_that_comes_later(ends: Ends) -> None:
    future = ends.elsewhere(ends.first, LONG_S)
    assert are_waiting(future)
    ends.writer.publish(snapshot(ends.first))
    assert arrived(future) == picture(snapshot(ends.first))


def test_no_wake_up_is_lost_however_reads_and_publishes_cross(ends: Ends) -> None:
    for version in range(ends.first, ends.first + 25):
        future = ends.elsewhere(version, LONG_S)
        ends.writer.publish(snapshot(version))
        assert arrived(future) == picture(snapshot(version))


def test_one_publish_wakes_every_waiting_reader(ends: Ends) -> None:
    with ThreadPoolExecutor(4) as threads:
        futures = [threads.submit(read, ends.reader(), ends.first, LONG_S) for _ in range(4)]
        assert are_waiting(*futures)
        ends.writer.publish(snapshot(ends.first))
        for future in futures:
            assert arrived(future) == picture(snapshot(ends.first))


def test_what_is_not_published_in_time_is_none(ends: Ends) -> None:
    reader = ends.reader()
    assert reader.get(ends.first, 0) is None
    started = time.monotonic()
    assert reader.get(ends.first, 0.4) is None
    assert 0.4 <= time.monotonic() - started < LONG_S / 2
    assert ends.elsewhere(ends.first, 0).result(LONG_S) is None


def test_what_is_there_is_given_without_waiting(ends: Ends) -> None:
    ends.writer.publish(snapshot(ends.first))
    assert ends.elsewhere(ends.first, LONG_S).result(LONG_S) is not None  # it has surely arrived
    assert picture(ends.reader().get(ends.first, 0)) == picture(snapshot(ends.first))


def test_a_reader_gets_exactly_the_version_it_names(ends: Ends) -> None:
    for version in (ends.first + 3, ends.first + 5):
        ends.writer.publish(snapshot(version))
    reader = ends.reader()
    for version in (ends.first + 3, ends.first + 5):
        got = reader.get(version, LONG_S)
        assert picture(got) == picture(snapshot(version))
    assert reader.get(ends.first + 4, 0) is None
    assert reader.get(ends.first + 6, 0) is None


def test_a_retired_snapshot_is_gone_and_says_so(ends: Ends) -> None:
    for version in range(ends.first, ends.first + 4):
        ends.writer.publish(snapshot(version))
    ends.writer.retire(ends.first + 2)
    with pytest.raises(SnapshotGoneError, match=f"snapshot {ends.first + 1}"):
        ends.elsewhere(ends.first + 1, LONG_S).result(LONG_S)
    reader = ends.reader()
    for timeout_s in (0, LONG_S):
        with pytest.raises(SnapshotGoneError):
            reader.get(ends.first, timeout_s)
    for version in (ends.first + 2, ends.first + 3):
        assert picture(reader.get(version, LONG_S)) == picture(snapshot(version))


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


# Shared memory


@pytest.fixture
def shm(shm_folder: Path) -> Iterator[SharedMemoryStore]:
    store = SharedMemoryStore(shm_folder, writer=True)
    yield store
    store.close()


def test_shm_folder_is_private_and_goes_with_its_writer(shm_folder: Path) -> None:
    writer = SharedMemoryStore(shm_folder, writer=True)
    assert shm_folder.stat().st_mode & 0o777 == 0o700
    reader = SharedMemoryStore(shm_folder, writer=False)
    writer.publish(snapshot(1))
    assert reader.get(2, 0.01) is None
    assert len(list(shm_folder.glob("*.sock"))) == 1
    reader.close()
    assert [path.suffix for path in shm_folder.iterdir()] == [".safetensors"]
    writer.retire(2)
    assert not list(shm_folder.glob("*.safetensors"))
    writer.close()
    assert not shm_folder.exists()


def test_shm_is_given_back_by_the_next_generation_of_a_killed_trainer(shm_folder: Path) -> None:
    run = shm_folder.name.split("-")[2]
    SharedMemoryStore(shm_folder, writer=True).publish(snapshot(1))  # and no close
    other = SharedMemoryStore(SharedMemoryStore.new_folder(f"{run}x", 1), writer=True)
    assert SharedMemoryStore.new_folder(run, 2) != shm_folder
    assert not shm_folder.exists()
    other.publish(snapshot(1))
    other.close()


def test_shm_wakes_its_readers_at_once(shm: SharedMemoryStore, shm_folder: Path) -> None:
    """A step must not wait for a poll: 20 round trips take less than a few polls would."""
    reader = SharedMemoryStore(shm_folder, writer=False)
    rounds = 20
    with ThreadPoolExecutor(1) as thread:
        started = time.monotonic()
        for version in range(rounds):
            future = thread.submit(read, reader, version, LONG_S)
            shm.publish(snapshot(version))
            arrived(future)
        assert time.monotonic() - started < rounds * RECHECK_S / 2
    reader.close()


def test_shm_finds_corrupted_bytes(shm: SharedMemoryStore, shm_folder: Path) -> None:
    shm.publish(Snapshot(1, tensors()))
    (path,) = shm_folder.glob("*.safetensors")
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        path.write_bytes(damaged)
        with pytest.raises(RunError, match="snapshot"):
            SharedMemoryStore(shm_folder, writer=False).get(1, LONG_S)


def test_shm_is_not_disturbed_by_a_reader_that_was_killed(
    shm: SharedMemoryStore, shm_folder: Path
) -> None:
    abandoned = shm_folder / "1-dead.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bell:
        bell.bind(str(abandoned))
    shm.publish(snapshot(1))
    assert picture(shm.get(1, 0)) == picture(snapshot(1))
    assert not abandoned.exists()


@pytest.mark.parametrize("how", ["killed", "closed", "closed while waiting"])
def test_shm_reader_neither_hangs_nor_spins_when_its_writer_is_gone(
    shm: SharedMemoryStore, shm_folder: Path, how: str
) -> None:
    reader = SharedMemoryStore(shm_folder, writer=False)
    if how == "closed while waiting":
        assert reader.get(1, 0.01) is None
    if how != "killed":
        shm.close()
    started, busy = time.monotonic(), time.thread_time()
    assert reader.get(1, 1.0) is None
    assert 1.0 <= time.monotonic() - started < LONG_S / 2
    assert time.thread_time() - busy < 0.2
    reader.close()


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
    original = Snapshot(version, weights, state)
    assert picture(decode(encode(original))) == picture(original)


def test_any_changed_bit_is_found() -> None:
    """In the payload always; in the header unless it says the same, as other spaces do."""
    original = Snapshot(12, {"a.w": torch.randn(2, 3).bfloat16(), "n": torch.tensor(7)}, {})
    data = encode(original)
    payload = len(data) - 2 * 3 * 2 - 8
    for place, bit in itertools.product(range(len(data)), range(8)):
        changed = bytearray(data)
        changed[place] ^= 1 << bit
        try:
            assert picture(decode(bytes(changed))) == picture(original), (place, bit)
            assert place < payload, (place, bit)
        except RunError:
            continue


def test_cut_or_foreign_bytes_are_refused() -> None:
    data = encode(snapshot(3))
    for end in range(len(data)):
        with pytest.raises(RunError, match="not readable"):
            decode(data[:end])
    with pytest.raises(RunError):
        decode(data + b"\0")


@given(st.binary(max_size=200))
def test_noise_is_refused(data: bytes) -> None:
    with pytest.raises(RunError, match="not readable"):
        decode(data)
