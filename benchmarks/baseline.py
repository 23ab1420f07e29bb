"""Uniform selection in its best form: a plain loop on resident data with a fused optimizer."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from curves import Curve, Ground
from rhoselect.compute import keep_memory
from rhoselect.data import ArrowDataset
from rhoselect.models.build import build_model

CPU = torch.device("cpu")


def uniform(
    ground: Ground, spec: dict[str, Any], n_b: int, seed: int, cosine: bool = False
) -> Curve:
    """Train on shuffled batches of ``n_b``, with whichever number of threads is faster."""
    keep_memory()
    dataset = ArrowDataset.open(ground.data)
    train, test = (dataset.split(name) for name in ("train", "test"))
    points = train.read(train.indices, CPU)
    quizzed = test.read(test.indices, CPU)
    threads = min((1, 2), key=lambda n: _step_ms(_model(dataset, spec, seed), points, n_b, n))
    torch.set_num_threads(threads)
    model = _model(dataset, spec, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, fused=True)
    steps = spec["steps"]
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps) if cosine else None
    generator = torch.Generator().manual_seed(seed)
    grid, accuracies, seconds, elapsed_s = [], [], [], 0.0
    order: Tensor = torch.empty(0, dtype=torch.int64)
    for step in range(1, steps + 1):
        started = time.perf_counter()
        if len(order) < n_b:
            order = torch.randperm(len(points.labels), generator=generator)
        batch, order = order[:n_b], order[n_b:]
        _step(model, optimizer, points.inputs[batch], points.labels[batch])
        if decay:
            decay.step()
        elapsed_s += time.perf_counter() - started
        if step % spec["grid"] == 0:
            model.eval()
            with torch.inference_mode():
                parts = zip(quizzed.inputs.split(1000), quizzed.labels.split(1000), strict=True)
                hits = sum(int((model(x).argmax(1) == y).sum()) for x, y in parts)
            model.train()
            grid.append(step)
            accuracies.append(hits / len(quizzed.labels))
            seconds.append(elapsed_s)
    return Curve(grid, accuracies, seconds, 1e3 * elapsed_s / steps, {}, "")


def forward_ms(ground: Ground, spec: dict[str, Any], points: int, processes: int) -> float:
    """Milliseconds of a bare forward of ``points``, on all cores, or split over single threads."""
    dataset = ArrowDataset.open(ground.data)
    train = dataset.split("train")
    torch.set_num_threads(2 if processes == 1 else 1)
    inputs = train.read(train.indices[: points // processes], CPU).inputs
    model = _model(dataset, spec, 0).eval()
    times = []
    with torch.inference_mode():
        for _ in range(30):
            started = time.perf_counter()
            model(inputs)
            times.append(time.perf_counter() - started)
    return 1e3 * statistics.median(times)


def _model(dataset: ArrowDataset, spec: dict[str, Any], seed: int) -> nn.Module:
    model = spec["model"]
    shape = dataset.input_shape
    return build_model(model["factory"], model["args"], shape, dataset.classes, seed).train()


def _step(
    model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, labels: Tensor
) -> None:
    loss = F.cross_entropy(model(inputs), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _step_ms(model: nn.Module, points: Any, n_b: int, threads: int) -> float:
    torch.set_num_threads(threads)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    times = []
    for start in range(0, 40 * n_b, n_b):
        started = time.perf_counter()
        part = slice(start, start + n_b)
        _step(model, optimizer, points.inputs[part], points.labels[part])
        times.append(time.perf_counter() - started)
    return 1e3 * statistics.median(times)
