"""A learner whose model is divided among ranks (``trainer.parallel = "fsdp"``)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from rhoselect.hardware import PARTS, Facts
from rhoselect.inputs import RunInputs
from rhoselect.models.frozen import Frozen, Watch, sums_of_bits
from rhoselect.models.layout import laid_out
from rhoselect.models.replica import Replica
from rhoselect.models.weights import greatest
from rhoselect.ranks.gloo import GlooGroup
from rhoselect.ranks.shards import Shards
from rhoselect.selector.build import rescores_here
from rhoselect.tasks import Metrics, losses_of
from rhoselect.trainer.learner import Learner, StepResult
from rhoselect.types import Batch


class ShardedLearner(Learner):
    """Holds some rows of every parameter of ``model``, which is on the CPU, and sums their
    gradients alone. Steps, evaluations and ``tensors`` are computed by all ranks; what only the
    lead asks for, the others give by ``give``.

    The sums of FSDP2 depend on the number of ranks: the same bits come back for the same number.
    """

    def __init__(
        self,
        inputs: RunInputs,
        model: nn.Module,
        device: torch.device,
        others: Mapping[str, Learner],
        group: GlooGroup,
    ) -> None:
        config, self._inputs = inputs.config, inputs
        self._shards = Shards(group, device)
        bf16 = config.trainer.precision == "bf16"
        self._shards.divide(model, config.trainer.blocks, bf16)
        task, tokens = inputs.task, inputs.tokens
        super().__init__(model, config.trainer, config.seed, device, task, others, tokens)
        self._summed = []  # torch sums them
        layout = dict(inputs.idle_replica().layout)
        if config.scorer.proxy and rescores_here(config):  # else the whole is never gathered
            layout |= inputs.idle_replica(target=True).layout
        self._dtypes = {name: like.dtype for name, like in layout.items()}
        self._newest: Mapping[str, Tensor] = {}
        self._copy: nn.Module | None = None
        self.join(group)

    @property
    def shards(self) -> Shards:
        """See `Learner.shards`."""
        return self._shards

    def update(self, batch: Batch, weights: Tensor | None, step: int) -> StepResult:
        """See `Learner.update`. Raises LostRankError."""
        self._copy = None
        with self._shards.losing():
            return super().update(batch, weights, step)

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """What scores need, whole and in its dtypes: all ranks exchange it. No step changes what is
        of the model. Raises LostRankError."""
        if self._inputs.scoring.needs.forward:
            self._newest = self._shards.gathered(super().tensors, self._dtypes)
        return self._newest

    @property
    def evaluated(self) -> nn.Module:
        """The model that is shipped, whole, on the CPU, until the next step. Raises
        LostRankError."""
        if self._copy is None:
            copy = self._inputs.new_model()
            state = copy.state_dict()
            for name, tensor in self._whole():
                state[name].copy_(tensor)
            self._copy = copy
        return self._copy

    def _whole(self) -> Iterator[tuple[str, Tensor]]:
        """The tensors of the model, one after the other."""
        self._shards.group.call("whole")
        for name, tensor in self.model.state_dict().items():
            yield name, self._shards.whole(tensor)

    def give(self) -> None:
        """See `Learner.give`. Raises LostRankError."""
        for _ in self._whole():
            pass

    def evaluated_by(self, replica: Replica | None) -> ShardedLearner:
        """See `Learner.evaluated_by`: this one, with the others."""
        self._shards.group.call("evaluate")
        return self

    def evaluate(self, batches: Iterable[Batch]) -> Metrics:
        """See `Evaluated.evaluate`: all ranks measure all ``batches``. Raises LostRankError."""
        self.model.eval()
        with torch.no_grad(), self._autocast(), self._shards.losing():
            by_pixel = self._config.channels_last
            found = self.task.evaluate(self.model, (laid_out(each, by_pixel) for each in batches))
        self._shards.release(self.model)
        self.model.train()
        return found

    def losses(self, batch: Batch) -> Tensor:
        """See `Learner.losses`: by the weights that were published last, as the others may have
        ended."""
        copy = self._inputs.new_model().to(self.device)
        copy.load_state_dict(self._newest, strict=False)
        with torch.no_grad(), self._autocast():
            return losses_of(self.task, copy, batch).losses

    def keep(self, frozen: Frozen) -> None:
        """See `Learner.keep`."""
        super().keep(frozen)
        hashes = frozen.hashes.items()
        self._watches = {n: Watch(Frozen({n: sha256}), sums_of_bits) for n, sha256 in hashes}

    def greatest_weight(self) -> float:
        """See `Learner.greatest_weight`. Raises LostRankError."""
        learn = {name for name, p in self.model.named_parameters() if p.requires_grad}
        own = [greatest([tensor]) for name, tensor in self._whole() if name in learn]
        rest = sum(other.greatest_weight() for other in self.others.values())
        return greatest([torch.tensor(own)]) + rest

    def check_frozen(self, problem: str) -> None:
        """See `Learner.check_frozen`. Raises LostRankError."""
        for name, tensor in self._whole() if self._watches else ():
            if name in self._watches:
                self._watches[name].check({name: tensor}, problem)
        for other in self.others.values():
            other.check_frozen(problem)

    def load_state_dict(self, flat: Mapping[str, Tensor]) -> None:
        """See `Learner.load_state_dict`: of the rows that this rank has."""
        self._copy = None
        super().load_state_dict(flat)

    @property
    def facts(self) -> Facts:
        """See `Learner.facts`."""
        return {PARTS: str(self._shards.group.size)}
