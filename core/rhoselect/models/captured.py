"""A forward as CUDA graphs: its kernels are launched by one call, which frees a CPU that could not
keep up with the GPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rhoselect.errors import ConfigError, ModelError
from rhoselect.importing import one_line
from rhoselect.nest import described, leaves, mapped
from rhoselect.types import Batch, Losses

WARM_UPS = 3  # forwards before a capture, in which libraries set up what they may not in one


@dataclass(frozen=True)
class _Graph:
    """``replay`` computes ``found`` of what is in ``inputs``."""

    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    found: Losses


class Captured:
    """``forward`` on ``device``, captured once for each shape of a batch. Its weights stay where
    they are. Raises ConfigError on a CPU.

    All graphs share one pool of memory, so results are copied before the next one runs.
    """

    def __init__(self, forward: Callable[[Batch], Losses], device: torch.device) -> None:
        if device.type != "cuda":
            raise ConfigError(
                f"scorer.graph: got true and scores from the {device.type.upper()}, allowed on"
                " GPUs alone, which have CUDA graphs; set it to false, or set scorer.device"
            )
        self._forward, self._device = forward, device
        self._pool = torch.cuda.graph_pool_handle()
        self._graphs = dict[str, _Graph]()

    def __call__(self, batch: Batch) -> Losses:
        """The losses of ``batch``. Raises ModelError for a forward that cannot be captured."""
        structure, tensors = described(batch.content)
        key = json.dumps([structure, [[*t.shape, str(t.dtype)] for t in tensors.values()]])
        if key not in self._graphs:
            self._graphs[key] = self._captured(batch)
        graph = self._graphs[key]
        for own, given in zip(graph.inputs, tensors.values(), strict=True):
            own.copy_(given)
        graph.graph.replay()
        found = {name: each for name, each in vars(graph.found).items() if each is not None}
        return Losses(**{name: each.clone() for name, each in found.items()})

    def _captured(self, batch: Batch) -> _Graph:
        own = Batch(batch.indices, mapped(batch.content, torch.clone))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device):
            current, side = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(current)
            with torch.cuda.stream(side):
                for _ in range(WARM_UPS):
                    self._forward(own)
            current.wait_stream(side)
            try:
                # Other threads of this process go on: they read points and push scores.
                mode = "thread_local"
                with torch.cuda.graph(graph, pool=self._pool, capture_error_mode=mode):
                    found = self._forward(own)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                raise ModelError(
                    f"scorer.graph: the forward cannot be captured ({one_line(error)}), allowed one"
                    " that never waits for the GPU, as .item() and masks of any length do; set the"
                    " key to false"
                ) from error
        return _Graph(graph, list(leaves(own.content)), found)
