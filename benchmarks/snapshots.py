"""From publish to loaded on one machine, against a bare memcpy of the same bytes.

One writer (a trainer's float32 tensors) and 1, 4 and 16 reader processes, one torch thread each.
A repeat measures, one after the other,

- publish to loaded: from the call of ``publish`` until the last reader has every tensor in memory
  of its own (``publish`` is the part of it that the trainer is held up for),
- cast: the trainer's tensors alone, cast to memory of its own,
- memcpy: as many processes, each copying as many bytes from memory of its own to memory of its own
  at the same time; from the first one's start to the last one's end. On a GPU the copies are from
  pinned memory to the device, where the trainer's tensors and the readers' are, too.

The tensors are those of transformer blocks. ``bfloat16``: matrices are cast at publish, biases and
norms stay float32; ``float32``: nothing is cast. Megabytes are those of the snapshot.

    python benchmarks/snapshots.py --json docs/results/snapshots.json
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import secrets
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import arguments
from rhoselect.models.held import Held
from rhoselect.report.origin import origin
from rhoselect.snapshots.shm import SharedMemoryStore

MB = 1_000_000
WIDTHS = {3: 128, 45: 384, 400: 1024}  # of the blocks, by the megabytes of a snapshot
WARM_UP = 3  # publishes before the repeats: every buffer is mapped by all
SETTLE_S = 0.03  # for the readers to fall asleep
LONG_S = 60.0

Shapes = dict[str, tuple[int, ...]]
Layout = dict[str, torch.dtype]


@dataclass(frozen=True)
class Case:
    """What the readers of a case must know."""

    folder: Path
    shapes: Shapes
    layout: Layout
    device: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, nargs="+", default=[*WIDTHS], choices=WIDTHS)
    parser.add_argument("--readers", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--width", type=int, help="of the blocks; 256: 340 tensors at 45 MB, bf16")
    parser.add_argument("--device", default="cpu", help="of the trainer's and readers' tensors")
    options = arguments.parse(parser, megabytes=[3], readers=[1], repeats=2)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    with reader_processes(max(options.readers)) as readers:
        for megabytes in options.megabytes:
            for reader in readers:
                ask(reader, "room", (megabytes * MB, options.device))
            for dtype in (torch.bfloat16, torch.float32):
                for count in options.readers:
                    shapes, layout = model(megabytes, dtype, options.width or WIDTHS[megabytes])
                    row = measured(shapes, layout, readers[:count], options)
                    name = str(dtype).removeprefix("torch.")
                    rows.append({"megabytes": megabytes, "dtype": name, **row})
    show(rows)
    if options.json is not None:
        described = {**origin(), "repeats": options.repeats, "seed": 0, "rows": rows}
        options.json.write_text(json.dumps(described, indent=2) + "\n")


def measured(
    shapes: Shapes, layout: Layout, readers: list[Connection], options: argparse.Namespace
) -> dict[str, Any]:
    """The medians of one case."""
    repeats, device = options.repeats, options.device
    sources = {name: torch.randn(shape, device=device) for name, shape in shapes.items()}
    folder = SharedMemoryStore.new_folder(f"bench{secrets.token_hex(4)}", 1)
    store = SharedMemoryStore(folder, writer=True)
    for reader in readers:
        ask(reader, "case", Case(folder, shapes, layout, device))
    loaded, published, copied, casts = (list[float]() for _ in range(4))
    own = [torch.empty_like(t, dtype=layout[name]) for name, t in sources.items()]
    for version in range(WARM_UP + repeats):
        for reader in readers:
            reader.send(("load", version))
        step(sources)
        started = time.monotonic()
        store.publish(version, sources, layout, {})
        published.append(time.monotonic() - started)
        loaded.append(max(reader.recv() for reader in readers) - started)
        store.retire(version)
        step(sources)
        started = time.monotonic()
        torch._foreach_copy_(own, [*sources.values()])
        wait(device)
        casts.append(time.monotonic() - started)
        step(sources)
        for reader in readers:
            reader.send(("copy", None))
        spans = [reader.recv() for reader in readers]
        copied.append(max(end for _, end in spans) - min(start for start, _ in spans))
    for reader in readers:
        ask(reader, "leave", None)
    store.close()
    times = (loaded, published, copied, casts)
    whole, held, memcpy, cast = (median_ms(each[WARM_UP:]) for each in times)
    return {
        "readers": len(readers),
        "tensors": len(shapes),
        "publish_ms": held,
        "publish_to_loaded_ms": whole,
        "memcpy_ms": memcpy,
        "cast_ms": cast,
        "ratio": round(whole / memcpy, 3),
        "ratio_to_slower": round(whole / max(memcpy, cast), 3),
    }


def step(tensors: dict[str, Tensor]) -> None:
    """Change the tensors, as an optimizer does, until all readers are surely asleep."""
    ends = time.monotonic() + SETTLE_S
    while time.monotonic() < ends:
        for tensor in tensors.values():
            tensor.neg_()
        wait(str(tensor.device))


def model(megabytes: int, dtype: torch.dtype, d: int) -> tuple[Shapes, Layout]:
    """Blocks of width ``d``, and a head that fills up what is left of the megabytes."""
    matrices = {"qkv": (3 * d, d), "proj": (d, d), "fc1": (4 * d, d), "fc2": (d, 4 * d)}
    block: Shapes = {f"{name}.weight": shape for name, shape in matrices.items()}
    block |= {f"{name}.bias": shape[:1] for name, shape in matrices.items()}
    block |= {f"norm{n}.{part}": (d,) for n in (1, 2) for part in ("weight", "bias")}

    def bytes_of(shape: tuple[int, ...]) -> int:
        return math.prod(shape) * (dtype.itemsize if len(shape) == 2 else 4)

    shapes: Shapes = {}
    left = megabytes * MB
    blocks = left // sum(map(bytes_of, block.values()))
    for place in range(blocks):
        shapes |= {f"blocks.{place}.{name}": shape for name, shape in block.items()}
    left -= sum(map(bytes_of, shapes.values()))
    shapes["head.weight"] = (left // (d * dtype.itemsize), d)
    layout = {n: dtype if len(shape) == 2 else torch.float32 for n, shape in shapes.items()}
    return shapes, layout


@contextmanager
def reader_processes(count: int) -> Iterator[list[Connection]]:
    """Processes that do what they are told over a pipe each."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch"])
    pairs = [context.Pipe() for _ in range(count)]
    processes = [context.Process(target=reader, args=(theirs,)) for _, theirs in pairs]
    for process in processes:
        process.start()
    yield [ours for ours, _ in pairs]
    for process, (ours, _) in zip(processes, pairs, strict=True):
        ours.send(("stop", None))
        process.join()


def ask(reader: Connection, what: str, argument: object) -> None:
    """Have something done that is not measured."""
    reader.send((what, argument))
    assert reader.recv() == "done"


def reader(orders: Connection) -> None:
    """A reader process: its memory, its end of the store, and its clock."""
    torch.set_num_threads(1)
    source = target = torch.empty(0, dtype=torch.uint8)
    held = Held(nn.Module(), torch.device("cpu"))
    store: SharedMemoryStore | None = None

    while True:
        what, argument = orders.recv()
        if what == "stop":
            return
        elif what == "room":
            size, device = argument
            pinned = device != "cpu"
            source = torch.ones(size, dtype=torch.uint8, pin_memory=pinned)
            target = torch.ones(size, dtype=torch.uint8, device=device)
        elif what == "case":
            held = Held(nn.Module(), target.device)
            held.tensors = within(target, argument)
            store = SharedMemoryStore(argument.folder, writer=False)
        elif what == "load":
            assert store is not None and store.load(argument, held.load, LONG_S) is not None
            wait(str(target.device))
            orders.send(time.monotonic())
        elif what == "copy":
            started = time.monotonic()
            target.copy_(source)
            wait(str(target.device))
            orders.send((started, time.monotonic()))
        elif what == "leave":
            assert store is not None
            store.close()
        if what in ("room", "case", "leave"):
            orders.send("done")


def wait(device: str) -> None:
    """Wait until the device has done all that it was given."""
    if device != "cpu":
        torch.cuda.synchronize(device)


def within(memory: Tensor, case: Case) -> dict[str, Tensor]:
    """The tensors of a replica, one after the other in ``memory``."""
    replica, place = {}, 0
    for name, shape in case.shapes.items():
        dtype = case.layout[name]
        end = place + math.prod(shape) * dtype.itemsize
        replica[name] = memory[place:end].view(dtype).view(shape)
        place = end
    return replica


def median_ms(seconds: list[float]) -> float:
    return round(statistics.median(seconds) * 1e3, 3)


def show(rows: list[dict[str, Any]]) -> None:
    """The figures as a table."""
    table = Table(*(name.replace("_", " ") for name in rows[0]), title="Publish to loaded")
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
