"""Stage 5: from publish to loaded, with the trainer's weights and the readers' on the one GPU.

The writer is a trainer's float32 state; each reader is a process with a replica, as a scorer has. A
repeat takes from the call of ``publish`` until the last reader's device has all weights. Sums of
what was loaded are compared with sums of what was published.
"""

from __future__ import annotations

import multiprocessing
import secrets
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import networks
import torch
from stage import NOT_BUILT, Stage, run, wait
from torch import Tensor, nn

from rhoselect.models.numerics import Numerics
from rhoselect.models.replica import Replica
from rhoselect.snapshots.local import LocalStore
from rhoselect.snapshots.shm import SharedMemoryStore
from rhoselect.tasks import Classification

TASK = Classification()

WARM_UP, LONG_S = 2, 30.0
LLAMA = {"groups": 4, "heads": 16, "width": 1024, "layers": 12, "hidden": 4096, "vocabulary": 64}


@dataclass(frozen=True)
class Case:
    """A network by the megabytes of its snapshot in bf16."""

    factory: str
    shape: tuple[int, ...]
    args: Mapping[str, int]

    def build(self, device: torch.device) -> nn.Module:
        with device:
            made: nn.Module = getattr(networks, self.factory)(
                input_shape=self.shape, classes=10, **self.args
            )
        return made


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


def main(stage: Stage) -> None:
    with reader_processes(1 if stage.quick else 3, str(stage.device)) as readers:
        for name, case in (QUICK if stage.quick else CASES).items():
            stage.part(f"{name}, shared memory", shared, name, case, readers, needs_s=10)
            stage.part(f"{name}, W = 0", within, name, case, needs_s=4)
    for arm in ("pinned on both ends", "flat", "CUDA IPC"):
        stage.figure(arm, NOT_BUILT)


def source(case: Case, device: torch.device) -> tuple[dict[str, Tensor], dict[str, torch.dtype]]:
    """A trainer's state, and the layout of its snapshot."""
    model = case.build(device)
    tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    layout = Replica(model, Numerics("bf16"), device, TASK).layout
    return tensors, {name: tensor.dtype for name, tensor in layout.items()}


def shared(stage: Stage, name: str, case: Case, readers: list[Connection]) -> None:
    tensors, layout = source(case, stage.device)
    size = sum(tensors[each].numel() * layout[each].itemsize for each in layout)
    stage.figure(f"{name}: bytes in tensors", f"{size} in {len(layout)}")
    folder = SharedMemoryStore.new_folder(f"check{secrets.token_hex(4)}", 1)
    stage.figure(f"{name}: folder", str(folder.parent))
    for reader in readers:
        ask(reader, "case", case, folder)
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
                told = [reader.recv() for reader in readers[:count]]
                loaded.append(max(when for when, _ in told) - started)
                sums |= {found for _, found in told}
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
        for reader in readers:
            ask(reader, "leave")
    if stage.cuda:
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


def replica_of(case: Case, device: torch.device) -> Replica:
    return Replica(case.build(device), Numerics("bf16"), device, TASK)


def checksum(tensors: Mapping[str, Tensor], layout: Mapping[str, torch.dtype]) -> float:
    """The sum of the weights as they are published."""
    parts = [tensors[name].to(dtype).double().sum() for name, dtype in layout.items()]
    return float(torch.stack([part.cpu() for part in parts]).sum())


@contextmanager
def reader_processes(count: int, device: str) -> Iterator[list[Connection]]:
    """Processes that load what they are told; they are started anew, as CUDA forbids forks."""
    context = multiprocessing.get_context("spawn")
    pairs = [context.Pipe() for _ in range(count)]
    processes = [
        context.Process(target=reader, args=(theirs, device), daemon=True) for _, theirs in pairs
    ]
    for process in processes:
        process.start()
    yield [ours for ours, _ in pairs]
    for process, (ours, _) in zip(processes, pairs, strict=True):
        ours.send(("stop",))
        process.join(5)


def ask(reader: Connection, *order: Any) -> None:
    """Have something done that is not measured."""
    reader.send(order)
    answer = reader.recv()
    if answer != "done":
        raise RuntimeError(f"a reader: {answer}")


def reader(orders: Connection, device_name: str) -> None:
    """A reader process: its replica and its end of the store. Errors are its answers."""
    device = torch.device(device_name)
    while (order := orders.recv())[0] != "stop":
        try:
            if order[0] == "case":
                replica = replica_of(order[1], device)
                store = SharedMemoryStore(order[2], writer=False)
                orders.send("done")
            elif order[0] == "load":
                assert store.load(order[1], replica.load, LONG_S) is not None, "not published"
                wait(device)
                now = time.monotonic()
                loaded: dict[str, Tensor] = dict(replica._model.state_dict())
                layout = {name: tensor.dtype for name, tensor in loaded.items()}
                orders.send((now, checksum(loaded, layout)))
            else:
                store.close()
                del replica
                if device.type == "cuda":
                    torch.cuda.empty_cache()
                orders.send("done")
        except Exception as error:
            orders.send(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    run(main)
