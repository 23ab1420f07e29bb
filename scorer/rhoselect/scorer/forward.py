"""A replica of the model that scores: precision, BatchNorm mode, and nothing of any transport."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rhoselect.compute import DTYPES
from rhoselect.snapshots.base import Pieces
from rhoselect.types import REFERENCE, Batch, ForwardOutput

CAST_MODULES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Replica:
    """Implements ``rhoselect.selection.Forward``.

    Linear and convolution weights are held in the scoring dtype and everything else in float32,
    under autocast: bit for bit what autocast computes from float32 weights, without casting them at
    every forward. With ``bn="batch"`` BatchNorm uses the statistics of the scored chunk and owns no
    running statistics at all, so scoring cannot touch them. ``channels_last`` lays images and
    convolution weights out by pixel: faster, and in the last bits another result. ``reference`` is
    the second network of functions that need one: its weights come in the same snapshots.
    """

    def __init__(
        self,
        model: nn.Module,
        precision: str,
        bn: str,
        device: torch.device,
        channels_last: bool = False,
        reference: Replica | None = None,
    ) -> None:
        self._model = model.eval().requires_grad_(False)
        self._dtype = DTYPES[precision]
        self.device = device
        # A weight that others read too (a head tied to its embedding) stays float32 for them.
        others = (m for m in model.modules() if not isinstance(m, CAST_MODULES))
        wide = {id(p) for module in others for p in module.parameters(recurse=False)}
        for module in model.modules():
            own = {id(p) for p in module.parameters(recurse=False)}
            if isinstance(module, CAST_MODULES) and wide.isdisjoint(own):
                module.to(self._dtype)
            if isinstance(module, _BatchNorm) and bn == "batch":
                module.running_mean = module.running_var = module.num_batches_tracked = None
                module.track_running_stats = False
        model.to(device)
        self._channels_last = channels_last
        if channels_last:
            # The stubs know no memory format without a dtype.
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._tensors: dict[str, Tensor] = dict(model.state_dict())
        self._reference = reference
        if reference is not None:
            self._tensors |= {REFERENCE + name: t for name, t in reference._tensors.items()}

    @property
    def layout(self) -> dict[str, torch.dtype]:
        """Names and dtypes of the tensors that a snapshot for this replica holds."""
        return {name: t.dtype for name, t in self._tensors.items()}

    def load(self, pieces: Pieces) -> None:
        """Copy a snapshot's weights, as they arrive, into the replica's own tensors.

        Raises KeyError for a snapshot with more or fewer tensors.
        """
        missing = dict.fromkeys(self._tensors)
        with torch.no_grad():
            for name, tensor in pieces:
                self._tensors[name].copy_(tensor, non_blocking=True)
                del missing[name]
        if missing:
            raise KeyError(next(iter(missing)))

    def __call__(self, batch: Batch) -> ForwardOutput:
        """The forward output of C points, without gradients."""
        inputs = batch.inputs
        if self._channels_last and inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        with torch.inference_mode(), self._autocast():
            logits: Tensor = self._model(inputs).float()
            losses = F.cross_entropy(logits, batch.labels, reduction="none")
        second = None if self._reference is None else self._reference(batch).losses
        return ForwardOutput(losses, logits, batch.labels, reference_losses=second)

    def _autocast(self) -> torch.autocast:
        enabled = self._dtype is not torch.float32
        return torch.autocast(self.device.type, self._dtype, enabled=enabled)
