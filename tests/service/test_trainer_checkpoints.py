"""A Trainer goes on from its checkpoints exactly, and never from half of one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from trainer_helpers import CHUNK, accumulated, n_B, sentences, small_bert, trainer

from rhoselect.errors import ConfigError

pytestmark = pytest.mark.usefixtures("away")


@pytest.mark.parametrize(
    ("saved", "lag"), [(4, 1), (3, 0), (6, 1)], ids=["between", "in_first", "in_second"]
)
def test_it_resumes_exactly_in_an_epoch_and_between(tmp_path: Path, lag: int, saved: int) -> None:
    """Of 4 steps an epoch, with dropout, accumulation and a rate that decays."""
    data, il = sentences(), torch.rand(128)

    def made(folder: str) -> tuple[Any, nn.Module]:
        model = small_bert(dropout=0.3)
        return trainer(
            tmp_path / folder,
            model,
            data,
            selection={"n_B": n_B, "chunk": CHUNK, "lag": lag},
            irreducible_losses=il,
            arguments={
                **accumulated(2),
                "max_steps": -1,
                "num_train_epochs": 2,
                "lr_scheduler_type": "linear",
                "save_strategy": "steps",
                "save_steps": saved,
                "logging_steps": 1,
            },
        ), model

    whole, expected = made("whole")
    whole.train()
    again, model = made("again")
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{saved}"))
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    told = [
        [
            (row["step"], row["epoch"], row["loss"], row["selection_score"])
            for row in rows
            if "loss" in row
        ]
        for rows in (whole.state.log_history, again.state.log_history)
    ]
    assert len(told[0]) == 8 and told[0] == told[1]
    ages = [row["selection_staleness"] for row in whole.state.log_history if "loss" in row]
    assert ages == [0, *[lag] * 7]


class Killed(BaseException):
    """In place of a signal that ends the process."""


MOMENTS = {  # the method that the process does not survive, the last file's beginning, an older one
    "before the weights": ("save_model", "", False, "optimizer.pt"),
    "within the last file": ("_save_rng_state", "{", False, "trainer_state.json"),
    "over an older one": ("_save_optimizer_and_scheduler", "", True, "trainer_state.json"),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_process_that_ends_while_it_saves(tmp_path: Path, moment: str) -> None:
    """The half checkpoint is refused, and the next start goes on from the one before."""
    il, (method, beginning, over, lost) = torch.arange(128) / 128, MOMENTS[moment]
    saves = {"save_strategy": "steps", "save_steps": 2, "max_steps": 5}

    def made(folder: str) -> tuple[Any, nn.Module]:
        model, rows = small_bert(dropout=0.3), sentences()
        more = {"irreducible_losses": il, "arguments": saves}
        return trainer(tmp_path / folder, model, rows, **more), model

    whole, expected = made("whole")
    whole.train()
    half, before = tmp_path / "cut" / "checkpoint-4", tmp_path / "cut" / "checkpoint-2"
    if over:
        shutil.copytree(tmp_path / "whole" / "checkpoint-4", half)
    cut, _ = made("cut")
    survived = getattr(cut, method)

    def killed(*given: Any, **more: Any) -> None:
        survived(*given, **more)
        if cut.state.global_step == 4:
            if beginning:
                (half / "trainer_state.json").write_text(beginning)
            raise Killed

    setattr(cut, method, killed)
    with pytest.raises(Killed):
        cut.train()

    again, model = made("cut")
    with pytest.raises(ConfigError, match=rf"has no {lost}, .* resume from {before}"):
        again.train(resume_from_checkpoint=str(half))
    with pytest.warns(UserWarning, match=f"{half} has no whole {lost}"):
        again.train(resume_from_checkpoint=True)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
