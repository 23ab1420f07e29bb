"""A served run, seen and steered by its operator through the real commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from service_helpers import inputs, service, train
from torch import Tensor

from rhoselect.client import SelectionClient
from rhoselect.errors import UserError
from rhoselect.inputs import RunInputs
from rhoselect.protos import control_pb2 as pb
from rhoselect.protos.control_pb2_grpc import ControlStub
from rhoselect.service.connect import Target, channel_of
from rhoselect.service.errors import status_to_errors
from rhoselect.trainer.records import selected_sha256, weights_sha256
from support import made, rhoctl


def ask(*command: str | Path) -> Any:
    """What a command says of a run as JSON."""
    return json.loads(made(*command, "--json").out)


def test_in_one_process(tiny_config: Path, tmp_path: Path) -> None:
    run, folder = inputs(tiny_config), tmp_path / "served"
    with service(run, folder) as address:
        assert ask("status", folder)["step"] == 0, "no loop is there yet"
        assert ask("queue", "peek", folder)["points"] == []
        model = run.new_model()
        train(run, SelectionClient(model, address=address), model, steps=3)
        for target in (folder, address):
            seen = ask("status", target)
            assert (seen["step"], seen["steps"], seen["workers"]) == (3, 20, [])
        for command in ("pause", "resume", "checkpoint", "stop"):
            refused = rhoctl(command, folder)
            assert refused.code == 2
            assert f"{command}: got a served run" in refused.err
        scaled = rhoctl("scale", folder, "--workers", "2")
        assert scaled.code == 2
        assert "served with --workers 0" in scaled.err
        too_many = pytest.raises(UserError, match="got 4294967295, allowed 0 to 10000")
        with channel_of(Target(str(folder))) as channel, too_many, status_to_errors(address):
            ControlStub(channel).Scale(pb.ScaleRequest(workers=2**32 - 1))
    assert not (folder / "control.json").exists()
    assert rhoctl("status", folder).code == 2


def in_parts(run: RunInputs, between: Callable[[int, int], None], **where: Any) -> tuple[str, str]:
    """The hashes of a loop that forgets its optimizer's state twice; then ``between`` is told how
    often, and the steps taken."""
    model = run.new_model()
    selection, selected = SelectionClient(model, **where), list[Tensor]()
    for part in range(2):
        selected += train(run, selection, model, steps=7)
        between(part, len(selected))
    selected += train(run, selection, model)
    return selected_sha256(indices.numpy() for indices in selected), weights_sha256(model)


@pytest.mark.timeout(300)
def test_scorers_come_and_go(ray_session: None, tiny_config: Path, tmp_path: Path) -> None:
    run, folder = inputs(tiny_config), tmp_path / "served"

    def scale(part: int, steps: int) -> None:
        workers = (0, 2)[part]
        made("scale", folder, "--workers", str(workers))
        seen = ask("status", folder)
        assert seen["step"] == steps
        assert [worker["slot"] for worker in seen["workers"]] == list(range(workers))

    expected = in_parts(run, lambda *_: None, local=True, config=tiny_config)
    with service(run, folder, workers=1) as address:
        for _ in range(2):  # sessions
            assert in_parts(run, scale, address=address) == expected
