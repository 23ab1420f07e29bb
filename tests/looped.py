"""One process of a data-parallel loop of a user's own, as torchrun starts it: a fork of the warm
interpreter. ``looped.py KIND RANK RANKS MEETING OUT CONFIG [ADDRESS]`` leaves in OUT.RANK the
indices [steps, share] that it got and its whole weights after the last step."""

from __future__ import annotations

import copy
import itertools
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import TensorDataset

from rhoselect.client import SelectionClient, own_model
from rhoselect.config import load
from rhoselect.errors import RhoError
from rhoselect.inputs import open_inputs
from support import CLASSES, ended_well, patches
from warm import Process

RANKS, STOP = 2, 3
OWN = {"selection": {"n_b": 8, "n_B": 64, "chunk": 16}, "scorer": {"precision": "fp32"}}
PLAIN = {"optim": "sgd", "learning_rate": 0.1}
"""Arguments of a Trainer whose steps are as long as its gradients."""


def points(shift: int) -> TensorDataset:
    """Pairs of a flat picture and its class, or the one after it."""
    images, labels = patches()["train"]
    flat = torch.from_numpy(images).flatten(1).float() / 100
    return TensorDataset(flat, (torch.from_numpy(labels) + shift) % CLASSES)


def run(kind: str, config: Path, out: Path, *where: str) -> list[dict[str, Any]]:
    """What the ranks left."""
    given = (str(RANKS), f"{out}.meeting", str(out), str(config), *where)
    ranks = [Process(__file__, kind, str(rank), *given) for rank in range(RANKS)]
    for rank in ranks:
        ended_well(rank)
    return [torch.load(f"{out}.{rank}", weights_only=True) for rank in range(RANKS)]


def joined(found: list[dict[str, Any]]) -> list[list[int]]:
    """The batches [steps, n_b] of all ranks: rank r had rows r::k."""
    return torch.stack([each["indices"] for each in found], 2).flatten(1).tolist()


def parallel(kind: str, model: nn.Module) -> Any:
    if kind == "fsdp2":
        return fully_shard(model, mesh=init_device_mesh("cpu", (RANKS,)))
    return DistributedDataParallel(model)


def whole(model: nn.Module) -> dict[str, Tensor]:
    """By names of the bare model; all ranks call it."""
    bare = getattr(model, "module", model)
    return {
        name: each.full_tensor() if hasattr(each, "full_tensor") else each
        for name, each in bare.state_dict().items()
    }


def trained(rank: int, out: str) -> dict[str, Any]:
    """The weights of a Trainer with selection, and of one that goes on from its checkpoint."""
    sys.path.append(str(Path(__file__).parent / "service"))
    from trainer_helpers import n_b, sentences, small_bert, trainer

    arguments = {**PLAIN, "per_device_train_batch_size": n_b // RANKS}
    arguments |= {"save_strategy": "steps", "save_steps": 5}
    found, il = [], torch.arange(128) / 128
    for start in (None, f"{out}.trainer/checkpoint-5"):
        model, run_dir = small_bert(), None if start else f"{out}.run"
        given = {"irreducible_losses": il, "run_dir": run_dir, "arguments": arguments}
        made = trainer(Path(f"{out}.trainer"), model, sentences(), **given)
        made.train(resume_from_checkpoint=start)
        found.append(model.state_dict())
    return {"weights": found[0], "resumed": found[1]}


def mistakes(rank: int, out: str, config: Path) -> dict[str, str]:
    """What a client says on this rank, by what is wrong."""
    torch.manual_seed(rank)
    inputs, said = open_inputs(load(config)), dict[str, str]()
    tree = inputs.config.model_dump()
    here: dict[str, Any] = {"local": True, "config": tree, "run_dir": None}
    own = {**here, "config": OWN, "irreducible_losses": [0.0] * 400}

    def tried(what: str, then: Callable[[SelectionClient], object], **given: Any) -> None:
        try:
            then(SelectionClient(**{"model": inputs.new_model(), **here, **given}))
        except RhoError as error:
            said[what] = str(error)

    def begun(selection: SelectionClient) -> None:
        next(iter(selection))

    def told(selection: SelectionClient) -> None:
        begun(selection)
        selection.step(inputs.new_model(), torch.zeros(4) if rank == 0 else None)

    def ended(selection: SelectionClient) -> None:
        begun(selection)
        if rank:
            distributed.barrier()  # here, and not in the next step
            raise RhoError("left")
        try:
            selection.step(inputs.new_model())
        finally:
            distributed.barrier()

    def died(selection: SelectionClient) -> None:
        begun(selection)
        if rank:
            torch.save(said, f"{out}.{rank}")
            os._exit(0)
        selection.step(inputs.new_model())

    tried("share", begun, config={**tree, "selection": {**tree["selection"], "n_b": 7}})
    tried("lag", begun, config={**tree, "selection": {**tree["selection"], "lag": 1}})
    tried("workers", begun, workers=1)
    tried("settings", begun, config={**tree, "seed": rank})
    tried("step", begun, step=rank)
    own["model"] = nn.Linear(256, CLASSES)  # another one on each rank
    tried("points", begun, **own, data=points(rank))
    tried("weights", begun, **own, data=points(0))
    tried("losses of one rank", told)
    tried("folder", begun, run_dir=Path(out).parent)
    tried("left", ended, timeout_s=2.0)
    tried("died", died)
    return said


def main(kind: str, rank: int, out: str, config: Path, *where: str) -> None:
    if kind == "mistakes":
        torch.save(mistakes(rank, out, config), f"{out}.{rank}")
        return
    if kind == "trainer":
        torch.save(trained(rank, out), f"{out}.{rank}")
        return
    inputs = open_inputs(load(config))
    settings = inputs.config.trainer
    options: dict[str, Any] = {"local": True, "config": config, "run_dir": Path(f"{out}.run")}
    if where:
        options = {"address": where[0]}
    model = inputs.new_model()
    optimizer = torch.optim.SGD(model.parameters(), settings.lr)
    if kind == "accelerate":
        from accelerate import Accelerator

        accelerator = Accelerator(cpu=True)
        model, optimizer = accelerator.prepare(model, optimizer)
        assert isinstance(model, DistributedDataParallel)
    else:
        model = parallel(kind, model)
        optimizer = torch.optim.SGD(model.parameters(), settings.lr)
    selection, found = SelectionClient(model, **options), []
    for start in (0, STOP):
        for batch in itertools.islice(selection, settings.steps if start else STOP):
            losses = F.cross_entropy(model(batch.inputs), batch.labels, reduction="none")
            optimizer.zero_grad()
            loss = (losses * batch.weights).mean()
            accelerator.backward(loss) if kind == "accelerate" else loss.backward()
            optimizer.step()
            selection.step(model, losses)
            found.append(batch.indices)
        if not start and kind == "accelerate":  # go on from a checkpoint
            accelerator.register_for_checkpointing(selection)
            accelerator.save_state(f"{out}.state")
            accelerator.wait_for_everyone()
            accelerator.load_state(f"{out}.state")
        elif not start:
            state = copy.deepcopy(selection.state_dict())
            selection = SelectionClient(model, step=state, **options)
    weights = whole(model)
    half = {name: torch.empty_like(t, dtype=torch.bfloat16) for name, t in weights.items()}
    sent = own_model.whole(own_model.weights_of(model, half), half if kind == "fsdp2" else None)
    left = {"indices": torch.stack(found), "weights": weights, "sent": dict(sent)}
    torch.save(left, f"{out}.{rank}")


if __name__ == "__main__":
    kind, rank, ranks, meeting, out, config, *where = sys.argv[1:]
    torch.set_num_threads(1)
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks}  # as torchrun does
    os.environ |= {"LOCAL_WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{meeting}",
        rank=int(rank),
        world_size=int(ranks),
        timeout=timedelta(seconds=60),
    )
    main(kind, int(rank), out, Path(config), *where)
    # Not by destroy_process_group: torch joins gloo's threads while it holds the GIL, for which one
    # of them may wait to free the last collective.
    os._exit(0)
