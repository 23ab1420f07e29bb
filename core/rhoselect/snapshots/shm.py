"""Snapshots in the shared memory of one machine: one file a version in a private folder.

The trainer writes a file beside and renames it, so that a reader sees all of it or nothing. Waiting
readers sleep on a Unix datagram socket of their own in the same folder; a publish sends each one
byte. That wakes any number of scorers at once and costs no polling.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import time
from pathlib import Path

from rhoselect.errors import SnapshotGoneError
from rhoselect.snapshots.codec import decode, encode
from rhoselect.types import Snapshot

ROOM_BYTES = 1 << 30  # containers often have 64 MB of shared memory, too little for snapshots
RECHECK_S = 0.25  # a wake-up can be lost only when a socket's buffer is full; then look again


class SharedMemoryStore:
    """One end of the store in ``folder``, which the writer creates (0700) and removes."""

    def __init__(self, folder: Path, writer: bool) -> None:
        self._folder = folder
        self._writer = writer
        self._bell: socket.socket | None = None
        if writer:
            folder.mkdir(mode=0o700)

    @staticmethod
    def new_folder(run_id: str, generation: int) -> Path:
        """The folder name of a run's generation in shared memory, short enough for sockets in it.

        What an earlier generation of the run left behind, killed before it could tidy up, goes.
        """
        root = Path("/tmp")  # not TMPDIR, which may be too long for the paths of sockets
        shared = Path("/dev/shm")
        if shared.is_dir() and shutil.disk_usage(shared).free > ROOM_BYTES:
            root = shared
        stem = f"rhoselect-{os.getuid()}-{run_id}-"
        for left_behind in root.glob(stem + "*"):
            shutil.rmtree(left_behind, ignore_errors=True)
        return root / f"{stem}{generation}"

    def publish(self, snapshot: Snapshot) -> None:
        beside = self._folder / "incoming"
        beside.write_bytes(encode(snapshot))
        beside.rename(self._path(snapshot.version))
        self._ring()

    def get(self, version: int, timeout_s: float) -> Snapshot | None:
        deadline = time.monotonic() + timeout_s
        while True:
            with contextlib.suppress(FileNotFoundError):
                return decode(self._path(version).read_bytes())
            if version < self._oldest():
                raise SnapshotGoneError(f"snapshot {version}: retired")
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return None
            self._sleep(min(left_s, RECHECK_S), self._path(version))

    def retire(self, below: int) -> None:
        # The mark goes first: a reader that misses the file then sees why.
        beside = self._folder / "incoming-mark"
        below = max(below, self._oldest())
        beside.write_text(str(below))
        beside.rename(self._folder / "oldest")
        for path in self._folder.glob("*.safetensors"):
            if int(path.stem) < below:
                path.unlink(missing_ok=True)
        self._ring()

    def close(self) -> None:
        if self._bell is not None:
            Path(self._bell.getsockname()).unlink(missing_ok=True)
            self._bell.close()
            self._bell = None
        if self._writer:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, version: int) -> Path:
        return self._folder / f"{version:012d}.safetensors"

    def _oldest(self) -> int:
        try:
            return int((self._folder / "oldest").read_text())
        except FileNotFoundError:
            return 0

    def _ring(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            for path in self._folder.glob("*.sock"):
                try:
                    sender.sendto(b"\0", str(path))
                except ConnectionRefusedError:
                    path.unlink(missing_ok=True)  # its reader is gone
                except (BlockingIOError, FileNotFoundError):
                    continue  # it has wake-ups enough, or has just left

    def _sleep(self, timeout_s: float, awaited: Path) -> None:
        if self._bell is None:
            bell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                bell.bind(str(self._folder / f"{os.getpid()}-{secrets.token_hex(4)}.sock"))
            except FileNotFoundError:  # the writer has not opened the store yet, or has closed it
                bell.close()
                time.sleep(timeout_s)
                return
            self._bell = bell
        self._bell.settimeout(timeout_s)
        if not awaited.exists():  # it may have come before the socket did
            with contextlib.suppress(TimeoutError):
                self._bell.recv(1)
