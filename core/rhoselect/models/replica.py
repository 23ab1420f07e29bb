"""A replica of the model that scores: precision, BatchNorm mode, and nothing of any transport."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from rhoselect.compute import DTYPES, seed_points
from rhoselect.errors import ModelError
from rhoselect.models.folding import Folded
from rhoselect.models.held import Held
from rhoselect.nest import mapped
from rhoselect.selection import Needs
from rhoselect.snapshots.base import Pieces
from rhoselect.tasks import Metrics, Task, losses_of
from rhoselect.tasks.base import logits_of
from rhoselect.types import Batch, ForwardOutput, Layout

BatchNormMode = Literal["running", "batch"]
Cast = Literal["autocast", "all"]
PLAIN = Needs()
CAST_MODULES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Numerics:
    """How a replica computes. Each field changes the last bits of its losses.

    ``precision``: "fp32", "bf16" or "fp16". Linear and convolution weights are held in this dtype
    and everything else in float32, under autocast: bit for bit what autocast computes from float32
    weights, without casting them at every forward. With ``cast`` "all" so are all parameters of two
    or more dimensions, such as embeddings, and forwards differ from plain autocast. ``bn``:
    BatchNorm with "running" statistics, or with those of the scored "batch"; the latter owns no
    running statistics at all, so scoring cannot touch them. ``channels_last`` lays images and
    convolution weights out by pixel, which is faster. ``fold_batchnorm`` merges each BatchNorm into
    the convolution before it and needs "running".
    """

    precision: str
    bn: BatchNormMode = "running"
    channels_last: bool = False
    fold_batchnorm: bool = False
    cast: Cast = "autocast"


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
        self._model, self._task = model.eval().requires_grad_(False), task
        self.dtype = DTYPES[numerics.precision]
        self.device = device
        _cast(model, self.dtype, numerics.cast)
        self.batch_statistics = numerics.bn == "batch" and _drop_statistics(model)
        model.to(device)
        self._channels_last = numerics.channels_last
        if self._channels_last:
            # The stubs know no memory format without a dtype.
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._held = Held(model, device)
        self._folded = Folded(self._model) if numerics.fold_batchnorm else None
        self._scored = self._folded or self._model
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

    def share(self) -> None:
        """Score with the learner's own parameters where possible: see `Held.share`."""
        self._held.share()

    def load(self, pieces: Pieces) -> None:
        """Copy a snapshot's weights, as they arrive, into the replica's own tensors: see
        `Held.load`."""
        self._held.load(pieces)
        if self._folded is not None:
            self._folded.refresh()

    def __call__(self, batch: Batch) -> ForwardOutput:
        """The forward output of C points, without gradients."""
        batch = self._laid_out(batch)
        with torch.inference_mode(), self._autocast():
            found = losses_of(self._task, self._scored, batch)
            features = self._last_inputs() if self._features else None
            passes = self._stochastic(batch) if self._passes else None
        second = None if self._reference is None else self._reference(batch).losses
        return ForwardOutput(
            **vars(found), features=features, passes=passes, reference_losses=second
        )

    def check(self, batch: Batch) -> None:
        """Raise ModelError if the model does not suit the task and the points."""
        with torch.inference_mode(), self._autocast():
            self._task.check(self._scored, self._laid_out(batch), outputs=0)

    def evaluate(self, batches: Iterable[Batch]) -> Metrics:
        """What the task measures on ``batches``, without gradients."""
        with torch.inference_mode(), self._autocast():
            return self._task.evaluate(self._scored, map(self._laid_out, batches))

    def _laid_out(self, batch: Batch) -> Batch:
        """The points with their images in the layout of the weights."""
        return (
            replace(batch, content=mapped(batch.content, _by_pixel))
            if self._channels_last
            else batch
        )

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

    def _autocast(self) -> torch.autocast:
        enabled = self.dtype is not torch.float32
        return torch.autocast(self.device.type, self.dtype, enabled=enabled)


def _cast(model: nn.Module, dtype: torch.dtype, cast: Cast) -> None:
    """Hold linear and convolution weights in ``dtype``. A weight that others read too (a head tied
    to its embedding) stays float32 for them, unless ``cast`` is "all"."""
    if cast == "all":  # but not the few numbers of a norm, which its running statistics go with
        for parameter in model.parameters():
            if parameter.ndim > 1 and parameter.is_floating_point():
                parameter.data = parameter.data.to(dtype)
    others = (m for m in model.modules() if not isinstance(m, CAST_MODULES))
    wide = {id(p) for module in others for p in module.parameters(recurse=False)}
    for module in model.modules():
        own = {id(p) for p in module.parameters(recurse=False)}
        if isinstance(module, CAST_MODULES) and wide.isdisjoint(own):
            module.to(dtype)


def _drop_statistics(model: nn.Module) -> bool:
    """Make BatchNorm layers use the statistics of each batch, by owning none. False without any."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.running_mean = norm.running_var = norm.num_batches_tracked = None
        norm.track_running_stats = False
    return bool(norms)


def _by_pixel(tensor: Tensor) -> Tensor:
    """Images [C, channels, H, W] laid out by pixel; other tensors as they are."""
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
