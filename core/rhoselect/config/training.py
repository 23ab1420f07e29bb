"""The section of the trainer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rhoselect.config.base import Section


class TrainerConfig(Section):
    """The optimizer steps."""

    steps: int = Field(1000, ge=1, description="optimizer steps")
    lr: float = Field(1e-3, gt=0, description="AdamW's learning rate at its peak")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's decoupled weight decay")
    schedule: Literal["constant", "linear", "cosine", "wsd"] = Field(
        "constant",
        description="learning rate after the warm-up: constant; linear or cosine: falls to 0 at the"
        " end of the run; wsd: constant, then falls linearly to 0 in the last decay_steps",
    )
    warmup_steps: int = Field(0, ge=0, description="steps of linear warm-up, of all schedules")
    decay_steps: int = Field(
        0, ge=0, description="steps of the decay of schedule 'wsd'; 0: a tenth of steps"
    )
    clip_norm: float = Field(0.0, ge=0, description="gradient norm limit; 0 is off")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="autocast of training")
    threads: int = Field(1, ge=1, le=1024, description="CPU threads of the trainer")
    scores: bool = Field(True, description="the trainer scores chunks while it waits for scores")
    device: str = Field("auto", description="'auto', 'cpu', 'cuda' (the first GPU) or 'cuda:N'")
    publish_every: int = Field(1, ge=1, description="steps between snapshots")
    eval_every: int = Field(50, ge=1, description="steps between evaluations on the test split")
    eval_batch: int = Field(1000, ge=1, description="points per evaluation forward")
    checkpoint_every: int = Field(500, ge=1, description="steps between checkpoints")
    keep_checkpoints: int = Field(2, ge=1, description="newest checkpoints kept")
    targets: list[Annotated[float, Field(ge=0, le=1)]] = Field(
        default_factory=lambda: [0.8, 0.85, 0.86, 0.87, 0.88, 0.89, 0.9],
        description="test accuracies whose first step goes into summary.json",
    )
