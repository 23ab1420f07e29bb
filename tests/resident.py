"""As a program, ``resident.py RANK SIZE MEETING CONFIG``, a rank of a divided model that checks how
many numbers it ever holds: its parts of weights and gradients, and few layers at a time."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from rhoselect.config import load
from rhoselect.inputs import open_inputs
from rhoselect.ranks.gloo import GlooGroup
from rhoselect.trainer.build import new_learner

CPU = torch.device("cpu")
KEYS = ["model.factory=user_code:Deep", "model.args={}", "trainer.parallel=fsdp"]
KEYS += ["trainer.optimizer.name=SGD", "trainer.micro_batches=4", "scorer.precision=bf16"]


def resident() -> int:
    """The float32 numbers of all tensors in this process."""
    gc.collect()
    tensors = (each for each in gc.get_objects() if issubclass(type(each), Tensor))
    own = [t for t in tensors if not isinstance(t, DTensor) and t.dtype == torch.float32]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in own}
    return sum(storages.values()) // 4


def main(rank: int, size: int, meeting: Path, config: Path) -> None:
    inputs = open_inputs(load(config, [*KEYS, f"trainer.devices={size}"]))
    group = GlooGroup(rank, size, meeting, 20.0)
    batch = inputs.train.read(inputs.train.first(8), CPU)
    whole = sum(parameter.numel() for parameter in inputs.new_model().parameters())
    layer, before = whole / 8, resident()
    learner = new_learner(inputs, CPU, group)
    assert resident() - before < whole / size + layer, "once it is built"
    held = list[int]()
    learner.model.layers[-1].register_forward_pre_hook(lambda *_: held.append(resident() - before))
    learner.update(batch, None, 0)
    forwards = len(held)
    assert learner.evaluated_by(None).evaluate([batch])["accuracy"] >= 0
    assert len(held) > forwards > 0
    assert max(held) < 2 * whole / size + 3 * layer, "weights, their gradients and three layers"
    assert learner.tensors
    if rank == 0:
        learner.greatest_weight()
        learner.check_frozen("")
        assert resident() - before < 2 * whole / size + layer, "of a check"
        assert sum(map(Tensor.numel, learner.evaluated.parameters())) == whole
    else:
        learner.give()
        learner.give()
    learner.update(batch, None, 1)
    assert resident() - before < 2 * whole / size + layer, "after the next step"
    group.leave()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
