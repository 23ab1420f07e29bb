"""The learner: a model and its optimizer. It knows nothing of queues or transports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import tee
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rhoselect.compute import seed_step
from rhoselect.config import TrainerConfig
from rhoselect.errors import ConfigError
from rhoselect.hardware import SUMS, Facts
from rhoselect.models.frozen import NOTHING, Frozen, Watch, sums_of_bits
from rhoselect.models.layout import laid_out, lay_out_to_train
from rhoselect.models.replica import Replica
from rhoselect.models.statistics import recalibrate_batchnorm
from rhoselect.models.weights import greatest
from rhoselect.ranks.group import Alone, Group, share
from rhoselect.selection.tokens import TokenSelection
from rhoselect.snapshots.base import Pieces
from rhoselect.tasks import Task, losses_of
from rhoselect.trainer.ema import AVERAGE, averaged
from rhoselect.trainer.evaluate import Evaluated
from rhoselect.trainer.micro import Buffers, Told, TreeSum, micro_batch
from rhoselect.trainer.optimizers import Optimizers
from rhoselect.trainer.packing import prefixed, without
from rhoselect.trainer.smoothing import trained_losses
from rhoselect.types import PROXY, Batch, Indices, Losses

if TYPE_CHECKING:  # it takes a second to import, which few runs need
    from rhoselect.ranks.shards import Shards

MODEL, OPTIMIZERS = "model.", "optimizers."
"""Prefixes in checkpoints, beside those of others."""


@dataclass(frozen=True)
class StepResult:
    """The result of one step on n_b points: mean ``loss`` []; ``losses`` [n_b] and, if the task is
    a classifier's, ``correct`` [n_b] bool, before the step. All are on the device, which may still
    compute them."""

    loss: Tensor
    losses: Tensor
    correct: Tensor | None


class Learner:
    """A model that learns on one device. A step is a pure function of (weights, batch, seed, step).

    ``others`` learn from the same batches: the irreducible-loss model of eq. 2, and a proxy that
    scores. Their tensors are handed on with the learner's own, under the prefixes given here. With
    ``tokens`` it learns from those that they select, which needs ``micro_batches`` = 1.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainerConfig,
        seed: int,
        device: torch.device,
        task: Task,
        others: Mapping[str, Learner] | None = None,
        tokens: TokenSelection | None = None,
    ) -> None:
        self.others = others or {}
        self.keep(NOTHING)
        self.model = model.to(device).train()
        lay_out_to_train(self.model, config.channels_last, device)
        self.device = device
        self.task = task
        self._config, self._tokens = config, tokens
        self._seed = seed
        self.learns = config.lr > 0
        self._summed = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizers = Optimizers(self.model, config)
        self._average = averaged(self.model, config.ema) if config.ema else None
        self._group: Group = Alone()

    def join(self, group: Group) -> None:
        """Share the micro-batches of each step with other ranks from now on. All give the same
        batches, and get the same results and weights."""
        self._group = group
        for other in self.others.values():
            other.join(group)

    def keep(self, frozen: Frozen) -> None:
        """Leave these parameters out of checkpoints."""
        self._frozen, self._watch = frozen, Watch(frozen, sums_of_bits)

    def update(self, batch: Batch, weights: Tensor | None, step: int) -> StepResult:
        """One optimizer step on ``batch``; ``weights`` [n_b] multiply its losses if given."""
        result = self._backward(batch, weights, step)
        if self._config.clip_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), self._config.clip_norm)
        self.optimizers.step(step)
        if self._average is not None:
            self._average.update_parameters(self.model)
        for other in self.others.values():
            if other.learns:
                other.update(batch, weights, step)
        return result

    def _backward(self, batch: Batch, weights: Tensor | None, step: int) -> StepResult:
        """Give the parameters the gradient of the mean over all points of the weighted losses.
        Raises ConfigError for more micro-batches than points."""
        count, points = self._config.micro_batches, len(batch.indices)
        if count > points:
            raise ConfigError(
                f"trainer.micro_batches: got {count}, allowed at most the {points} points of a"
                " batch, so that each has one"
            )
        sums, told, buffers = TreeSum(), Told(points), Buffers(self.model, count)
        self.optimizers.zero_grad()
        for micro in share(self._group, count):
            seed_step(self._seed, step, self.device, micro)
            part = micro_batch(batch, micro, count)
            buffers.begin()
            found = self._forward(self.model, part)
            losses = self._trained(found, part.indices)
            weighted = losses if weights is None else losses * weights[micro::count]
            (weighted.sum() / points).backward()  # type: ignore[no-untyped-call]
            sums.add([*(parameter.grad for parameter in self._summed), *buffers.parts()])
            for parameter in self._summed:
                parameter.grad = None
            told.note(found, slice(micro, None, count))
        like = [*self._summed, *buffers.averaged, *told.rows]
        total = self._group.total([*sums.total, *told.rows], like)
        parameters = len(self._summed)
        for parameter, gradient in zip(self._summed, total[:parameters], strict=True):
            parameter.grad = gradient
        buffers.end(total[parameters : parameters + len(buffers.averaged)])
        loss = (told.losses if weights is None else told.losses * weights).mean()
        return StepResult(loss, told.losses, told.correct)

    @property
    def scoring(self) -> Learner:
        """The one whose weights score: the proxy, if there is one."""
        return self.others.get(PROXY, self)

    @property
    def shards(self) -> Shards | None:
        """What divides the model among ranks; None if this one has all of it."""
        return None

    @property
    def facts(self) -> Facts:
        """What the bits of a step depend on, beside the hardware."""
        return {SUMS: str(self._group.size)} if self._config.reduce == "fast" else {}

    @property
    def evaluated(self) -> nn.Module:
        """The model that is evaluated and shipped: the average of weights, if there is one."""
        if self._average is None:
            return self.model
        average: nn.Module = self._average.module
        return average

    def give(self) -> None:
        """The part in ``evaluated`` of a rank that is not the lead: none if it has the model."""

    def evaluated_by(self, replica: Replica | None) -> Evaluated:
        """``replica``, with the weights that are evaluated; None if ranks have parts of them."""
        assert replica is not None, "one process has the whole model"
        replica.load(self.pieces(replica.layout))
        return replica

    def losses(self, batch: Batch) -> Tensor:
        """Training losses [C] of ``batch`` under the current weights, without a step."""
        with torch.no_grad():
            return self._forward(self.model, batch).losses

    def recalibrate(self, batches: Iterable[Batch]) -> None:
        """Replace the running BatchNorm statistics of the model, and of its average, by those of
        ``batches``. No step reads them. Others keep their own, with which they score."""
        models = [self.model] if self._average is None else [self.model, self.evaluated]
        for model, same in zip(models, tee(batches, len(models)), strict=True):
            recalibrate_batchnorm(model, same, partial(self._forward, model))

    def _forward(self, model: nn.Module, batch: Batch) -> Losses:
        with self._autocast():
            return losses_of(self.task, model, laid_out(batch, self._config.channels_last))

    def _trained(self, found: Losses, indices: Indices) -> Tensor:
        """The losses [C] to learn from."""
        if self._tokens is not None:
            return self._tokens.losses(found, indices)
        return trained_losses(found, self._config.label_smoothing)

    def _autocast(self) -> torch.autocast:
        bf16 = self._config.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=bf16)

    def greatest_weight(self) -> float:
        """The greatest size of what learns, plus those of others: finite only if all of it is."""
        own = greatest([p.detach() for p in self.model.parameters() if p.requires_grad])
        return own + sum(other.greatest_weight() for other in self.others.values())

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Parameters and buffers by name: the live tensors, which every step changes."""
        own = self.model.state_dict()
        for prefix, other in self.others.items():
            own |= prefixed(prefix, other.tensors)
        return own

    def pieces(self, layout: Iterable[str]) -> Pieces:
        """The tensors that ``layout`` names, for a replica to load: of the evaluated model."""
        own = {**self.tensors, **self.evaluated.state_dict()}
        return ((name, own[name]) for name in layout)

    def check_frozen(self, problem: str) -> None:
        """Raise ModelError, which names the ``problem``, if a frozen parameter is another than at
        start."""
        self._watch.check(self.model.state_dict(), problem)
        for other in self.others.values():
            other.check_frozen(problem)

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters but the frozen ones, buffers, their average and the optimizers' state, as flat
        tensors."""
        flat = prefixed(MODEL, self._learnt(self.model))
        flat |= prefixed(OPTIMIZERS, self.optimizers.state_dict())
        if self._average is not None:
            flat |= prefixed(AVERAGE, self._learnt(self.evaluated))
        for prefix, other in self.others.items():
            flat |= prefixed(prefix, other.state_dict())
        return flat

    def load_state_dict(self, flat: Mapping[str, Tensor]) -> None:
        """Restore what ``state_dict`` gave."""
        for prefix, other in self.others.items():
            other.load_state_dict(without(prefix, flat))
        self._load(self.model, without(MODEL, flat))
        if self._average is not None:
            self._load(self.evaluated, without(AVERAGE, flat))
        self.optimizers.load_state_dict(without(OPTIMIZERS, flat))

    def _learnt(self, model: nn.Module) -> dict[str, Tensor]:
        """The state of ``model`` but what is frozen."""
        return {n: t for n, t in model.state_dict().items() if n not in self._frozen.hashes}

    def _load(self, model: nn.Module, learnt: Mapping[str, Tensor]) -> None:
        state = model.state_dict()
        model.load_state_dict({name: state[name] for name in self._frozen.hashes} | dict(learnt))
