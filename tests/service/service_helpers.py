"""Loops of a user's, and services to run them with."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rhoselect.cli.serving import serving
from rhoselect.client import SelectionClient
from rhoselect.config import load, resolve
from rhoselect.inputs import RunInputs, open_inputs
from rhoselect.selection import ScoreFunction, ScoreInputs
from rhoselect.selector.build import check_servable, servable
from rhoselect.service.security import Security
from rhoselect.trainer.records import selected_sha256, weights_sha256
from rhoselect.trainer.runfolder import RunFolder


def inputs(config: Path, sets: list[str] | None = None) -> RunInputs:
    """The checked inputs of a run that can be served."""
    run = open_inputs(servable(resolve(load(config, sets or []))))
    check_servable(run)
    return run


@contextmanager
def service(run: RunInputs, folder: Path, workers: int = 0) -> Iterator[str]:
    """Serve ``run`` meanwhile, in a new folder or again; yields the address."""
    if not folder.exists():
        RunFolder.create(folder, run.config, run.sha256, kind="served")
    with serving(run, folder, workers, Security(), lambda status: None) as host:
        yield host.address


def train(
    run: RunInputs, selection: SelectionClient, model: nn.Module, steps: int | None = None
) -> list[Tensor]:
    """A plain loop with the trainer's settings; the indices [n_b] of each step."""
    torch.set_num_threads(run.config.trainer.threads)
    settings = run.config.trainer
    optimizer = torch.optim.AdamW(
        model.parameters(), settings.lr, weight_decay=settings.weight_decay, fused=True
    )
    selected = []
    for batch in itertools.islice(selection, steps):
        losses = F.cross_entropy(model(batch.inputs), batch.labels, reduction="none")
        optimizer.zero_grad()
        (losses * batch.weights).mean().backward()
        optimizer.step()
        selection.step(model, losses)
        selected.append(batch.indices)
    return selected


def hashes(run: RunInputs, **where: Any) -> tuple[str, str]:
    """Of the points that a loop selects, and of its final weights."""
    model = run.new_model()
    selected = train(run, SelectionClient(model, **where), model)
    return selected_sha256(indices.numpy() for indices in selected), weights_sha256(model)


class Gated(ScoreFunction):
    """The loss, once ``gate`` is open."""

    gate = threading.Event()
    gate.set()

    def score(self, inputs: ScoreInputs) -> Tensor:
        self.gate.wait()
        return inputs.forward.losses


class Cutting:
    """A TCP proxy to ``address`` that breaks its connections off, once, after ``cut_bytes`` towards
    the service."""

    def __init__(self, address: str, cut_bytes: int) -> None:
        host, _, port = address.rpartition(":")
        self._to, self._left, self.cuts = (host, int(port)), cut_bytes, 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._to)
                for pair in ((near, far, True), (far, near, False)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        with source, sink, contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self._left -= len(data) if counted else 0
                if self._left < 0 and not self.cuts:
                    self.cuts += 1
                    break
                sink.sendall(data)
            for end in (source, sink):
                end.shutdown(socket.SHUT_RDWR)
