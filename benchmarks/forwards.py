"""Forms of a scoring forward against the plain one: seconds, and the ranks that they keep.

Each form is a replica as a scorer has it, and takes turns with the plain float32 one on the same
resident chunk, one thread. ``ranks`` is the Spearman correlation of its losses with the plain ones,
of an untrained network on random points; ``first_s`` is what its first forward takes, with
compilation. A form that cannot be made here (a compiler is missing, say) is a row without figures
that says why.

    python benchmarks/forwards.py --json docs/results/forwards.json
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import nn

import arguments
from harness import show, write
from rhoselect.compute import keep_memory, repeatable
from rhoselect.models import mlp, resnet18_small, small_cnn, text_transformer
from rhoselect.models.numerics import Numerics
from rhoselect.models.replica import Replica
from rhoselect.selector.audit import spearman
from rhoselect.tasks import Classification
from rhoselect.types import Batch

IMAGE, TEXT, VOCABULARY, CLASSES = (1, 28, 28), (32,), 1000, 10
Make = Callable[[], nn.Module]
MODELS: dict[str, tuple[tuple[int, ...], Make]] = {
    "mlp": (IMAGE, lambda: mlp(input_shape=IMAGE, classes=CLASSES, width=512, depth=2)),
    "small_cnn": (IMAGE, lambda: small_cnn(input_shape=IMAGE, classes=CLASSES)),
    "resnet18_small": (
        IMAGE,
        lambda: resnet18_small(input_shape=IMAGE, classes=CLASSES, width=16),
    ),
    "text_transformer": (
        TEXT,
        lambda: text_transformer(input_shape=TEXT, classes=CLASSES, vocabulary=VOCABULARY),
    ),
}
FORMS = {
    "plain again": Numerics("fp32"),
    "channels_last": Numerics("fp32", channels_last=True),
    "BatchNorm folded": Numerics("fp32", fold_batchnorm=True),
    "folded, channels_last": Numerics("fp32", channels_last=True, fold_batchnorm=True),
    "compiled": Numerics("fp32", compile=True),
    "bf16": Numerics("bf16"),
    "int8 linear layers": Numerics("fp32", quantize="int8"),
    "int8, compiled": Numerics("fp32", quantize="int8", compile=True),
    "fp8 linear layers, bf16": Numerics("bf16", quantize="fp8"),
    "CUDA graph": Numerics("fp32", graph=True),
    "bf16, CUDA graph": Numerics("bf16", graph=True),
}
COLUMNS = ("model", "form", "ms", "plain_ms", "speedup", "ranks", "first_s", "why_not")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--chunk", type=int, default=160)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    options = arguments.parse(parser, models=["mlp"], chunk=16, repeats=1)
    warnings.simplefilter("ignore")  # of compilers
    torch.set_num_threads(1)
    keep_memory()
    rows = []
    for name in track(options.models, "models"):
        shape, make = MODELS[name]
        chunk = chunk_of(shape, options.chunk, options.device)
        plain = replica_of(make, Numerics("fp32"), options.device)
        for form, numerics in FORMS.items():
            with repeatable(options.device):
                figures = compare(plain, make, numerics, chunk, options.repeats)
            rows.append({"model": name, "form": form, **figures})
    show("forms of a forward, against plain float32", rows, COLUMNS)
    figures = {"chunk": options.chunk, "repeats": options.repeats, "device": str(options.device)}
    write(options.json, {**figures, "rows": rows})


def chunk_of(shape: tuple[int, ...], points: int, device: torch.device) -> Batch:
    torch.manual_seed(1)
    text = len(shape) == 1
    inputs = torch.randint(1, VOCABULARY, (points, *shape)) if text else torch.randn(points, *shape)
    content = (inputs.to(device), torch.arange(points, device=device) % CLASSES)
    return Batch(np.arange(points, dtype=np.int64), content)


def replica_of(make: Make, numerics: Numerics, device: torch.device) -> Replica:
    """With the same weights always."""
    torch.manual_seed(0)
    return Replica(make(), numerics, device, Classification())


def compare(
    plain: Replica, make: Make, numerics: Numerics, chunk: Batch, repeats: int
) -> dict[str, Any]:
    """Median milliseconds of both, and the ranks kept."""
    try:
        form, started = replica_of(make, numerics, plain.device), time.perf_counter()
        losses = [each(chunk).losses.cpu().numpy() for each in (form, plain)]
        first_s = time.perf_counter() - started
    except Exception as error:
        return {"why_not": f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"}
    times: dict[str, list[float]] = {"plain_ms": [], "ms": []}
    for _ in range(repeats):
        for key, replica in (("plain_ms", plain), ("ms", form)):
            started = time.perf_counter()
            replica(chunk)
            if plain.device.type == "cuda":
                torch.cuda.synchronize(plain.device)
            times[key].append(1e3 * (time.perf_counter() - started))
    medians = {key: statistics.median(values) for key, values in times.items()}
    speedup = medians["plain_ms"] / medians["ms"]
    return {**medians, "speedup": speedup, "ranks": spearman(*losses), "first_s": first_s}


if __name__ == "__main__":
    main()
