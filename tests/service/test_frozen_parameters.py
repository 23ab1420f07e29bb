"""A user's loop with `snapshots.only = "trainable"`: frozen parameters are compared, not sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from service_helpers import hashes, inputs, service, train
from torch.utils.data import TensorDataset

from rhoselect.client import SelectionClient
from rhoselect.errors import ModelError
from rhoselect.inputs import RunInputs
from support import patches

pytestmark = pytest.mark.usefixtures("away")

FACTORY = ["model.factory=adapted:Adapted", "model.args={}", "trainer.steps=3"]
ONLY = "snapshots.only=trainable"


@pytest.fixture(scope="module")
def run(tiny_config: Path) -> RunInputs:
    return inputs(tiny_config, [*FACTORY, ONLY])


def other_frozen(run: RunInputs, **where: Any) -> None:
    """A loop with another base is refused at once, and one whose base changes at the next step."""
    model = run.new_model()
    with torch.no_grad():
        model.layers[1].base.bias.add_(1)  # type: ignore[operator, index, union-attr]
    with pytest.raises(ModelError, match=r"other frozen parameters .*: layers\.1\.base\.bias;"):
        SelectionClient(model, **where)
    changing_frozen(run, **where)


def changing_frozen(run: RunInputs, **where: Any) -> None:
    model = run.new_model()
    with SelectionClient(model, **where) as selection:
        next(iter(selection))
        selection.step(model)
        with torch.no_grad():
            model.layers[4].base.weight.mul_(2)  # type: ignore[operator, index, union-attr]
        with pytest.raises(ModelError, match=r"other frozen parameters .*: layers\.4\.base"):
            next(iter(selection))


def test_a_served_loop_selects_the_same(run: RunInputs, tiny_config: Path, tmp_path: Path) -> None:
    with service(inputs(tiny_config, FACTORY), tmp_path / "all") as address:
        expected = hashes(run, address=address)
    with service(run, tmp_path / "only") as address:
        assert hashes(run, address=address) == expected
        other_frozen(run, address=address)
    assert (tmp_path / "only" / "model.safetensors").exists()


def test_a_loop_that_selects_in_its_process_does_too(run: RunInputs, tmp_path: Path) -> None:
    path, found = tmp_path / "run.toml", []
    for only in ("all", "trainable"):
        path.write_text(run.config.to_toml().replace('only = "trainable"', f'only = "{only}"'))
        found.append(hashes(run, local=True, config=path, run_dir=None))
    assert found[0] == found[1]
    other_frozen(run, local=True, config=path, run_dir=None)


def test_a_loop_with_data_of_its_own_does_too(run: RunInputs) -> None:
    images, labels = patches()["train"]
    data = TensorDataset(torch.from_numpy(images) / 255.0, torch.from_numpy(labels))
    sections = {
        "selection": {"function": "loss", "n_b": 8, "n_B": 64, "chunk": 16},
        "trainer": {"steps": 3},
        "metrics": {"port": -1},
    }
    found = []
    for only in ("all", "trainable"):
        model = run.new_model()
        config = {**sections, "snapshots": {"only": only}}
        where = {"local": True, "config": config, "data": data, "run_dir": None}
        indices = train(run, SelectionClient(model, **where), model)
        found.append(torch.cat(indices).tolist())
    assert found[0] == found[1]
    changing_frozen(run, **where)
    with pytest.raises(ModelError, match="all parameters of the loop's model learn"):
        SelectionClient(run.new_model().requires_grad_(True), **where)
