"""The section of the trainer, with those of its optimizers."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from rhoselect.config.base import Section
from rhoselect.config.sections import Scalar

KEYS_OF_THEIR_OWN = {"params": "trainer.groups", "lr": "trainer.lr"}
KEYS_OF_THEIR_OWN |= {"weight_decay": "weight_decay of trainer or of the group"}


class OptimizerConfig(Section):
    """The optimizer of all parameters that no group gives to another one: a class called as
    name(parameters, lr=…, weight_decay=…, **args)."""

    name: str = Field(
        "AdamW", description="a class of torch.optim, such as 'SGD', or 'module:class'"
    )
    args: dict[str, Scalar | list[Scalar]] = Field(
        default_factory=dict, description="keywords for the class; it is given a list as a tuple"
    )

    @field_validator("args")
    @classmethod
    def _no_doubles(cls, args: dict[str, Any]) -> dict[str, Any]:
        if taken := [name for name in KEYS_OF_THEIR_OWN if name in args]:
            told = {"name": taken[0], "key": KEYS_OF_THEIR_OWN[taken[0]]}
            raise PydanticCustomError("taken", "allowed are args but {name}; set {key}", told)
        return args


class GroupConfig(Section):
    """Parameters that learn in another way than the others. A parameter belongs to the first group
    that matches its name and its number of dimensions."""

    pattern: str = Field(
        "*", description="names, as of named_parameters(), with the wildcards *, ? and [...]"
    )
    dims: list[int] = Field(default_factory=list, description="numbers of dimensions; []: any")
    lr_factor: float = Field(1.0, ge=0, description="the learning rate is multiplied by this")
    weight_decay: float | None = Field(
        None, ge=0, description="weight decay; that of trainer if not set"
    )
    optimizer: OptimizerConfig | None = Field(
        None, description="optimizer; that of trainer if not set"
    )


def _usual_decay(known: dict[str, Any]) -> float:
    """That of torch's AdamW; another optimizer may take a decay in another sense, or none."""
    optimizer = known.get("optimizer", OptimizerConfig())
    return 0.01 if optimizer.name in ("AdamW", "torch.optim:AdamW") else 0.0


class TrainerConfig(Section):
    """The optimizer steps."""

    steps: int = Field(1000, ge=1, description="optimizer steps")
    lr: float = Field(1e-3, gt=0, description="learning rate at its peak")
    optimizer: OptimizerConfig = OptimizerConfig()
    groups: list[GroupConfig] = Field(default_factory=list)
    weight_decay: float = Field(
        ge=0,
        default_factory=_usual_decay,
        description="weight decay, decoupled in AdamW; 0 with another trainer.optimizer if not set",
    )
    schedule: Literal["constant", "linear", "cosine", "wsd"] = Field(
        "constant",
        description="learning rate after the warm-up: constant; linear or cosine: falls to 0 at the"
        " end of the run; wsd: constant, then falls linearly to 0 in the last decay_steps",
    )
    warmup_steps: int = Field(0, ge=0, description="steps of linear warm-up, of all schedules")
    decay_steps: int = Field(
        0, ge=0, description="steps of the decay of schedule 'wsd'; 0: a tenth of steps"
    )
    label_smoothing: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of each label that is spread over all classes, in the update alone",
    )
    micro_batches: int = Field(
        1,
        ge=1,
        description="parts of a batch whose gradients are computed one after the other, and summed,"
        " to need less memory: 1, 2, 4, 8, …; selection.n_b counts the points of a step",
    )
    devices: int = Field(
        1,
        ge=1,
        description="processes that train, each on a device of its own and with an equal share of"
        " micro_batches: 1, 2, 4, …, at most micro_batches; no result depends on it unless parallel"
        " is 'fsdp' or reduce is 'fast'",
    )
    parallel: Literal["replicated", "fsdp"] = Field(
        "replicated",
        description="replicated: each of the devices has the whole model; fsdp: it has a part of"
        " each parameter and of its optimizer's state, and bits repeat for one number of devices."
        " Not with BatchNorm, with ema, or with optimizers such as Muon, which need whole matrices;"
        " with bf16 a forward is in bf16 but for what autocast computes in fp32",
    )
    reduce: Literal["tree", "fast"] = Field(
        "tree",
        description="tree: devices sum gradients in one fixed order, with the same bits for any"
        " number of them; fast: in that of gloo or, on GPUs, of NCCL, and bits repeat for one"
        " number of devices. 'fsdp' always does the latter",
    )
    blocks: str = Field(
        "",
        description="names of the modules that 'fsdp' gathers one after the other, such as"
        " 'layers.*', where * is anything but a dot; '': the items of each nn.ModuleList",
    )
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="decay of a moving average of the weights, which is evaluated and shipped; 0 is"
        " off",
    )
    clip_norm: float = Field(0.0, ge=0, description="gradient norm limit; 0 is off")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "fp32", description="autocast of training; auto: bf16 where the hardware has it, else fp32"
    )
    channels_last: bool = Field(
        False,
        description="train with images and convolutions stored by pixel: other last bits; not with"
        " parallel 'fsdp'",
    )
    threads: int = Field(1, ge=1, le=1024, description="CPU threads of the trainer")
    scores: bool = Field(True, description="the trainer scores chunks while it waits for scores")
    device: str = Field("auto", description="'auto', 'cpu', 'cuda' (the first GPU) or 'cuda:N'")
    publish_every: int = Field(1, ge=1, description="steps between snapshots")
    eval_every: int = Field(50, ge=1, description="steps between evaluations on the test split")
    eval_batch: int = Field(1000, ge=1, description="points per evaluation forward")
    checkpoint_every: int = Field(500, ge=1, description="steps between checkpoints")
    keep_checkpoints: int = Field(2, ge=1, description="newest checkpoints kept")
    tracker: str = Field(
        "",
        description="where figures are shown beside the run folder's records: 'tensorboard',"
        " 'wandb', 'mlflow', or 'module:Class', called as Class(folder, step); '': nowhere",
    )
    targets: list[float] = Field(
        default_factory=lambda: [0.8, 0.85, 0.86, 0.87, 0.88, 0.89, 0.9],
        description="figures of the task's metric, such as accuracies, whose first step goes into"
        " summary.json",
    )

    @property
    def in_ranks(self) -> bool:
        """Whether a group of ranks trains; it may be one rank."""
        return self.devices > 1 or self.parallel == "fsdp"

    @property
    def exact_for_devices(self) -> int | None:
        """The only number of devices that gives the same bits; None if any does."""
        return self.devices if self.parallel == "fsdp" or self.reduce == "fast" else None

    @field_validator("micro_batches", "devices")
    @classmethod
    def _pairs(cls, count: int) -> int:
        if count & (count - 1):
            raise PydanticCustomError(
                "pairs", "allowed are 1, 2, 4, 8, …, as gradients are summed in pairs"
            )
        return count

    @model_validator(mode="after")
    def _layout(self) -> Self:
        if self.channels_last and self.parallel == "fsdp":
            raise ValueError(
                "trainer.channels_last: got true with trainer.parallel = 'fsdp', allowed false: its"
                " ranks have rows of parameters, not images of them; change one of the two"
            )
        return self
