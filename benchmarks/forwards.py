"""Forms of a scoring forward against the plain one: seconds, and the ranks that they keep.

Each form takes turns with the plain float32 forward on the same resident chunk, one thread. What
wins here is worth a configuration key; ``ranks`` is the Spearman correlation of its losses with the
plain ones, of an untrained network on random images. A form that cannot be made here (a compiler is
missing, say) is a row without figures that says why.

    python benchmarks/forwards.py --json docs/results/forwards.json
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

import arguments
from harness import show, write
from rhoselect.compute import keep_memory
from rhoselect.models import mlp, resnet18_small, small_cnn
from rhoselect.selector.audit import spearman

MODELS = {
    "mlp": lambda: mlp(input_shape=(1, 28, 28), classes=10, width=512, depth=2),
    "small_cnn": lambda: small_cnn(input_shape=(1, 28, 28), classes=10),
    "resnet18_small": lambda: resnet18_small(input_shape=(1, 28, 28), classes=10, width=16),
}
COLUMNS = ("model", "form", "ms", "plain_ms", "speedup", "ranks", "why_not")
Forward = Callable[[Tensor], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--chunk", type=int, default=160)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    options = arguments.parse(parser, models=["mlp"], chunk=16, repeats=1)
    warnings.simplefilter("ignore")  # dynamic quantisation announces its move to another package
    torch.set_num_threads(1)
    torch.manual_seed(0)
    keep_memory()
    rows = []
    for name in track(options.models, "models"):
        model = MODELS[name]().eval().requires_grad_(False).to(options.device)
        inputs = torch.randn(options.chunk, 1, 28, 28, device=options.device)
        labels = torch.arange(options.chunk, device=options.device) % 10
        for form, make in FORMS.items():
            figures = compare(model, make, inputs, labels, options.repeats)
            rows.append({"model": name, "form": form, **figures})
    show("forms of a forward, against plain float32", rows, COLUMNS)
    figures = {"chunk": options.chunk, "repeats": options.repeats, "device": str(options.device)}
    write(options.json, {**figures, "rows": rows})


def compare(
    model: nn.Module,
    make: Callable[[nn.Module], Forward],
    inputs: Tensor,
    labels: Tensor,
    repeats: int,
) -> dict[str, Any]:
    """Median milliseconds of both, and the ranks kept."""
    try:
        form = make(copy.deepcopy(model))
        outputs = [each(inputs).float() for each in (model, form)]
    except Exception as error:
        return {"why_not": f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"}
    losses = [F.cross_entropy(each, labels, reduction="none") for each in outputs]
    times: dict[str, list[float]] = {"plain_ms": [], "ms": []}
    for _ in range(repeats):
        for key, forward in (("plain_ms", model), ("ms", form)):
            started = time.perf_counter()
            with torch.inference_mode():
                forward(inputs)
            if inputs.is_cuda:
                torch.cuda.synchronize(inputs.device)
            times[key].append(1e3 * (time.perf_counter() - started))
    medians = {key: statistics.median(values) for key, values in times.items()}
    return {
        **medians,
        "speedup": medians["plain_ms"] / medians["ms"],
        "ranks": spearman(*(each.cpu().numpy() for each in losses)),
    }


def channels_last(model: nn.Module) -> Forward:
    by_pixel = model.to(memory_format=torch.channels_last)
    return lambda inputs: by_pixel(inputs.contiguous(memory_format=torch.channels_last))


def bf16(model: nn.Module) -> Forward:
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.to(torch.bfloat16)

    def forward(inputs: Tensor) -> Tensor:
        with torch.autocast(inputs.device.type, torch.bfloat16):
            return model(inputs)

    return forward


def int8(model: nn.Module) -> Forward:
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


FORMS: dict[str, Callable[[nn.Module], Forward]] = {
    "plain again": lambda model: model,
    "channels_last": channels_last,
    "BatchNorm folded": fuse,
    "folded, channels_last": lambda model: channels_last(fuse(model)),
    "compiled": torch.compile,
    "bf16": bf16,
    "int8 linear layers": int8,
}


if __name__ == "__main__":
    main()
