"""Parameters that do not learn: every process makes them once, and compares their hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
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


class Watch:
    """Checks frozen parameters of a model that others change, whenever torch has counted a change
    of them."""

    def __init__(self, frozen: Frozen, problem: str) -> None:
        self._frozen, self._problem = frozen, problem
        self._seen: list[tuple[int, int]] | None = None

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        """See `Frozen.check`."""
        own = [tensors[name] for name in self._frozen.hashes if name in tensors]
        seen = [(tensor.data_ptr(), tensor._version) for tensor in own]
        if seen != self._seen:
            self._frozen.check(tensors, self._problem)
            self._seen = seen


def _sha256(tensor: Tensor) -> str:
    """Hash of a tensor's shape and values."""
    values = tensor.detach().cpu().contiguous()
    values = values.float() if values.is_floating_point() else values
    digest = hashlib.sha256(f"{list(values.shape)}".encode())
    digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
