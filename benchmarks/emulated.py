"""An emulated device: models that do their real arithmetic, then wait until a declared time is up.

For measuring systems behaviour with more devices than a machine has. The wait is a sleep, as a host
thread waits for an accelerator, so that many "devices" fit on a few cores. A scoring forward of C
points takes C x ``point_ms`` x ``precision_factor``; the gradient of C points takes
3 x C x ``point_ms`` from the start of the forward to the end of the backward, before ranks sum it.
Forwards of more than ``largest`` points (evaluations) are not emulated. Every figure from it says
"emulated".
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import Variable

from rhoselect.models import mlp as real_mlp
from rhoselect.models import small_cnn as real_small_cnn


class Emulated(nn.Module):
    """``network`` on the emulated device."""

    def __init__(
        self, network: nn.Module, point_ms: float, precision_factor: float, largest: int
    ) -> None:
        super().__init__()
        self.network = network
        self._point_s = point_ms / 1e3
        self._precision_factor, self._largest = precision_factor, largest

    def forward(self, inputs: Tensor) -> Tensor:
        started = time.perf_counter()
        logits: Tensor = self.network(inputs)
        if self.training and torch.is_grad_enabled():
            ends = started + 3 * len(inputs) * self._point_s
            logits.register_hook(lambda _: _at_end_of_backward(partial(wait_until, ends)))
        elif len(inputs) <= self._largest:
            wait_until(started + len(inputs) * self._point_s * self._precision_factor)
        return logits


def wait_until(deadline: float) -> None:
    """Sleep until ``deadline`` by time.perf_counter, to a few microseconds."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(29, 1000)  # PR_SET_TIMERSLACK, in ns: 50 us by default
    while (left_s := deadline - time.perf_counter()) > 0:
        time.sleep(left_s)


def mlp(input_shape: tuple[int, ...], classes: int, **args: Any) -> nn.Module:
    """The built-in mlp on the emulated device."""
    return _emulated(real_mlp, input_shape, classes, args)


def small_cnn(input_shape: tuple[int, ...], classes: int, **args: Any) -> nn.Module:
    """The built-in small_cnn on the emulated device."""
    return _emulated(real_small_cnn, input_shape, classes, args)


def _emulated(
    factory: Any, input_shape: tuple[int, ...], classes: int, args: dict[str, Any]
) -> nn.Module:
    point_ms = args.pop("point_ms")
    precision_factor = args.pop("precision_factor", 0.26)
    largest = args.pop("largest", 500)
    network = factory(input_shape=input_shape, classes=classes, **args)
    return Emulated(network, point_ms, precision_factor, largest)


def _at_end_of_backward(call: Callable[[], None]) -> None:
    """Have the backward that calls this end with ``call``."""
    cast(Any, Variable)._execution_engine.queue_callback(call)
