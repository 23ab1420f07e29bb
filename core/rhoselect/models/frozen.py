"""Parameters that do not learn: every process makes them once, and compares their hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from rhoselect.errors import ModelError, listed


@dataclass(frozen=True)
class Frozen:
    """The hashes of a model's parameters without ``requires_grad``, by their names in its state
    dict. Values are hashed as float32, so that a base may be held in bfloat16 elsewhere."""

    hashes: Mapping[str, str]

    @classmethod
    def of(cls, model: nn.Module) -> Frozen:
        """Those of ``model`` as it is."""
        named = model.named_parameters(remove_duplicate=False)
        return cls({name: _sha256(p) for name, p in named if not p.requires_grad})

    @classmethod
    def some(cls, model: nn.Module, name: str) -> Frozen:
        """Those of ``model``, which the message calls ``name``. Raises ModelError if there are
        none."""
        found = cls.of(model)
        if not found.hashes:
            raise ModelError(
                f"snapshots.only: got 'trainable', but all parameters of {name} learn; allowed with"
                " some that do not (requires_grad = False), as the base of adapters; freeze those,"
                " or set 'all'"
            )
        return found

    @cached_property
    def sha256(self) -> str:
        """One hash of all."""
        return hashlib.sha256(repr(sorted(self.hashes.items())).encode()).hexdigest()

    def check(self, tensors: Mapping[str, Tensor], problem: str) -> None:
        """Raise ModelError, which names the ``problem``, unless ``tensors`` has these values."""
        wrong = [
            name
            for name, sha256 in self.hashes.items()
            if name not in tensors or _sha256(tensors[name]) != sha256
        ]
        if wrong:
            raise ModelError(
                f"snapshots.only: got 'trainable', but {problem}: {listed(wrong, 3)}; allowed the"
                " same values in every process and at every step, because each scorer makes them"
                " once; what changes must learn (requires_grad)"
            )


NOTHING = Frozen({})
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers of so many bytes. Their sums are int64."""


Mark = Callable[[Sequence[Tensor]], object]
"""Something of tensors that takes less time than their hashes, and is another after a change."""


class Watch:
    """Checks frozen parameters again and again: hashes them only when their ``mark`` changed."""

    def __init__(self, frozen: Frozen, mark: Mark) -> None:
        self._frozen, self._mark = frozen, mark
        self._seen: object = None

    def check(self, tensors: Mapping[str, Tensor], problem: str) -> None:
        """See `Frozen.check`."""
        seen = self._mark([tensors[name] for name in self._frozen.hashes if name in tensors])
        if seen != self._seen:
            self._frozen.check(tensors, problem)
            self._seen = seen


def changes_counted(tensors: Sequence[Tensor]) -> object:
    """Where tensors are, and how many changes of them torch has counted: not those of ``.data``."""
    return [(tensor.data_ptr(), tensor._version) for tensor in tensors]


def sums_of_bits(tensors: Sequence[Tensor]) -> object:
    """The sum of each tensor's bits, read as integers: any single change is seen."""
    return torch.stack([_bits(tensor).sum() for tensor in tensors]).tolist() if tensors else []


def _bits(tensor: Tensor) -> Tensor:
    """A tensor as integers: where possible of 8 bytes, whose sum takes a 25th of that of others."""
    flat = tensor.detach().reshape(-1)
    wide = flat.nbytes % 8 == 0 and flat.storage_offset() * flat.itemsize % 8 == 0
    return flat.view(torch.int64 if wide else BITS[flat.itemsize])


def _sha256(tensor: Tensor) -> str:
    """Hash of a tensor's shape and values."""
    values = tensor.detach().cpu().contiguous()
    values = values.float() if values.is_floating_point() else values
    digest = hashlib.sha256(f"{list(values.shape)}".encode())
    digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
