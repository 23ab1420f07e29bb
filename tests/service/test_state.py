"""A loop that stops after any step goes on with the same points and weights, from the state of its
client and its own model and optimizer."""

from __future__ import annotations

import copy
import io
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from service_helpers import inputs, service
from torch import Tensor, nn

from rhoselect.client import SelectionClient
from rhoselect.errors import UserError
from rhoselect.trainer.records import read_steps

pytestmark = pytest.mark.usefixtures("away")

STOP, STEPS = 7, 12
METHODS = {
    "reducible_loss": [],
    "lag_2": ["selection.lag=2"],
    "reducr": ["selection.function=reducr"],
    "reducr_lag_1": ["selection.function=reducr", "selection.lag=1"],
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


Parts = dict[str, Any]
"""What has a state: "selection", "model" and "optimizer"."""


def parts(model: nn.Module, **where: Any) -> Parts:
    return {
        "selection": SelectionClient(model, **where),
        "model": model,
        "optimizer": torch.optim.AdamW(model.parameters(), 1e-2),
    }


def go(loop: Parts, steps: int | None = None) -> list[Tensor]:
    """The indices [n_b] of some steps."""
    selected = []
    for batch in itertools.islice(loop["selection"], steps):
        losses = F.cross_entropy(loop["model"](batch.inputs), batch.labels, reduction="none")
        loop["optimizer"].zero_grad()
        (losses * batch.weights).mean().backward()
        loop["optimizer"].step()
        loop["selection"].step(loop["model"], losses)
        selected.append(batch.indices)
    return selected


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def by_torch_save(saved: Parts, loaded: Callable[[], Parts], folder: Path) -> Parts:
    file = io.BytesIO()
    torch.save({name: part.state_dict() for name, part in saved.items()}, file)
    go(saved, 2)  # the state was a copy
    file.seek(0)
    fresh, states = loaded(), torch.load(file, weights_only=True)
    for name, part in fresh.items():
        part.load_state_dict(states[name])
    return fresh


def by_distributed_checkpoint(saved: Parts, loaded: Callable[[], Parts], folder: Path) -> Parts:
    """It fills tensors of the names that a new client's state has."""
    import torch.distributed.checkpoint as dcp

    dcp.save({"selection": saved["selection"]}, checkpoint_id=folder / "dcp", no_dist=True)
    fresh = loaded()
    dcp.load({"selection": fresh["selection"]}, checkpoint_id=folder / "dcp", no_dist=True)
    for name in ("model", "optimizer"):
        fresh[name].load_state_dict(saved[name].state_dict())
    return fresh


def by_accelerate(saved: Parts, loaded: Callable[[], Parts], folder: Path) -> Parts:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    def prepared(loop: Parts) -> Accelerator:
        AcceleratorState._reset_state(reset_partial_state=True)  # other tests' precision
        accelerator = Accelerator(cpu=True)
        loop["model"], loop["optimizer"] = accelerator.prepare(loop["model"], loop["optimizer"])
        accelerator.register_for_checkpointing(loop["selection"])
        return accelerator

    prepared(saved).save_state(str(folder / "accelerate"))
    fresh = loaded()
    prepared(fresh).load_state(str(folder / "accelerate"))
    return fresh


@pytest.mark.parametrize("sets", METHODS.values(), ids=METHODS)
def test_it_goes_on_with_the_same_points_and_weights(
    tiny_config: Path, tmp_path: Path, sets: list[str]
) -> None:
    check(tiny_config, tmp_path, sets, by_torch_save)


@pytest.mark.parametrize(
    "carry",
    [
        pytest.param(
            by_distributed_checkpoint,
            marks=pytest.mark.filterwarnings("ignore:torch.distributed is disabled"),
        ),
        by_accelerate,
    ],
    ids=["distributed", "accelerate"],
)
def test_libraries_of_checkpoints_carry_it(
    tiny_config: Path, tmp_path: Path, carry: Callable[..., Parts]
) -> None:
    check(tiny_config, tmp_path, METHODS["reducr_lag_1"], carry)


def check(config: Path, folder: Path, sets: list[str], carry: Callable[..., Parts]) -> None:
    run = inputs(config, [*sets, f"trainer.steps={STEPS}"])
    where = {"local": True, "config": run.config.model_dump(), "run_dir": None}
    whole = parts(run.new_model(), **where)
    expected = go(whole)

    def another() -> Parts:
        torch.manual_seed(1)
        return parts(run.new_model(), **where)

    cut = another()
    before = go(cut, STOP)
    fresh = carry(cut, another, folder)
    assert torch.equal(torch.stack([*before, *go(fresh)]), torch.stack(expected))
    assert same(fresh["model"], whole["model"])


def test_a_run_folder_goes_on_at_any_lag(tiny_config: Path, tmp_path: Path) -> None:
    """In another client, which is given the state in place of a step, and after it went back."""
    run = inputs(tiny_config, ["selection.lag=1", f"trainer.steps={STEPS}"])
    where: dict[str, Any] = {"local": True, "config": run.config.model_dump()}
    expected = go(parts(run.new_model(), **where, run_dir=None))
    where["run_dir"] = tmp_path / "run"
    loop = parts(run.new_model(), **where)
    go(loop, STOP)
    states = {name: copy.deepcopy(part.state_dict()) for name, part in loop.items()}
    loop["selection"] = SelectionClient(loop["model"], step=states["selection"], **where)
    go(loop, 2)
    for name, part in loop.items():
        part.load_state_dict(states[name])
    go(loop)
    rows = read_steps(tmp_path / "run", ["indices"])["indices"].to_pylist()
    assert rows == [indices.tolist() for indices in expected]


def test_a_served_loop_has_a_state_at_lag_0_alone(tiny_config: Path, tmp_path: Path) -> None:
    run = inputs(tiny_config)
    model, twin = run.new_model(), run.new_model()
    expected = go(parts(twin, local=True, config=tiny_config, run_dir=None), STOP + 2)
    with service(run, tmp_path / "served") as address:
        loop = parts(model, address=address)
        go(loop, STOP)
        state = loop["selection"].state_dict()
        loop["selection"] = SelectionClient(model, address)
        loop["selection"].load_state_dict(state)
        assert torch.equal(torch.stack(go(loop, 2)), torch.stack(expected[STOP:]))
    stale = inputs(tiny_config, ["selection.lag=1"])
    with service(stale, tmp_path / "stale") as address:
        selection = SelectionClient(model, address)
        with pytest.raises(UserError, match="a service does not give them away"):
            selection.state_dict()
        with pytest.raises(UserError, match="lag = 0, here 1"):
            selection.load_state_dict(state)


def test_mistakes_of_state_in_one_line(tiny_config: Path) -> None:
    run = inputs(tiny_config)
    model, tree = run.new_model(), run.config.model_dump()
    selection = SelectionClient(model, local=True, config=tree, run_dir=None)
    state = selection.state_dict()
    next(iter(selection))
    with pytest.raises(UserError, match=r"between the batch of step 0 and selection\.step"):
        selection.state_dict()
    for words, wrong in (
        ("not of format 1", {}),
        ("not of format 1", [1]),
        (
            "n_b = 4, here 8",
            {**state, "settings": state["settings"].replace('"n_b": 8', '"n_b": 4')},
        ),
        ("allowed 0 to 20", {**state, "step": 21}),
    ):
        with pytest.raises(UserError, match=words) as caught:
            selection.load_state_dict(wrong)
        assert "\n" not in str(caught.value)
