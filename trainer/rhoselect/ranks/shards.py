"""A model in parts on the ranks of a group, by FSDP2 of torch: each holds some rows of every
parameter and of its optimizer's state. Whole layers are gathered for a forward and a backward."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard

from rhoselect.errors import ConfigError, LostRankError
from rhoselect.importing import one_line
from rhoselect.ranks.blocks import blocks
from rhoselect.ranks.gloo import GlooGroup, gloo_at, reason
from rhoselect.ranks.gpu import PATIENCE, settle, work_on

_distributed = cast(Any, torch.distributed)  # its stubs do not know these
GLOO = "gloo_at"
"""torch's name for the gloo of a group, which listens where the group does."""


class Shards:
    """The parts of a model that the ranks of ``group`` hold on devices of one kind. A process has
    one at a time, until the group's ``leave``."""

    def __init__(self, group: GlooGroup, device: torch.device) -> None:
        self.group = group
        if not hasattr(FSDPModule, "set_reduce_scatter_unused_params"):
            raise ConfigError(
                f"trainer.parallel: got 'fsdp' with torch {torch.__version__}, allowed with torch"
                " 2.13 or newer; upgrade it, or set 'replicated'"
            )
        on_gpu, limit = device.type == "cuda", timedelta(seconds=group.timeout_s)

        def at(store: Any, rank: int, size: int, timeout: timedelta) -> Any:
            return gloo_at(group.address, store, rank, size, limit)

        _distributed.Backend.register_backend(GLOO, at, devices=["cpu"])
        with self.losing():
            _distributed.init_process_group(
                f"cpu:{GLOO},cuda:nccl" if on_gpu else GLOO,
                store=_distributed.PrefixStore("shards", group.store),
                rank=group.rank,
                world_size=group.size,
                timeout=PATIENCE * limit if on_gpu else limit,
                device_id=device if on_gpu else None,
            )
            group.leave = _leave_gpu if on_gpu else _distributed.destroy_process_group
            self._mesh = init_device_mesh(device.type, (group.size,))
        if on_gpu:
            group.settle = lambda: settle(work_on(device), group.check, group.timeout_s)

    def divide(self, model: nn.Module, pattern: str, bf16: bool) -> None:
        """Leave this rank its part of ``model`` on the device, block after block, so that all of it
        is never there. It computes in bfloat16 if ``bf16``. ``pattern``: see `blocks`. Raises
        ConfigError for a model that has no parts."""
        policy = MixedPrecisionPolicy()
        if bf16:
            policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        try:
            for module in (*blocks(model, pattern), model):
                fully_shard(module, mesh=self._mesh, mp_policy=policy)
        except (ValueError, NotImplementedError, RuntimeError, AssertionError) as error:
            raise ConfigError(
                f"trainer.parallel: got 'fsdp' and a model that has no equal parts:"
                f" {one_line(error)}; allowed other models, or 'replicated'"
            ) from None
        for module in model.modules():
            if isinstance(module, FSDPModule):
                # Losses are divided by the points of all ranks, and gloo has sums alone.
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)
                module.set_reduce_scatter_unused_params(True, recurse=False)

    def release(self, model: nn.Module) -> None:
        """Keep only the parts of a divided ``model``. A forward without a backward leaves some
        parameters whole."""
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def gathered(
        self, tensors: Mapping[str, Tensor], dtypes: Mapping[str, torch.dtype]
    ) -> dict[str, Tensor]:
        """The whole tensors that ``dtypes`` names, in its dtypes: rows are cast, then exchanged."""
        found = {name: tensors[name].detach() for name in dtypes}
        divided = {n: t for n, t in found.items() if isinstance(t, DTensor)}
        with torch.no_grad(), self.losing():
            for dtype in dict.fromkeys(dtypes[name] for name in divided):
                names = [name for name in divided if dtypes[name] == dtype]
                found |= self._exchanged({name: divided[name] for name in names}, dtype)
        return found

    def _exchanged(self, tensors: Mapping[str, DTensor], dtype: torch.dtype) -> dict[str, Tensor]:
        """All their rows, in one exchange of equal parts, the last of which are padded."""
        size = self.group.size
        shapes = {n: (-(-len(t) // size), *t.shape[1:]) for n, t in tensors.items()}
        parts = [torch.Size(shape).numel() for shape in shapes.values()]
        device = next(iter(tensors.values())).to_local().device
        own = torch.zeros(sum(parts), dtype=dtype, device=device)
        for part, tensor in zip(torch.split(own, parts), tensors.values(), strict=True):
            rows = tensor.to_local().reshape(-1)
            part[: len(rows)].copy_(rows)
        every = torch.empty(size, len(own), dtype=dtype, device=device)
        whole, part = every.view(torch.uint8), own.view(torch.uint8)  # all dtypes travel alike
        _distributed.all_gather(list(whole.unbind()), part)
        self.group.settle()
        columns = zip(torch.split(every, parts, 1), tensors.items(), strict=True)
        return {
            name: column.reshape(-1, *tensor.shape[1:])[: len(tensor)].contiguous()
            for column, (name, tensor) in columns
        }

    def whole(self, tensor: Tensor) -> Tensor:
        """All rows of a tensor, of which each rank gives its own."""
        with torch.no_grad(), self.losing():
            return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def rows(self, tensor: Tensor) -> tuple[Tensor, list[int] | None]:
        """The rows that this rank has, and the shape of all; None if it has them all."""
        if not isinstance(tensor, DTensor):
            return tensor, None
        return tensor.to_local(), list(tensor.shape)

    def of_rows(self, rows: Tensor, shape: list[int]) -> Tensor:
        """Inverse of ``rows``, on the device of the model."""
        like = torch.empty(shape, device="meta")
        return DTensor.from_local(
            rows.to(self._mesh.device_type),
            self._mesh,
            [Shard(0)],
            run_check=False,
            shape=like.shape,
            stride=like.stride(),
        )

    @contextmanager
    def losing(self) -> Iterator[None]:
        """Turn what an exchange raises into LostRankError."""
        try:
            yield
        except RuntimeError as error:
            if not isinstance(error, _distributed.DistError) and "gloo" not in str(error):
                raise
            rank = self.group.rank
            raise LostRankError(f"rank {rank} lost another one ({reason(error)})") from None


def _leave_gpu() -> None:
    """Leave torch's group and its NCCL, which would wait for work that lost ranks never do."""
    _distributed.distributed_c10d._get_default_group().abort()
    _distributed.destroy_process_group()
