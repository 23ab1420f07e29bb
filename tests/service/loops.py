"""Loops of a user's, and services to run them with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rhoselect.client import SelectionClient
from rhoselect.compute import resolve
from rhoselect.config import load
from rhoselect.launch.commands.serve import serving
from rhoselect.launch.service.building import check_servable, servable
from rhoselect.launch.service.security import Security
from rhoselect.launch.wiring import Prepared, new_model, prepare
from rhoselect.trainer.records import selected_sha256, weights_sha256
from rhoselect.trainer.runfolder import RunFolder


def prepared(config: Path, sets: list[str] | None = None) -> Prepared:
    """The checked inputs of a run that can be served."""
    run = prepare(servable(resolve(load(config, sets or []))))
    check_servable(run)
    return run


@contextmanager
def service(run: Prepared, folder: Path, workers: int = 0, **security: Any) -> Iterator[str]:
    """Serve ``run`` meanwhile; yields the address."""
    RunFolder.create(folder, run.config, run.inputs_sha256)
    with serving(run, folder, workers, Security(**security), lambda status: None) as host:
        yield host.address


def train(run: Prepared, selection: SelectionClient, model: nn.Module) -> list[Tensor]:
    """A plain loop with the trainer's settings; the indices [n_b] of each step."""
    torch.set_num_threads(run.config.trainer.threads)
    settings = run.config.trainer
    optimizer = torch.optim.AdamW(
        model.parameters(), settings.lr, weight_decay=settings.weight_decay, fused=True
    )
    selected = []
    for batch in selection:
        losses = F.cross_entropy(model(batch.inputs), batch.labels, reduction="none")
        optimizer.zero_grad()
        (losses * batch.weights).mean().backward()
        optimizer.step()
        selection.step(model, losses)
        selected.append(batch.indices)
    return selected


def hashes(run: Prepared, **where: Any) -> tuple[str, str]:
    """Of the points that a loop selects, and of its final weights."""
    model = new_model(run)
    selected = train(run, SelectionClient(model, **where), model)
    return selected_sha256(indices.numpy() for indices in selected), weights_sha256(model)
