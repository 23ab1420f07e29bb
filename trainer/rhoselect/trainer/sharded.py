"""A learner whose model is divided among ranks (``trainer.parallel = "fsdp"``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from rhoselect.hardware import PARTS, Facts
from rhoselect.inputs import RunInputs
from rhoselect.ranks.gloo import GlooGroup
from rhoselect.ranks.shards import Shards
from rhoselect.snapshots.base import Pieces
from rhoselect.tasks import losses_of
from rhoselect.trainer.learner import Learner, StepResult
from rhoselect.trainer.packing import prefixed
from rhoselect.types import Batch


class ShardedLearner(Learner):
    """Holds some rows of every parameter, and sums their gradients alone. Steps, and ``tensors``,
    are computed by all ranks; what only the lead asks for, the others give by ``give``.

    The sums of FSDP2 depend on the number of ranks: the same bits come back for the same number.
    """

    def __init__(
        self,
        inputs: RunInputs,
        device: torch.device,
        others: Mapping[str, Learner],
        group: GlooGroup,
    ) -> None:
        config, self._inputs = inputs.config, inputs
        self._shards = Shards(group, device)
        model = inputs.new_model().to(device)
        bf16 = config.trainer.precision == "bf16"
        self._shards.divide(model, config.trainer.blocks, bf16)
        task, tokens = inputs.task, inputs.tokens
        super().__init__(model, config.trainer, config.seed, device, task, others, tokens)
        self._summed = []  # torch sums them
        layout = inputs.idle_replica().layout
        self._dtypes = {name: like.dtype for name, like in layout.items()}
        self._newest: Mapping[str, Tensor] = {}
        self._copy: nn.Module | None = None
        self._is_copied = False
        self.join(group)

    @property
    def shards(self) -> Shards:
        """See `Learner.shards`."""
        return self._shards

    def update(self, batch: Batch, weights: Tensor | None, step: int) -> StepResult:
        """See `Learner.update`. Raises LostRankError."""
        self._is_copied = False
        with self._shards.losing():
            return super().update(batch, weights, step)

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """What snapshots hold, whole and in their dtypes: all ranks exchange it. No step changes
        it. Raises LostRankError."""
        if self._inputs.scoring.needs.forward:
            self._newest = self._shards.gathered(super().tensors, self._dtypes)
        return self._newest

    @property
    def evaluated(self) -> nn.Module:
        """The model that is evaluated and shipped, whole, on the CPU. Raises LostRankError."""
        return self._whole

    @property
    def _whole(self) -> nn.Module:
        copy = self._own_copy()
        if not self._is_copied:
            self._shards.group.call("whole")
            state = copy.state_dict()
            for name, tensor in self.model.state_dict().items():
                state[name].copy_(self._shards.whole(tensor))
            self._is_copied = True
        return copy

    def give(self) -> None:
        """See `Learner.give`. Raises LostRankError."""
        for tensor in self.model.state_dict().values():
            self._shards.whole(tensor)

    def _own_copy(self) -> nn.Module:
        self._copy = self._copy or self._inputs.new_model()
        return self._copy

    def losses(self, batch: Batch) -> Tensor:
        """See `Learner.losses`: by the weights that were published last, as the others may have
        ended."""
        self._is_copied, copy = False, self._own_copy().to(self.device)
        copy.load_state_dict(self._newest, strict=False)
        with torch.no_grad(), self._autocast():
            return losses_of(self.task, copy, batch).losses

    def pieces(self, layout: Iterable[str]) -> Pieces:
        """See `Learner.pieces`."""
        own = self.evaluated.state_dict()
        for prefix, other in self.others.items():
            own |= prefixed(prefix, other.tensors)
        return ((name, own[name]) for name in layout)

    def load_state_dict(self, flat: Mapping[str, Tensor]) -> None:
        """See `Learner.load_state_dict`: of the rows that this rank has."""
        self._is_copied = False
        super().load_state_dict(flat)

    @property
    def facts(self) -> Facts:
        """See `Learner.facts`."""
        return {PARTS: str(self._shards.group.size)}
