"""Snapshots' memory is locked for a GPU once or not at all, and a failure leaves no error behind.

A driver that only counts stands for CUDA's; tests/gpu asks the real one."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rhoselect.snapshots.pinning import Pinned, in_memory

pytestmark = pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="CUDA's systems have it")


class Driver:
    """It answers every call with ``error``, which is then its last one until that is forgotten."""

    def __init__(self, error: int) -> None:
        self.calls: list[str] = []
        self.error, self.last_error = error, 0

    def register(self, address: int, size_bytes: int) -> int:
        return self._answer(f"register {size_bytes} at {address}")

    def unregister(self, address: int) -> int:
        return self._answer(f"unregister {address}")

    def forget_error(self) -> None:
        self.last_error = 0

    def _answer(self, call: str) -> int:
        self.calls.append(call)
        self.last_error = self.error
        return self.error


@pytest.fixture
def shared() -> Iterator[Path]:
    """A file in shared memory."""
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        yield Path(file.name)


def test_memory_is_locked_once(shared: Path) -> None:
    memory = Pinned(shared, 4096, 80, driver := Driver(0))
    for _ in range(3):
        memory.lock()
    for _ in range(2):
        memory.unlock()
    assert driver.calls == ["register 80 at 4096", "unregister 4096"]


def test_a_refusal_is_told_once_and_forgotten(
    shared: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """CUDA's last error stays set, and the next kernel of anybody would raise it."""
    memory = Pinned(shared, 4096, 80, driver := Driver(712))
    for _ in range(3):
        memory.lock()
    memory.unlock()
    assert driver.calls == ["register 80 at 4096"]
    assert driver.last_error == 0
    assert [record.getMessage() for record in caplog.records] == [
        f"snapshots: {shared}: 80 bytes not locked for the GPU (CUDA error 712); copies wait"
    ]


def test_an_error_at_the_end_is_forgotten_too(shared: Path) -> None:
    memory = Pinned(shared, 4096, 80, driver := Driver(0))
    memory.lock()
    driver.error = 713
    memory.unlock()
    assert driver.last_error == 0


def test_files_of_a_disk_are_not_locked(caplog: pytest.LogCaptureFixture) -> None:
    """As the snapshots below /tmp are, where shared memory is too small."""
    memory = Pinned(Path("/proc/version"), 4096, 80, driver := Driver(0))
    for _ in range(3):
        memory.lock()
    memory.unlock()
    assert driver.calls == []
    assert len(caplog.records) == 1
    assert "no tmpfs" in caplog.text


@pytest.mark.parametrize("place", ["/dev/shm", "/tmp", "/proc/version", "/"])
def test_a_tmpfs_is_known(place: str) -> None:
    told = subprocess.run(["stat", "-f", "-c", "%T", place], capture_output=True, check=True)
    assert in_memory(Path(place)) == (told.stdout.strip() == b"tmpfs")
