"""Stage 5: from publish to loaded, with the trainer's weights and the readers' on the one GPU.

The writer is a trainer's float32 state; each reader is a process with a replica, as a scorer has. A
repeat takes from the call of ``publish`` until the last reader's device has all weights. Sums of
what was loaded are compared with sums of what was published. Shared memory is flat and pinned on
both ends; CUDA IPC is an arm of its own.
"""

from __future__ import annotations

import secrets
import statistics
import time
from collections.abc import Mapping
from contextlib import closing
from multiprocessing.connection import Connection

import ipc
import torch
from readers import Case, checksum, reader_processes, replica_of, told
from stage import Stage, run, wait
from torch import Tensor

from rhoselect.models.numerics import Numerics
from rhoselect.models.replica import Replica
from rhoselect.snapshots.local import LocalStore
from rhoselect.snapshots.shm import SharedMemoryStore
from rhoselect.tasks import Classification

WARM_UP = 2
LLAMA = {"groups": 4, "heads": 16, "width": 1024, "layers": 12, "hidden": 4096, "vocabulary": 64}
CASES = {
    "51 MB": Case("resnet50", (3, 224, 224), {}),
    "350 MB": Case("llama", (64,), LLAMA),
    "2.6 GB": Case("llama", (64,), {"vocabulary": 80_000}),
}
QUICK = {
    "51 MB": Case("resnet50", (3, 32, 32), {"width": 4}),
    "350 MB": Case("llama", (64,), {**LLAMA, "width": 64, "layers": 2, "hidden": 128}),
}
PREDICTED = {"51 MB": "15", "350 MB": "60", "2.6 GB": "450"}
PREDICTED_IPC = {"51 MB": "0.15", "350 MB": "0.4", "2.6 GB": "3"}


def main(stage: Stage) -> None:
    with reader_processes(1 if stage.quick else 3, str(stage.device)) as readers:
        for name, case in (QUICK if stage.quick else CASES).items():
            stage.part(f"{name}, shared memory", shared, name, case, readers, needs_s=10)
            stage.part(f"{name}, W = 0", within, name, case, needs_s=4)
            if stage.cuda:
                stage.part(f"{name}, CUDA IPC", lent, name, case, readers, needs_s=8)
    if not stage.cuda:
        stage.figure("CUDA IPC", f"left out: it wants --device cuda, got {stage.device.type}")


def source(case: Case, device: torch.device) -> tuple[dict[str, Tensor], dict[str, torch.dtype]]:
    """A trainer's state, and the layout of its snapshot."""
    model = case.build(device)
    tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    layout = Replica(model, Numerics("bf16"), device, Classification()).layout
    return tensors, {name: tensor.dtype for name, tensor in layout.items()}


def shared(stage: Stage, name: str, case: Case, readers: list[Connection]) -> None:
    tensors, layout = source(case, stage.device)
    size = sum(tensors[each].numel() * layout[each].itemsize for each in layout)
    stage.figure(f"{name}: bytes in tensors", f"{size} in {len(layout)}")
    folder = SharedMemoryStore.new_folder(f"check{secrets.token_hex(4)}", 1)
    stage.figure(f"{name}: folder", str(folder.parent))
    told(readers, "case", case, folder)
    with closing(SharedMemoryStore(folder, writer=True)) as store:
        version, right = 0, {}
        for count in sorted({1, len(readers)}):
            repeats = 3 if stage.quick or size > 1e9 else 9
            held, loaded, sums = [], [], set()
            for _ in range(WARM_UP + repeats):
                for reader in readers[:count]:
                    reader.send(("load", version))
                change(tensors, stage.device)
                started = time.monotonic()
                store.publish(version, tensors, layout, {})
                held.append(time.monotonic() - started)
                answers = told(readers[:count])
                loaded.append(max(when for when, _ in answers) - started)
                sums |= {found for _, found in answers}
                right[f"{count} readers, version {version}"] = sums == {checksum(tensors, layout)}
                sums.clear()
                store.retire(version)
                version += 1
            whole = 1e3 * statistics.median(loaded[WARM_UP:])
            stage.figure(f"{name}, {count} readers", whole, "ms", PREDICTED[name])
            stage.figure(
                f"{name}, {count} readers: publish", 1e3 * statistics.median(held[WARM_UP:]), "ms"
            )
        stage.check(f"{name}: loaded what was published", right)
        told(readers, "leave")
    if stage.cuda:
        torch.cuda.empty_cache()


def lent(stage: Stage, name: str, case: Case, readers: list[Connection]) -> None:
    """Through the memory of the GPU itself."""
    tensors, layout = source(case, stage.device)
    told(readers, "case", case, None)
    memory = ipc.Lent(tensors, layout)
    for reader in readers:
        reader.send(("open",))
        reader.send_bytes(memory.handle())
        reader.send_bytes(memory.header.data)
        stage.figure(f"{name}, CUDA IPC: to open", 1e3 * max(told([reader])), "ms")
    for count in sorted({1, len(readers)}):
        taken = []
        for _ in range(WARM_UP + (3 if stage.quick else 9)):
            change(tensors, stage.device)
            started = time.monotonic()
            memory.publish()
            taken.append(max(told(readers[:count], "pull")) - started)
        whole = 1e3 * statistics.median(taken[WARM_UP:])
        stage.figure(f"{name}, {count} readers, CUDA IPC", whole, "ms", PREDICTED_IPC[name])
    right = ipc.bits(memory.views)
    equal = {f"reader {n}": found == right for n, found in enumerate(told(readers, "bits"))}
    stage.check(f"{name}, CUDA IPC: the bits of what was published", equal)
    told(readers, "leave")
    torch.cuda.empty_cache()


def within(stage: Stage, name: str, case: Case) -> None:
    """In one process, as with --workers 0."""
    tensors, layout = source(case, stage.device)
    replica, store, taken = replica_of(case, stage.device), LocalStore(), []
    for version in range(5):
        change(tensors, stage.device)
        started = time.monotonic()
        store.publish(version, tensors, layout, {})
        store.load(version, replica.load, 0)
        wait(stage.device)
        taken.append(1e3 * (time.monotonic() - started))
        store.retire(version)
    stage.figure(f"{name}, W = 0", statistics.median(taken[2:]), "ms")
    if stage.cuda:
        torch.cuda.empty_cache()


def change(tensors: Mapping[str, Tensor], device: torch.device) -> None:
    """As a step does, until the readers are asleep."""
    ends = time.monotonic() + 0.03
    while time.monotonic() < ends:
        for tensor in tensors.values():
            tensor.neg_()
        wait(device)


if __name__ == "__main__":
    run(main)
