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
from rhoselect.config import load
from rhoselect.errors import RunFolderError, StorageError, UserError
from rhoselect.inputs import RunInputs
from rhoselect.protos import control_pb2 as pb
from rhoselect.protos.control_pb2_grpc import ControlStub
from rhoselect.service.connect import Target, channel_of
from rhoselect.service.errors import status_to_errors
from rhoselect.trainer.records import selected_sha256, weights_sha256
from rhoselect.trainer.resuming import Kind
from rhoselect.trainer.runfolder import RunFolder, writing
from support import behind_proxy, made, rhoctl


def ask(*command: str | Path) -> Any:
    """What a command says of a run as JSON."""
    return json.loads(made(*command, "--json").out)


def test_in_one_process(tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with a proxy, of which nothing on loopback takes notice."""
    behind_proxy(monkeypatch)
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


def test_a_socket_is_not_reached_through_a_proxy(
    tiny_config: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    behind_proxy(monkeypatch)
    address = f"unix:{tmp_path_factory.mktemp('s')}/s"
    run = inputs(tiny_config, [f"service.address={address}"])
    with service(run, tmp_path_factory.mktemp("served") / "run"):
        model = run.new_model()
        train(run, SelectionClient(model, address), model, steps=1)
        assert ask("status", address)["step"] == 1


def test_a_served_run_is_not_trained(tiny_config: Path, tmp_path: Path) -> None:
    """That would be another model, in the folder of the user's loop."""
    run, folder = inputs(tiny_config), tmp_path / "served"
    with service(run, folder) as address:
        model = run.new_model()
        train(run, SelectionClient(model, address), model)
        again = SelectionClient(model, address, step=run.config.trainer.steps)
        assert list(again) == [], "a job that is started again after its last step ends quietly"
    how, summary = f"rhoctl serve --resume --run-dir {folder}", folder / "summary.json"
    before = summary.read_bytes()
    refused = rhoctl("train", "--resume", "--run-dir", folder)
    assert (refused.code, how in refused.err, refused.err.count("\n")) == (2, True, 1)
    assert summary.read_bytes() == before
    assert "it is finished" in rhoctl("status", folder).err


def test_a_trained_run_is_not_served(tiny_config: Path, tmp_path: Path) -> None:
    made("train", tiny_config, "--run-dir", tmp_path / "run", "--set", "trainer.steps=1")
    refused = rhoctl("serve", "--resume", "--run-dir", tmp_path / "run")
    assert refused.code == 2 and "a run of rhoctl train" in refused.err
    assert len(list((tmp_path / "run" / "generations").iterdir())) == 1


GOING_ON = {
    "trained": "rhoctl train --resume --run-dir {}",
    "served": "rhoctl serve --resume --run-dir {}",
    "local": "SelectionClient(…, run_dir='{}', step=…) in your loop",
}


@pytest.mark.parametrize("kind", GOING_ON)
def test_every_message_says_how_a_folder_of_its_kind_goes_on(
    tiny_config: Path, tmp_path: Path, kind: Kind
) -> None:
    """A loop that selects in its own process has no service, and nothing resumes it but itself."""
    folder = tmp_path / "run"
    made_folder = RunFolder.create(folder, load(tiny_config), kind=kind)
    advice = {each: text.format(folder) for each, text in GOING_ON.items()}
    own = advice.pop(kind)
    commands = [["report", folder], ["train", tiny_config, "--run-dir", folder]]
    commands += [
        [command, "--resume", "--run-dir", folder]
        for command, of in (("train", "trained"), ("serve", "served"))
        if of != kind
    ]
    asking: list[list[str | Path]] = [["status", folder], ["stop", folder], ["scorer", folder]]
    for words in (*commands, *asking):
        result = rhoctl(*words)
        assert (result.code, result.err.count("\n")) == (2, 1), result
        assert not any(other in result.err for other in advice.values()), result.err
        if kind == "local" and words in asking:
            assert "serves nothing" in result.err and "--resume" not in result.err
        else:
            assert own in result.err, result.err
    with pytest.raises(StorageError) as error, writing(made_folder):
        raise OSError("the disk is full")
    assert own in str(error.value)
    assert not any(other in str(error.value) for other in advice.values())
    if kind != "local":
        model = inputs(tiny_config).new_model()
        with pytest.raises(RunFolderError) as refused:
            SelectionClient(model, local=True, config=tiny_config, run_dir=folder, step=1)
        assert own in str(refused.value)


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


@pytest.mark.matrix
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
        model = run.new_model()
        train(run, SelectionClient(model, address), model, steps=3)  # the next one takes over
        for _ in range(2):  # sessions
            assert in_parts(run, scale, address=address) == expected
