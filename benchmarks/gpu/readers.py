"""Processes with a replica each, which stage 5 has load what it publishes."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import ipc
import networks
import torch
from stage import wait
from torch import Tensor, nn

from rhoselect.models.numerics import Numerics
from rhoselect.models.replica import Replica
from rhoselect.snapshots.shm import SharedMemoryStore
from rhoselect.tasks import Classification

LONG_S = 30.0


class Failure(str):
    """The error of a reader, as its answer."""


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


def replica_of(case: Case, device: torch.device) -> Replica:
    return Replica(case.build(device), Numerics("bf16"), device, Classification())


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


def told(readers: list[Connection], *order: Any) -> list[Any]:
    """The answers of all, after an order if there is one. Raises RuntimeError for an error."""
    for reader in readers if order else ():
        reader.send(order)
    answers = [reader.recv() for reader in readers]
    for answer in answers:
        if isinstance(answer, Failure):
            raise RuntimeError(f"a reader: {answer}")
    return answers


class Reader:
    """A reader process: its replica and its ends of shared memory. Its methods are the orders."""

    def __init__(self, orders: Connection, device: torch.device) -> None:
        self._orders, self._device = orders, device
        self._store: SharedMemoryStore | None = None
        self._views = list[tuple[str, Tensor]]()

    def case(self, case: Case, folder: Path | None) -> None:
        """Be ready for a network, and for a store unless the GPU's memory is to be shared."""
        self._replica = replica_of(case, self._device)
        self._store = SharedMemoryStore(folder, writer=False) if folder else None

    def load(self, version: int) -> tuple[float, float]:
        """From the store; when it was done, and the sum of what there is then."""
        assert self._store and self._store.load(version, self._replica.load, LONG_S) is not None
        wait(self._device)
        now, loaded = time.monotonic(), self._loaded()
        return now, checksum(loaded, {name: tensor.dtype for name, tensor in loaded.items()})

    def open(self) -> float:
        """Map the GPU's memory of a handle that follows; the seconds."""
        handle, header = self._orders.recv_bytes(), self._orders.recv_bytes()
        started = time.monotonic()
        self._views = ipc.opened(handle, header)
        return time.monotonic() - started

    def pull(self) -> float:
        """From there; when it was done."""
        self._replica.load(iter(self._views))
        wait(self._device)
        return time.monotonic()

    def bits(self) -> str:
        """Of what was pulled."""
        loaded = self._loaded()
        return ipc.bits(loaded[name] for name, _ in self._views)

    def leave(self) -> None:
        """Have no network and no memory of others."""
        if self._store:
            self._store.close()
        self._views.clear()
        del self._replica
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _loaded(self) -> dict[str, Tensor]:
        return dict(self._replica._model.state_dict())


def reader(orders: Connection, device_name: str) -> None:
    """Do what is ordered, until the order to stop."""
    own = Reader(orders, torch.device(device_name))
    while (order := orders.recv())[0] != "stop":
        try:
            orders.send(getattr(own, order[0])(*order[1:]))
        except Exception as error:
            orders.send(Failure(f"{type(error).__name__}: {error}"))
