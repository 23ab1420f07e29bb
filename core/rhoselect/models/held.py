"""The tensors that a replica holds, as snapshots replace them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from rhoselect.snapshots.base import Pieces
from rhoselect.snapshots.copying import copy_all
from rhoselect.types import Layout

GROUP_BYTES = {"cpu": 1 << 18, "cuda": 1 << 25}  # of tensors that are copied by one call


class Derived:
    """Holds numbers that are made of weights."""

    def refresh(self) -> None:
        """Make them anew, of the weights that the model has now."""
        raise NotImplementedError


class Held:
    """Parameters and buffers of ``model`` by name, those with several names once, but for
    BatchNorm's counters: only training reads them."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._device, self._shares = device, False
        seen = {id(m.num_batches_tracked) for m in model.modules() if isinstance(m, _NormBase)}
        self.tensors = dict[str, Tensor]()
        for name, tensor in model.state_dict(keep_vars=True).items():
            if id(tensor) not in seen:
                seen.add(id(tensor))
                self.tensors[name] = tensor

    @property
    def layout(self) -> Layout:
        """The tensors without data."""
        return {name: torch.empty_like(t, device="meta") for name, t in self.tensors.items()}

    def rename(self, prefix: str) -> None:
        """Have the names of all tensors begin with ``prefix``."""
        self.tensors = {prefix + name: tensor for name, tensor in self.tensors.items()}

    def leave(self, names: Iterable[str]) -> None:
        """Leave tensors as they are now: snapshots do not hold them."""
        for name in names:
            self.tensors.pop(name, None)  # of tied weights one name is held

    def share(self) -> None:
        """From the next ``load`` on, take the given parameters themselves in place of copies, where
        dtype, device and strides are the same. Their owner may change them when the forwards that
        follow a load have ended. Buffers are copied, because stochastic passes may change them."""
        self._shares = True

    def load(self, pieces: Pieces) -> None:
        """Copy a snapshot's tensors, as they arrive. Those in the host's memory have been read when
        this returns; those of other names are ignored. Raises KeyError for one that is missing."""
        missing, group_bytes, host = dict.fromkeys(self.tensors), 0, False
        targets, sources = list[Tensor](), list[Tensor]()
        for name, tensor in pieces:
            own = self.tensors.get(name)
            if own is None:
                continue
            del missing[name]
            if self._shares and isinstance(own, nn.Parameter) and _alike(own, tensor):
                own.data = tensor
                continue
            targets.append(own)
            sources.append(tensor)
            group_bytes += own.nbytes
            host = host or tensor.device.type == "cpu"
            if group_bytes >= GROUP_BYTES[self._device.type]:
                copy_all(targets, sources)
                targets, sources, group_bytes = [], [], 0
        copy_all(targets, sources)
        if missing:
            raise KeyError(next(iter(missing)))
        if host and self._device.type == "cuda":
            # Copies from pinned memory may still run, and its owner writes to it again.
            torch.cuda.current_stream(self._device).synchronize()


def _alike(own: Tensor, given: Tensor) -> bool:
    """Whether a tensor can take another's place."""
    kinds = [(t.dtype, t.device, t.shape, t.stride()) for t in (own, given)]
    return kinds[0] == kinds[1]
