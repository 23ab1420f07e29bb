"""A run is tried before it starts: once, on its own devices, and without a trace in its result."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import threaded
from rhoselect.compute import repeatable
from rhoselect.config import load
from rhoselect.errors import ConfigError, ModelError
from rhoselect.inputs import check_scoring, open_inputs
from rhoselect.trainer.rehearsal import _train_once, check_start, rehearse
from support import hashes, made, rhoctl

CPU = torch.device("cpu")
BUILT: list[str] = []


class _Put(torch.autograd.Function):
    """Its gradient uses an operator that, also on a CPU, has no kernel that repeats."""

    @staticmethod
    def forward(ctx: object, inputs: Tensor) -> Tensor:
        return inputs.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient.put(torch.tensor([0]), torch.tensor([1.0]))


class Put(nn.Module):
    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        BUILT.append("model")
        self.layers = nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))
        self.layers(torch.zeros(1, *input_shape))
        self.norm = nn.BatchNorm1d(classes)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.norm(self.layers(inputs))
        return _Put.apply(logits)  # type: ignore[no-any-return, no-untyped-call]


def putting(*sets: str) -> list[str]:
    return ["model.factory=test_rehearsal:Put", "model.args={}", *sets]


@pytest.fixture
def deterministic() -> Iterator[None]:
    """The mode that a run sets on a GPU; the CPU has some such operators, too."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("deterministic")
def test_an_operator_without_a_kernel_that_repeats_is_one_line(
    tiny_config: Path, tmp_path: Path
) -> None:
    """Before a folder is made, instead of a traceback in the first step."""
    words = [word for item in putting() for word in ("--set", item)]
    result = rhoctl("train", tiny_config, "--run-dir", tmp_path / "run", *words)
    assert result.code == 2
    assert "model.factory: its model uses put_, which has no kernel on cpu" in result.err
    assert "use another layer there, or set trainer.device and scorer.device to cpu" in result.err
    assert result.err.count("\n") == 1 and "Traceback" not in result.err
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("deterministic")
def test_so_it_is_in_the_middle_of_a_run() -> None:
    with pytest.raises(ModelError, match="uses put_, which"), repeatable(CPU):
        torch.zeros(4).put_(torch.tensor([0]), torch.tensor([1.0]))
    with pytest.raises(RuntimeError, match="size of tensor"), repeatable(CPU):
        torch.zeros(4) + torch.zeros(3)


def test_a_model_may_keep_what_its_first_forward_makes(tiny_config: Path) -> None:
    """A tensor of inference mode could not be used by a training step."""
    rehearse(open_inputs(load(tiny_config, ["model.factory=user_code:Cached", "model.args={}"])))


class Wide(Put):
    """A model that its scoring precision breaks."""

    def forward(self, inputs: Tensor) -> Tensor:
        if self.norm.weight.dtype == torch.float32 != self.layers[1].weight.dtype:
            raise TypeError("no kernel for so few bits")
        return self.layers(inputs)  # type: ignore[no-any-return]


def test_a_model_that_fails_as_it_is_scored_is_named(tiny_config: Path) -> None:
    sets = ["model.factory=test_rehearsal:Wide", "model.args={}", "scorer.precision=bf16"]
    said = r"model\.factory test_rehearsal:Wide: its model fails with scorer\.precision = 'bf16'"
    with pytest.raises(ModelError, match=said + r" on .*: TypeError: no kernel for so few bits"):
        rehearse(open_inputs(load(tiny_config, sets)))


def test_a_gpu_need_not_hold_the_whole_of_a_divided_model(tiny_config: Path) -> None:
    """This machine has none: any tensor there would fail."""
    divided = ["trainer.parallel=fsdp", "model.args={}"]
    stacked = ["model.factory=user_code:Stacked", *divided]
    _train_once(open_inputs(load(tiny_config, stacked)), torch.device("cuda"))
    normed = open_inputs(load(tiny_config, ["model.factory=test_rehearsal:Put", *divided]))
    with pytest.raises(ConfigError, match="'fsdp' and a model with BatchNorm"):
        _train_once(normed, torch.device("cuda"))


def test_it_leaves_no_trace(tiny_config: Path, tmp_path: Path) -> None:
    """In random numbers, in a second opening of the same inputs, in the run that follows."""
    sets = ["model.factory=user_code:Dropped", "model.args={}"]
    sets += ["trainer.steps=3", "selection.bn=batch"]
    inputs = open_inputs(load(tiny_config, sets))
    before, state = inputs.new_model().state_dict(), torch.get_rng_state()
    rehearse(inputs)
    assert torch.equal(torch.get_rng_state(), state)
    after = inputs.new_model().state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    words = [word for item in sets for word in ("--set", item)]
    made("train", tiny_config, "--run-dir", tmp_path / "tried", *words)
    threaded.run(tiny_config, tmp_path / "untried", 0, sets)
    assert hashes(tmp_path / "tried") == hashes(tmp_path / "untried")


def test_a_loop_of_ones_own_keeps_its_random_numbers(tiny_config: Path) -> None:
    """Stochastic passes are seeded by the points."""
    sets = ["selection.function=bald", "model.factory=user_code:Dropped", "model.args={}"]
    inputs = open_inputs(load(tiny_config, sets))
    state = torch.get_rng_state()
    check_scoring(inputs, CPU)
    assert torch.equal(torch.get_rng_state(), state)


def test_no_process_but_one_tries_the_model(tiny_config: Path) -> None:
    """The others open the inputs alone; the driver leaves a run on GPUs to the trainer's process,
    as a context of its own would take memory there."""
    BUILT.clear()
    there = ["cluster.address=auto", "scorer.device=cuda", "trainer.device=cuda"]
    check_start(open_inputs(load(tiny_config, putting(*there))), workers=4)
    here = open_inputs(load(tiny_config, putting()))
    assert BUILT == []
    check_start(here, workers=4)
    assert BUILT == ["model", "model"], "a learner and a replica"
    BUILT.clear()
    check_scoring(here, CPU)
    assert BUILT == ["model", "model"]
