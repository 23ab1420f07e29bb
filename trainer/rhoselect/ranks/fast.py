"""Sums of ranks by a library (``trainer.reduce = "fast"``), which decides about their order: bits
repeat for one number of ranks. A GPU's gradients stay there."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed
from torch import Tensor

from rhoselect.config import Config
from rhoselect.ranks.gloo import GlooGroup, Meeting, fill, flat_of
from rhoselect.ranks.gpu import PATIENCE, settle, work_on

_distributed = cast(Any, torch.distributed)  # its stubs do not know these


class FastGroup(GlooGroup):
    """A `GlooGroup` whose ``total`` is an all-reduce: of gloo on CPUs, of NCCL on GPUs."""

    _nccl: Any = None

    def _become_sums(self, values: Sequence[Tensor], like: Sequence[Tensor]) -> None:
        kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        for value in values:
            kinds.setdefault((value.dtype, value.device), []).append(value)
        for (_, device), same in kinds.items():
            flat = flat_of(same)
            self._backend(device).allreduce([flat]).wait()
            if device.type == "cuda":  # there the wait is for the GPU's next work alone
                settle(work_on(device), self.check, self.timeout_s)
            fill(same, flat)

    def _backend(self, device: torch.device) -> Any:
        if device.type == "cpu":
            return self._group
        if self._nccl is None:
            options = _distributed.ProcessGroupNCCL.Options()
            options._timeout = timedelta(seconds=PATIENCE * self.timeout_s)
            store = _distributed.PrefixStore("nccl", self.store)
            self._nccl = _distributed.ProcessGroupNCCL(store, self.rank, self.size, options)
            self.leave = self._nccl.abort
        return self._nccl


def group_of(config: Config, rank: int, meeting: Path | Meeting) -> GlooGroup:
    """One of the ``trainer.devices`` of a run: see `GlooGroup`."""
    kind = FastGroup if config.trainer.reduce == "fast" else GlooGroup
    return kind(rank, config.trainer.devices, meeting, config.cluster.rank_timeout_s)
