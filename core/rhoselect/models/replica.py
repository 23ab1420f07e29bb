"""A replica of the model that scores: precision, BatchNorm mode, and nothing of any transport."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.flop_counter import FlopCounterMode

from rhoselect.compute import DTYPES, seed_points
from rhoselect.errors import ModelError
from rhoselect.models import forms
from rhoselect.models.compiling import compiling
from rhoselect.models.held import Derived, Held
from rhoselect.models.layout import laid_out
from rhoselect.models.numerics import Numerics
from rhoselect.models.rowwise import FLOPS
from rhoselect.selection import Needs
from rhoselect.snapshots.base import Pieces
from rhoselect.tasks import Metrics, Task, losses_of
from rhoselect.tasks.base import logits_of
from rhoselect.types import Batch, ForwardOutput, Layout

PLAIN = Needs()


class Replica:
    """A copy of the model that scores, of any precision and BatchNorm mode. It knows no transport.

    ``batch_statistics``: whether a loss depends on the other points, by BatchNorm of the batch.
    Beyond what ``task`` gives it computes what ``needs`` asks for. Stochastic passes (Gal &
    Ghahramani 2016, "Dropout as a Bayesian approximation") run everything but BatchNorm and its
    like in training mode; their random numbers are a function of (``seed``, the points, pass) in
    every process.
    """

    def __init__(
        self,
        model: nn.Module,
        numerics: Numerics,
        device: torch.device,
        task: Task,
        needs: Needs = PLAIN,
        seed: int = 0,
    ) -> None:
        numerics.check(needs)
        self._model, self._task = model.eval().requires_grad_(False), task
        self.dtype = DTYPES[numerics.precision]
        self.device = device
        self.batch_statistics = forms.prepare(model, numerics, device)
        self._held = Held(model, device)
        self._scored = forms.scored(model, numerics, device)
        self._derived = [part for part in self._scored.modules() if isinstance(part, Derived)]
        self._forward = forms.forward(task, self._scored, numerics, device)
        self._numerics = numerics
        self._compiling = compiling if numerics.compile else nullcontext
        self._reference: Replica | None = None
        self._prefix = ""
        self._passes, self._seed = needs.passes, seed
        self._last: tuple[nn.Linear, Tensor, Tensor] | None = None
        self._output: Any = None
        if needs.features:
            for module in model.modules():
                if isinstance(module, nn.Linear):
                    module.register_forward_hook(self._note)
            self._scored.register_forward_hook(self._note_output)
        self._features = needs.features
        self._random = [m for m in model.modules() if not isinstance(m, _NormBase)]

    @property
    def layout(self) -> Layout:
        """The tensors that a snapshot for this replica holds: see `Held`."""
        return self._held.layout

    @property
    def names(self) -> Iterable[str]:
        """The names of ``layout``."""
        return self._held.tensors.keys()

    @property
    def buffers(self) -> list[str]:
        """Those of ``layout`` that no optimizer changes, as statistics of BatchNorm are."""
        named = self._model.named_buffers(remove_duplicate=False)
        return [n for name, _ in named if (n := self._prefix + name) in self._held.tensors]

    def keep(self, names: Iterable[str]) -> None:
        """Leave tensors as they are now: snapshots do not hold them."""
        self._held.leave(names)

    def rename(self, prefix: str) -> None:
        """Have snapshots hold the model's tensors under names that begin with ``prefix``."""
        self._prefix = prefix
        self._held.rename(prefix)

    def accompany(self, reference: Replica) -> None:
        """Have a second network, whose weights come in the same snapshots, for functions that need
        one."""
        self._reference = reference
        self._held.tensors |= reference._held.tensors
        self._derived += reference._derived

    def share(self) -> None:
        """Score with the learner's own parameters where possible: see `Held.share`."""
        if not self._numerics.graph:  # which reads weights where they were when it was captured
            self._held.share()

    def load(self, pieces: Pieces) -> None:
        """Copy a snapshot's weights, as they arrive, into the replica's own tensors: see
        `Held.load`."""
        self._held.load(pieces)
        for part in self._derived:
            part.refresh()

    def __call__(self, batch: Batch) -> ForwardOutput:
        """The forward output of C points, without gradients."""
        batch = self._laid_out(batch)
        with self._computing():
            found = self._forward(batch)
            features = self._last_inputs() if self._features else None
            passes = self._stochastic(batch) if self._passes else None
        second = None if self._reference is None else self._reference(batch).losses
        return ForwardOutput(
            **vars(found), features=features, passes=passes, reference_losses=second
        )

    def check(self, batch: Batch) -> None:
        """Raise ModelError if the model does not suit the task and the points."""
        with self._computing():
            self._task.check(self._scored, self._laid_out(batch), outputs=0)

    def flops(self, batch: Batch) -> int:
        """FLOPs of the forward of all points of ``batch`` (matrix products and convolutions)."""
        counting = FlopCounterMode(display=False, custom_mapping=FLOPS)
        with torch.compiler.set_stance("force_eager"), counting as counter, self._computing():
            losses_of(self._task, self._scored, self._laid_out(batch))
        return int(counter.get_total_flops())

    def evaluate(self, batches: Iterable[Batch]) -> Metrics:
        """What the task measures on ``batches``, without gradients."""
        with self._computing():
            return self._task.evaluate(self._scored, map(self._laid_out, batches))

    def _laid_out(self, batch: Batch) -> Batch:
        """The points with their images in the layout of the weights."""
        return laid_out(batch, self._numerics.channels_last)

    def _note(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, nn.Linear)
        self._last = module, args[0], output

    def _note_output(self, module: nn.Module, args: Any, output: Any) -> None:
        self._output = output

    def _last_inputs(self) -> Tensor:
        """The last layer's inputs [C, F], float32, with a column of ones if it has a bias."""
        output, self._output = self._output, None
        if self._last is None or self._last[2] is not logits_of(output):
            raise ModelError(
                "model.factory: got logits that are not the output of a torch.nn.Linear, allowed"
                " only those with a selection.function that uses last-layer features"
            )
        head, inputs, _ = self._last
        self._last = None
        features = inputs.float()
        biased = "bias" in dict(head.named_parameters())
        return F.pad(features, (0, 1), value=1.0) if biased else features

    def _stochastic(self, batch: Batch) -> Tensor:
        """Logits [S, C, K] of S passes with dropout."""
        self._train(True)
        passes = []
        for number in range(self._passes):
            seed_points(self._seed, batch.indices, number, self.device)
            logits = losses_of(self._task, self._model, batch).logits
            assert logits is not None, "checked at start"
            passes.append(logits)
        self._train(False)
        return torch.stack(passes)

    def _train(self, mode: bool) -> None:
        for module in self._random:
            module.training = mode

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Run the block, which computes forwards."""
        enabled = self.dtype is not torch.float32
        autocast = torch.autocast(self.device.type, self.dtype, enabled=enabled)
        with torch.inference_mode(), autocast, self._compiling():
            yield
