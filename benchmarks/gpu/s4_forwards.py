"""Stage 4: what a replica keeps of a bare bf16 loop's rate, and a running scorer of that.

The bare loop holds linear and convolution weights in bf16 and runs under autocast, on one resident
chunk. Arms of the replica are those that the product has. Ranks are Spearman's, against float32.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import forms
import networks
import numpy as np
import torch
from stage import Stage, run, seconds
from torch import Tensor, nn

from rhoselect.compute import repeatable
from rhoselect.models.forms import CAST_MODULES
from rhoselect.models.numerics import Numerics
from rhoselect.models.replica import Replica
from rhoselect.selector.audit import spearman
from rhoselect.tasks import Classification
from rhoselect.types import Batch

from harness import synthetic_data  # isort: skip
from scorer import running_rate  # isort: skip

TASK = Classification()

CLASSES, VOCABULARY = 10, 4096


@dataclass(frozen=True)
class Case:
    """A network, the chunk that it scores, and what counts as one of ``unit``."""

    factory: Callable[..., nn.Module]
    shape: tuple[int, ...]
    chunk: int
    args: dict[str, Any]

    @property
    def unit(self) -> str:
        return "tokens/s" if len(self.shape) == 1 else "images/s"

    @property
    def units(self) -> int:
        return self.chunk * (self.shape[0] if len(self.shape) == 1 else 1)

    def build(self, device: torch.device) -> nn.Module:
        """With the same weights always; made on the device, as 1.2 B on a CPU take long."""
        torch.manual_seed(0)
        with device:
            made = self.factory(input_shape=self.shape, classes=CLASSES, **self.args)
        return made.eval().requires_grad_(False)

    def batch(self, device: torch.device) -> Batch:
        torch.manual_seed(1)
        inputs = networks.inputs_of(self.shape, self.chunk, device, VOCABULARY)
        labels = torch.arange(self.chunk, device=device) % CLASSES
        return Batch(np.arange(self.chunk, dtype=np.int64), (inputs, labels))


CASES = {
    "resnet50": Case(networks.resnet50, (3, 224, 224), 32, {}),
    "vit_b16": Case(networks.vit, (3, 224, 224), 32, {}),
    "llama_1b": Case(networks.llama, (1024,), 20, {}),
}
QUICK = {
    "resnet50": Case(networks.resnet50, (3, 32, 32), 8, {"width": 4}),
    "vit_b16": Case(networks.vit, (3, 32, 32), 8, {"width": 64, "heads": 2, "layers": 2}),
    "llama_1b": Case(
        networks.llama,
        (16,),
        4,
        {"width": 64, "heads": 4, "groups": 2, "layers": 2, "hidden": 128, "vocabulary": 4096},
    ),
}
TURNS = 5
RUNNING_S = 28.0  # what a run with a scorer takes, start and end included


@dataclass
class Measured:
    """What arms are compared with: float32 losses of the chunk, and the rate of a replica."""

    chunk: Batch
    exact: Tensor
    rate: float


def main(stage: Stage) -> None:
    cases, found = QUICK if stage.quick else CASES, dict[str, Measured]()
    for name, case in cases.items():
        stage.part(name, forwards, name, case, found, needs_s=5)
    name = "resnet50, a running scorer"
    if stage.quick:  # it starts Ray, as stage 3 does
        stage.figure(name, "not in a quick check: benchmarks/scorer.py --quick")
    else:
        stage.part(name, scorer, "resnet50", cases["resnet50"], needs_s=RUNNING_S)
    for name in found if not stage.quick else ["vit_b16"]:
        for arm, numerics in forms.COMPILED.items():
            given = (name, cases[name], found[name], arm, numerics)
            stage.part(f"{name}, {arm}", compare, *given, needs_s=25)


def forwards(stage: Stage, name: str, case: Case, found: dict[str, Measured]) -> None:
    device, chunk = stage.device, case.batch(stage.device)
    with repeatable(device):
        exact = Replica(case.build(device), Numerics("fp32"), device, TASK)(chunk).losses
        bare = bare_loop(case.build(device), chunk)
        replica = Replica(case.build(device), Numerics("bf16"), device, TASK)
        turns = [  # in turns: a host that launches kernels has fast and slow moments
            (rate(stage, case, bare), rate(stage, case, partial(replica, chunk)))
            for _ in range(2 if stage.quick else TURNS)
        ]
        loop, own = map(statistics.median, zip(*turns, strict=True))
        measured = Measured(chunk, exact, own)
    stage.figure(f"{name}, bare loop", loop, case.unit)
    stage.figure(f"{name}, replica / bare", measured.rate / loop, "", ">= .97")
    ranks(stage, f"{name}, ranks in bf16", replica, measured)
    found[name] = measured
    del bare, replica  # a GPU may not hold them and an arm
    arms = forms.OF_CONVOLUTIONS | forms.OF_ALL if name == "resnet50" else forms.OF_ALL
    for arm, numerics in arms.items():
        stage.part(f"{name}, {arm}", compare, name, case, found[name], arm, numerics)
    if stage.cuda:
        stage.figure(f"{name}, memory", torch.cuda.max_memory_allocated() / 2**30, "GiB")
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def rate(stage: Stage, case: Case, forward: Callable[[], object]) -> float:
    repeats = 3 if stage.quick else 10 if len(case.shape) == 1 else 30
    return case.units / seconds(stage.device, forward, repeats)


def compare(
    stage: Stage, name: str, case: Case, measured: Measured, arm: str, numerics: Numerics
) -> None:
    """An arm against the plain replica in bf16."""
    form = forms.made(case.build(stage.device), numerics, stage.device)
    if isinstance(form, str):
        stage.figure(f"{name}, {arm}", form)
        return
    with repeatable(stage.device):
        faster = rate(stage, case, partial(form, measured.chunk)) / measured.rate
        stage.figure(f"{name}, {arm} / replica", faster)
        ranks(stage, f"{name}, ranks {arm}", form, measured)


def bare_loop(model: nn.Module, chunk: Batch) -> Callable[[], Tensor]:
    """Nothing but the forward."""
    for module in model.modules():
        if isinstance(module, CAST_MODULES):
            module.to(torch.bfloat16)

    def forward() -> Tensor:
        with torch.inference_mode(), torch.autocast(chunk.inputs.device.type, torch.bfloat16):
            logits: Tensor = model(chunk.inputs)
        return logits

    return forward


def ranks(stage: Stage, name: str, replica: Replica, measured: Measured) -> None:
    losses = replica(measured.chunk).losses
    stage.figure(name, spearman(*(e.double().cpu().numpy() for e in (losses, measured.exact))))


def scorer(stage: Stage, name: str, case: Case) -> None:
    """The only scorer of a run at lag 1, on the device on which the trainer takes small steps."""
    data, table = synthetic_data(stage.work / f"{name}-data", 10 * case.chunk, case.shape)
    settings = {
        "factory": f"networks:{case.factory.__name__}",
        "args": case.args,
        "chunk": case.chunk,
    }
    chunk = case.batch(stage.device)
    with repeatable(stage.device):
        bare = bare_loop(case.build(stage.device), chunk)
        loop = case.units / seconds(stage.device, bare, 30)
    if stage.cuda:
        torch.cuda.empty_cache()
    run = stage.work / f"{name}-scorer"
    device = str(stage.device)
    rate = running_rate(settings, "bf16", device, 6.0, run, data, table)
    stage.figure(f"{name}, scorer", rate, case.unit)
    stage.figure(f"{name}, scorer / bare", rate / loop, "", ">= .95")


if __name__ == "__main__":
    run(main)
