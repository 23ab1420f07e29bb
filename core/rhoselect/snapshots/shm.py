"""Snapshots in the shared memory of one machine: a ring of reused buffers in a private folder.

The trainer casts its tensors straight into a buffer, part by part; scorers copy from there into
their replicas while the rest is still being written. Each process maps a buffer once, so that a
step causes no page faults. The buffer of a retired version is reused: after copying, a reader
checks that the buffer still holds its version. There is no checksum, as no network or disk can
change the bytes.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from rhoselect.errors import RunError, SnapshotGoneError
from rhoselect.snapshots.base import Pieces, State
from rhoselect.snapshots.buffers import (
    MOST_BUFFERS,
    NONE,
    Buffer,
    Control,
    Staging,
    fence,
    finish,
    is_abandoned,
)
from rhoselect.snapshots.format import STATE, WEIGHTS, Header
from rhoselect.snapshots.notifier import Notifier

ROOM_BYTES = 1 << 30  # containers often have 64 MB of shared memory, too little for snapshots
RECHECK_S = 0.25  # a wake-up is lost if a socket's buffer is full, so a reader also checks by time
PART_BYTES = 1 << 18  # written by one call, then announced: some 0.03 ms of copying
GPU_PART_BYTES = 1 << 25  # likewise of a GPU's tensors: it is waited for at each
PAUSES_S = (5e-5, 1e-3)  # first and longest sleep of a reader that has caught up with the writer
STALL_S = 5.0  # a writer that makes no progress for this long is taken to be dead


class SharedMemoryStore:
    """One end of a `SnapshotStore` in ``folder``, which the writer creates (0700) and removes."""

    def __init__(self, folder: Path, writer: bool) -> None:
        self._folder = folder
        self._writer = writer
        self._claim: int | None = None
        if writer:
            folder.mkdir(mode=0o700)
            self._claim = os.open(folder, os.O_RDONLY)
            fcntl.flock(self._claim, fcntl.LOCK_EX)  # the kernel drops it when this process ends
            Control.create(folder / "control")
        self._control: Control | None = None
        self._buffers: dict[int, Buffer] = {}
        self._staging: Staging | None = None
        self._notifier = Notifier(folder)

    @staticmethod
    def new_folder(run_id: str, generation: int) -> Path:
        """The folder name of a run's generation in shared memory, short enough for sockets in it.

        Removes the folders of writers that were killed and of earlier generations of this run. The
        name has a random part, so that another user cannot create the folder in advance.
        """
        root, shared = Path("/tmp"), Path("/dev/shm")  # TMPDIR may be too long for sockets
        if shared.is_dir() and shutil.disk_usage(shared).free > ROOM_BYTES:
            root = shared
        stem = f"rhoselect-{os.getuid()}-"
        earlier = {f"{run_id}-{before}" for before in range(generation)}
        for found in (*Path("/tmp").glob(stem + "*"), *shared.glob(stem + "*")):
            if found.name.removeprefix(stem).rpartition("-")[0] in earlier or is_abandoned(found):
                shutil.rmtree(found, ignore_errors=True)
        return root / f"{stem}{run_id}-{generation}-{secrets.token_hex(4)}"

    def publish(
        self,
        version: int,
        tensors: Mapping[str, Tensor],
        layout: Mapping[str, torch.dtype],
        state: State,
    ) -> None:
        """See `SnapshotStore.publish`. Raises RunError if shared memory is full."""
        control = self._open()
        assert self._writer and version > control.newest, (version, control.newest)
        index = self._free_buffer(control)
        sources = {WEIGHTS + name: tensors[name] for name in layout}
        sources |= {STATE + name: t for name, t in state.items()}
        if index == control.count:
            dtypes = {WEIGHTS + name: dtype for name, dtype in layout.items()}
            Buffer.create(self._path(index), Header.of(sources, dtypes))
            control.count += 1
        gpus = {t.device for t in sources.values() if t.is_cuda}
        buffer = self._buffer(index, GPU_PART_BYTES if gpus else PART_BYTES)
        if gpus:
            buffer.pinned.lock()
            self._staging = self._staging or Staging(buffer.size, min(gpus, key=str))
        finish(gpus)  # the step that computes the weights, so that readers do not wake too early
        control.begin(index, version)
        self._notifier.notify()
        with torch.no_grad():
            for part in buffer.parts:
                given = [sources[name] for name in part.names]
                if self._staging is None:
                    torch._foreach_copy_(part.views, given)
                else:
                    self._staging.copy(buffer, part, given)
                self._advance(index, part.end, gpus)
        self._advance(index, buffer.size, gpus)
        control.newest = version

    def load(
        self, version: int, into: Callable[[Pieces], None], timeout_s: float
    ) -> dict[str, Tensor] | None:
        """See `SnapshotReader.load`."""
        deadline = time.monotonic() + timeout_s
        index = self._wait(lambda: self._find(version), timeout_s)
        if index is None:
            return None
        buffer, ready = self._buffer(index), self._ready(index, version)
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            buffer.pinned.lock()  # this process may copy to a GPU
        if ready < buffer.size:
            # A snapshot that a killed writer left unfinished does not grow: do not begin to load.
            grown = self._grown(index, version, ready + 1, deadline - time.monotonic())
            if grown == ready:
                return None
        into(self._pieces(index, version, WEIGHTS))
        state = {name: view.clone() for name, view in self._pieces(index, version, STATE)}
        self._ready(index, version)  # the last read is over: was the buffer reused meanwhile?
        return state

    def retire(self, below: int) -> None:
        """See `SnapshotStore.retire`."""
        # Readers that wait for a retired version are not woken: they check again after RECHECK_S.
        control = self._open()
        control.oldest = max(control.oldest, below)

    def close(self) -> None:
        """See `SnapshotReader.close`."""
        self._notifier.close()
        for buffer in self._buffers.values():
            buffer.pinned.unlock()
        if self._writer:
            if self._control is not None:  # readers still have it mapped
                self._control.newest = NONE
            for index in self._buffers:
                self._open().version[index] = NONE
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._claim is not None:
            os.close(self._claim)
            self._claim = None
        self._buffers.clear()
        self._control = None

    def _path(self, index: int) -> Path:
        return self._folder / f"{index:04d}.safetensors"

    def _open(self) -> Control:
        if self._control is None:
            self._control = Control.open(self._folder / "control")
        return self._control

    def _buffer(self, index: int, part_bytes: int | None = None) -> Buffer:
        if index not in self._buffers:
            self._buffers[index] = Buffer(self._path(index), part_bytes or PART_BYTES)
        return self._buffers[index]

    def _free_buffer(self, control: Control) -> int:
        """The index of the buffer with the oldest retired version, or else of a new buffer."""
        indices = range(control.count)
        free = [index for index in indices if control.version[index] < control.oldest]
        if not free and control.count == MOST_BUFFERS:
            raise RunError(
                f"snapshots: open windows use more than {MOST_BUFFERS}, the most in shared memory;"
                ' lower selection.lag or set snapshots.transport = "ray"'
            )
        return min(free, key=lambda index: control.version[index], default=control.count)

    def _advance(self, index: int, ready: int, gpus: set[torch.device]) -> None:
        finish(gpus)
        self._open().advance(index, ready)

    def _find(self, version: int) -> int | None:
        """The index of the buffer that holds ``version``, mapped; None if not published yet."""
        try:
            control = self._open()
            if version < control.oldest:
                raise SnapshotGoneError(f"snapshot {version}: retired, oldest is {control.oldest}")
            for index in range(control.count):
                if control.version[index] == version:
                    self._buffer(index)
                    return index
        except FileNotFoundError:  # the writer has not started, or has closed the store
            return None
        return None

    def _wait(self, look: Callable[[], int | None], timeout_s: float) -> int | None:
        """Call ``look`` after every notification until it finds something, and return that; None
        after ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        while (found := look()) is None:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return None
            self._notifier.wait(min(left_s, RECHECK_S))
        return found

    def _pieces(self, index: int, version: int, prefix: str) -> Pieces:
        """The tensors whose names begin with ``prefix``, each as soon as it is written."""
        ready = 0
        for part in self._buffer(index).parts:
            if part.pairs[prefix] and ready < part.end:
                ready = self._grown(index, version, part.end, STALL_S)
                if ready < part.end:
                    raise SnapshotGoneError(f"snapshot {version}: its writer stopped in the middle")
            yield from part.pairs[prefix]

    def _grown(self, index: int, version: int, wanted: int, patience_s: float) -> int:
        """Wait until ``wanted`` bytes are ready or their number has not grown for ``patience_s``;
        returns how many are ready."""
        ready, pause_s = self._ready(index, version), PAUSES_S[0]
        patience_ends = time.monotonic() + patience_s
        while ready < wanted and time.monotonic() < patience_ends:
            time.sleep(pause_s)
            before, ready = ready, self._ready(index, version)
            pause_s = min(2 * pause_s, PAUSES_S[1])
            if ready > before:
                pause_s, patience_ends = PAUSES_S[0], time.monotonic() + patience_s
        return ready

    def _ready(self, index: int, version: int) -> int:
        """How many bytes of ``version`` are ready in its buffer. Raises SnapshotGoneError if the
        buffer now holds another version."""
        control = self._open()
        fence()
        ready = control.ready[index]
        if control.version[index] != version:
            raise SnapshotGoneError(f"snapshot {version}: retired while it was loaded")
        fence()
        return ready
