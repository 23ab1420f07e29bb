"""Loops of a user's own in several processes: one selection, of which each process has a share."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from service_helpers import inputs, service
from torch import nn
from trainer_helpers import sentences, small_bert, trainer

import looped
from rhoselect.client import SelectionClient
from rhoselect.errors import UserError
from rhoselect.inputs import RunInputs
from rhoselect.protos import selection_pb2 as pb
from rhoselect.protos.selection_pb2_grpc import SelectionStub
from rhoselect.service.channel import open_channel
from rhoselect.service.errors import status_to_errors
from rhoselect.service.security import Security
from rhoselect.trainer.records import read_steps

pytestmark = pytest.mark.usefixtures("away")

SETS = ["trainer.steps=6", "trainer.lr=0.05"]
SETTINGS = {
    "losses": [],
    "a state": ["selection.function=reducr"],
    "weights of losses": ["selection.function=gradient_norm_is"],
    "BatchNorm, and what does not learn": [
        "model.factory=adapted:Adapted",
        "model.args={}",
        "selection.bn=running",
        "snapshots.only=trainable",
    ],
    "no weights needed": ["selection.function=uniform"],
}


def matrix(*values: object) -> Any:
    return pytest.param(*values, marks=pytest.mark.matrix)


def alone(run: RunInputs) -> tuple[list[list[int]], nn.Module]:
    """What one process selects and learns that sums gradients as two do."""
    torch.set_num_threads(1)
    model = run.new_model()
    optimizer = torch.optim.SGD(model.parameters(), run.config.trainer.lr)
    selection = SelectionClient(
        model, local=True, config=run.config.model_dump(), run_dir=None, alone=True
    )
    selected = []
    for batch in selection:
        optimizer.zero_grad()
        losses = torch.empty(len(batch.indices))
        for rank in range(looped.RANKS):
            rows = slice(rank, None, looped.RANKS)
            statistics = copy.deepcopy(dict(model.named_buffers()))
            part = F.cross_entropy(model(batch.inputs[rows]), batch.labels[rows], reduction="none")
            ((part * batch.weights[rows]).mean() / looped.RANKS).backward()
            losses[rows] = part.detach()
            if rank:  # only rank 0's go on
                model.load_state_dict(statistics, strict=False)
        optimizer.step()
        selection.step(model, losses)
        selected.append(batch.indices.tolist())
    return selected, model


def configured(run: RunInputs, folder: Path) -> Path:
    path = folder / "run.toml"
    path.write_text(run.config.to_toml())
    return path


@pytest.mark.parametrize(
    ("kind", "served", "settings"),
    [
        ("ddp", False, "BatchNorm, and what does not learn"),
        ("fsdp2", True, "losses"),
        matrix("ddp", False, "losses"),
        matrix("accelerate", False, "losses"),
        matrix("ddp", True, "losses"),
        matrix("fsdp2", False, "losses"),
        matrix("ddp", False, "a state"),
        *(
            matrix("ddp", where, name)
            for where in (False, True)
            for name in ("weights of losses", "no weights needed")
        ),
    ],
)
def test_ranks_share_the_selection_of_one_process(
    tiny_config: Path, tmp_path: Path, kind: str, served: bool, settings: str
) -> None:
    """Also where they go on from a checkpoint; and the last weights are those of the ranks, as are
    the shards that are cast and then gathered for scores."""
    run = inputs(tiny_config, [*SETS, *SETTINGS[settings]])
    config, out = configured(run, tmp_path), tmp_path / "out"
    expected, model = alone(run)
    folder = tmp_path / "out.run"
    if served:
        with service(run, folder) as address:
            found = looped.run(kind, config, out, address)
    else:
        found = looped.run(kind, config, out)
    assert looped.joined(found) == expected
    kept = {}
    if settings != "no weights needed":  # of which a service learns the last step by the next
        assert read_steps(folder, ["indices"])["indices"].to_pylist() == expected
        kept = load_file(folder / "model.safetensors")
    parameters = dict(model.named_parameters())
    for rank, each in enumerate(found):
        for name, tensor in each["weights"].items():
            if rank and name not in parameters:
                continue  # statistics of its own
            assert torch.equal(each["sent"][name], tensor.to(each["sent"][name].dtype)), name
            torch.testing.assert_close(tensor, model.state_dict()[name], msg=name)
            assert kind == "fsdp2" or torch.equal(tensor, model.state_dict()[name]), name
            assert not kept or torch.equal(tensor, kept[name]), name


@pytest.mark.matrix
def test_a_trainer_in_two_processes_learns_what_one_does(tiny_config: Path, tmp_path: Path) -> None:
    """But for rounding; and goes on from a checkpoint to the same bits."""
    lead, other = looped.run("trainer", tiny_config, tmp_path / "out")
    model, given = small_bert(), {"arguments": looped.PLAIN, "run_dir": tmp_path / "one"}
    il = torch.arange(128) / 128
    trainer(tmp_path / "trainer", model, sentences(), irreducible_losses=il, **given).train()
    one, two = (read_steps(tmp_path / each, ["indices"]) for each in ("one", "out.run"))
    assert one.equals(two)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(lead["weights"][name], tensor, msg=name)
    for each in (lead["resumed"], other["weights"], other["resumed"]):
        assert all(torch.equal(each[name], tensor) for name, tensor in lead["weights"].items())


MISTAKES = {
    "share": r"selection\.n_b: got 7 with 2 processes, allowed multiples of 2, .*; set 6 or 8, or",
    "lag": r"selection\.lag: got 1 with 2 processes, allowed 0: .*; set 0, or select with a serv",
    "workers": r"workers: got 1 with 2 processes, allowed 0",
    "settings": r"rank 1: got other settings than rank 0 \(seed\), allowed the same on all ranks",
    "step": r"rank 1: got step 1, allowed rank 0's 0; load the same checkpoint",
    "points": r"rank 1: got other points or irreducible losses than rank 0, allowed the whole data",
    "weights": r"model: got other weights after 0 steps on rank 1 than on rank 0, .* fully_shard",
    "losses of one rank": r"selection\.step: got 4, 0 losses by rank, allowed 4 on each",
}


def test_mistakes_of_ranks_in_one_line_on_each(tiny_config: Path, tmp_path: Path) -> None:
    """What one meets alone is told to the other; one that leaves is named, one that dies at
    once."""
    lead, other = looped.run("mistakes", tiny_config, tmp_path / "out")
    for what, pattern in MISTAKES.items():
        assert lead[what] == other[what]
        assert re.search(pattern, lead[what]), lead[what]
    assert re.search(r"^run_dir .*: exists, allowed", lead["folder"])
    assert other["folder"] == f"rank 0: {lead['folder']}"
    named = r"rank 0 lost rank 1 \(.*Timed out.*\): it ended, .* for 2 s \(timeout_s\); see its"
    assert re.search(named, lead["left"]), lead["left"]
    assert re.search(r"^rank 0 lost rank 1 \((?!Timed).*\): it ended,", lead["died"]), lead["died"]
    assert not any("\n" in line for line in [*lead.values(), *other.values()])


def test_a_service_knows_the_ranks_of_its_loop(tiny_config: Path, tmp_path: Path) -> None:
    served = service(inputs(tiny_config), tmp_path / "served")
    with served as address, open_channel(address, Security()) as channel:
        stub = SelectionStub(channel)
        session = stub.OpenRun(pb.OpenRunRequest(ranks=2)).session
        asked = pb.NextBatchRequest(session=session, rank=2)
        for words, call in (
            ("got 8 with 3 processes, all", lambda: stub.OpenRun(pb.OpenRunRequest(ranks=3))),
            ("rank: got 2, allowed 0 to 1, as OpenRun", lambda: list(stub.NextBatch(asked))),
        ):
            with pytest.raises(UserError, match=words), status_to_errors(address):
                call()
