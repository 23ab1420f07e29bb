"""A model that is compiled, data-parallel or sharded selects and learns what the bare one does."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from service_helpers import inputs, service, train
from test_client import OWN, Points
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from rhoselect.client import SelectionClient, fit_irreducible_losses
from rhoselect.client.own_model import weights_of, whole
from rhoselect.errors import ModelError
from rhoselect.inputs import RunInputs
from rhoselect.trainer.fit import FitOptions
from support import CLASSES

pytestmark = [
    pytest.mark.usefixtures("away"),
    # torch.compile looks at it itself, where it compiles a part of a model.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]


@pytest.fixture(autouse=True)
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone."""
    at = f"file://{tmp_path / 'group'}"
    dist.init_process_group("gloo", init_method=at, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def compiled(model: nn.Module) -> Any:
    return torch.compile(model, backend="eager")


def with_compiled_parts(model: nn.Module) -> nn.Module:
    """As of large models, whose blocks are compiled one by one."""
    for name, part in list(model.named_children()):
        setattr(model, name, compiled(part))
    return model


def with_parallel_parts(model: nn.Module) -> nn.Module:
    """As of a network whose features alone are spread over the GPUs of a process."""
    for name, part in list(model.named_children()):
        setattr(model, name, nn.DataParallel(compiled(part)))
    return model


def sharded(model: nn.Module) -> nn.Module:
    return fully_shard(model, mesh=init_device_mesh("cpu", (1,)))


COPYABLE: dict[str, Callable[[nn.Module], nn.Module]] = {
    "compiled": compiled,
    "data-parallel": DistributedDataParallel,
    "compiled and data-parallel": lambda model: DistributedDataParallel(compiled(model)),
    "parts compiled": with_compiled_parts,
    "parts data-parallel": with_parallel_parts,
}
ALL = {**COPYABLE, "sharded": sharded}


def learnt(run: RunInputs, model: nn.Module, **where: Any) -> tuple[list[Any], dict[str, Any]]:
    """The points that a loop selects, and its last weights by the names of the bare model."""
    selected = train(run, SelectionClient(model, **where), model, steps=4)
    weights = whole(weights_of(model, {}), None)
    return [part.tolist() for part in selected], {n: t.tolist() for n, t in weights.items()}


@pytest.mark.parametrize("wrap", ALL.values(), ids=ALL)
def test_its_tensors_have_the_names_of_the_bare_model(
    tiny_config: Path, tmp_path: Path, wrap: Callable[[nn.Module], nn.Module]
) -> None:
    run = inputs(tiny_config)
    expected = learnt(run, run.new_model(), local=True, config=tiny_config)
    assert learnt(run, wrap(run.new_model()), local=True, config=tiny_config) == expected
    with service(run, tmp_path / "served") as address:
        assert learnt(run, wrap(run.new_model()), address=address) == expected


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(256, 16), nn.ReLU(), nn.Linear(16, CLASSES))


def test_a_copy_of_it_scores_points_of_one_s_own() -> None:
    points, options = Points(), FitOptions(batch=100, epochs=1)
    config = {**OWN, "trainer": {"steps": 3}}

    def selected(model: nn.Module) -> list[list[int]]:
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        il = fit_irreducible_losses(model, points, folds=2, options=options)
        selection = SelectionClient(
            model, local=True, config=config, data=points, irreducible_losses=il, run_dir=None
        )
        found = []
        for batch in selection:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(batch.inputs), batch.labels).backward()
            optimizer.step()
            selection.step(model)
            found.append(batch.indices.tolist())
        return found

    expected = selected(network())
    for name, wrap in COPYABLE.items():
        assert selected(wrap(network())) == expected, name


def test_a_sharded_one_is_not_copied() -> None:
    points = Points()
    where: dict[str, Any] = {"local": True, "config": OWN, "data": points}
    model, losses = network(), torch.zeros(len(points))
    with pytest.raises(ModelError, match=r"got a sharded one, allowed a whole .* before fully_"):
        SelectionClient(sharded(copy.deepcopy(model)), **where, irreducible_losses=losses)
    selection = SelectionClient(model, **where, irreducible_losses=losses, run_dir=None)
    next(iter(selection))
    selection.step(sharded(model))


def test_one_that_is_spread_over_processes_is_refused(tiny_config: Path) -> None:
    """Where this one selects for itself: to gather it, it would wait for the others."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    run = inputs(tiny_config)
    dist.destroy_process_group()
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    model = fully_shard(run.new_model(), mesh=init_device_mesh("cpu", (2,)))
    with pytest.raises(ModelError, match="spread over 2 processes, allowed over the 1 that select"):
        SelectionClient(model, local=True, config=tiny_config, alone=True)
