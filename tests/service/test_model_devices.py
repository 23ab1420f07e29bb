"""A loop's selection is on the device of its model. tests/gpu asks a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from service_helpers import inputs, service
from test_client import OWN, Points
from torch import Tensor, nn
from torch.utils.data import default_collate

from rhoselect.client import SelectionBatch, SelectionClient, fit_irreducible_losses
from rhoselect.client.client import Backend
from rhoselect.client.local import local_backend, user_data_backend
from rhoselect.client.options import Options
from rhoselect.client.remote import Remote
from rhoselect.client.user_data import GivenLosses, UserPoints
from rhoselect.errors import ModelError
from rhoselect.ranks import Alone
from rhoselect.selector.start import Start
from rhoselect.service.security import Security
from rhoselect.tasks import Classification
from support import CLASSES

pytestmark = pytest.mark.usefixtures("away")

ELSEWHERE = torch.device("meta")  # a device that every machine has, for tensors without values


def test_a_model_on_the_cpu_is_scored_there(
    tiny_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the machine has GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    tree = inputs(tiny_config, ["scorer.device=cpu"]).config.model_dump()
    model = inputs(tiny_config, ["scorer.device=cpu"]).new_model()
    tree["scorer"] = {"precision": "fp32"}
    next(iter(SelectionClient(model, local=True, config=tree)))
    own, il = nn.Linear(256, CLASSES), [0.0] * 400
    next(iter(SelectionClient(own, local=True, config=OWN, data=Points(), irreducible_losses=il)))


def test_a_model_on_several_devices_is_refused() -> None:
    model = nn.Sequential(nn.Linear(256, 8), nn.Linear(8, CLASSES, device="meta"))
    words = "model: got parameters on cpu, meta, allowed one device"
    with pytest.raises(ModelError, match=words):
        SelectionClient(model, local=True, config=OWN, data=Points(), irreducible_losses=[0] * 400)
    with pytest.raises(ModelError, match=words):
        fit_irreducible_losses(model, Points(), folds=2)


def on_its_device(backend: Backend, model: nn.Module) -> None:
    """All that a loss needs of a batch is on the device that was asked for."""
    backend.publish(0, model.state_dict())
    batch = backend.next(0, ELSEWHERE)
    assert batch.indices.device.type == "cpu"
    assert batch.labels is not None
    for tensor in (batch.inputs, batch.labels, batch.weights):
        assert tensor.device == ELSEWHERE


def test_batches_are_on_the_model_s_device(tiny_config: Path, tmp_path: Path) -> None:
    run = inputs(tiny_config)
    backend = local_backend(tiny_config, run.new_model(), Options(), Start(), Alone())
    on_its_device(backend, run.new_model())
    with service(run, tmp_path / "served") as address:
        remote = Remote(address, Security(), Start(), None, default_collate, 60.0, Alone())
        on_its_device(remote, run.new_model())
        remote.close()
    own, given = nn.Linear(256, CLASSES), Options(irreducible_losses=[0.0] * 400)
    on_its_device(user_data_backend(OWN, own, Points(), given, Start(), Alone()), own)


def test_what_scores_has_weights_of_losses_on_its_device() -> None:
    """A loss function may multiply by them."""
    read = UserPoints(Points(), default_collate).read(np.arange(3), ELSEWHERE)

    def losses(model: nn.Module, batch: SelectionBatch) -> Tensor:
        assert batch.labels is not None
        for tensor in (batch.inputs, batch.labels, batch.weights):
            assert tensor.device == ELSEWHERE
        return batch.weights

    assert len(GivenLosses(losses, Classification()).losses(nn.Linear(1, 1), read).losses) == 3
