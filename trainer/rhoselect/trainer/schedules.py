"""The learning rate as a function of the step alone, so that a resume needs no state of it."""

from __future__ import annotations

import math

from rhoselect.config import TrainerConfig


def learning_rate(config: TrainerConfig, step: int) -> float:
    """The learning rate of step ``step`` (from 0): linear warm-up, then ``config.schedule``."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "wsd":
        decay = config.decay_steps or max(1, config.steps // 10)
        return config.lr * min(1.0, (config.steps - step) / decay)
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    if config.schedule == "linear":
        return config.lr * (1 - progress)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))
