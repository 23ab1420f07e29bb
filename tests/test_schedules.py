"""Learning rates: the shapes that users know, by numbers and by torch's own schedulers."""

from __future__ import annotations

import pytest
import torch
from torch.optim import lr_scheduler

from rhoselect.config import TrainerConfig
from rhoselect.trainer.schedules import learning_rate

LR, WARMUP, STEPS = 0.05, 3, 12


def rates(schedule: str, steps: int = STEPS, warmup: int = WARMUP, decay: int = 0) -> list[float]:
    """The rates of all steps, and the one that would follow."""
    keys = {"schedule": schedule, "lr": LR, "steps": steps}
    config = TrainerConfig(**keys, warmup_steps=warmup, decay_steps=decay)
    return [learning_rate(config, step) for step in range(steps + 1)]


def torch_rates(decay: lr_scheduler.LRScheduler, length: int) -> list[float]:
    """Those of torch's scheduler, without warm-up."""
    found = []
    for _ in range(length):
        found += decay.get_last_lr()
        decay.optimizer.step()
        decay.step()
    return found


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=LR)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "wsd"])
def test_every_schedule_begins_with_the_warm_up(schedule: str) -> None:
    assert rates(schedule)[:4] == pytest.approx([LR / 3, 2 * LR / 3, LR, LR])
    assert rates(schedule, steps=1, warmup=0)[0] == LR
    assert rates(schedule, steps=2, warmup=9)[:2] == pytest.approx([LR / 9, 2 * LR / 9])


def test_the_rest_of_a_schedule_is_torch_s_own() -> None:
    length = STEPS - WARMUP
    linear = lr_scheduler.LinearLR(optimizer(), 1.0, 0.0, total_iters=length)
    cosine = lr_scheduler.CosineAnnealingLR(optimizer(), length)
    assert rates("linear")[WARMUP:-1] == pytest.approx(torch_rates(linear, length))
    assert rates("cosine")[WARMUP:-1] == pytest.approx(torch_rates(cosine, length))
    assert set(rates("constant")[WARMUP:]) == {LR}
    for falling in ("linear", "cosine", "wsd"):
        assert rates(falling)[-1] == pytest.approx(0, abs=1e-12)


def test_wsd_is_warm_up_stable_decay() -> None:
    stable, decay = [LR] * 5, [LR, 0.75 * LR, 0.5 * LR, 0.25 * LR, 0]
    assert rates("wsd", decay=4)[WARMUP:] == pytest.approx([*stable, *decay])
    tenth = rates("wsd", steps=40)
    assert tenth[WARMUP:36] == [LR] * 33
    assert tenth[36:] == pytest.approx([LR, 0.75 * LR, 0.5 * LR, 0.25 * LR, 0])
    assert rates("wsd", steps=2, warmup=0) == [LR, LR, 0]
