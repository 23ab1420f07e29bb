"""Linear layers whose products are of 8 bits.

Each row of activations and each row of weights has a scale of its own, from its greatest number
(Dettmers et al. 2022, "LLM.int8()", section 2; "dynamic": nothing is calibrated). So a row's result
does not depend on the other rows. Snapshots carry weights as ever, and each replica makes the 8
bits of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rhoselect.errors import ConfigError, ModelError
from rhoselect.models.held import Derived

MULTIPLE = 16  # of both sizes of a layer, as kernels of GPUs need it
FEWEST_ROWS = 17  # that the product of int8 takes on a GPU
LEAST = 1e-30  # a scale of a row of zeros
FP8_CAPABILITY = (8, 9)


class Rowwise(nn.Linear, Derived):
    """A layer of 8 bits: ``weight`` is the one that snapshots are copied to."""

    dtype: ClassVar[torch.dtype]
    largest: ClassVar[float]
    rows: Tensor
    """The weights [N, K] in 8 bits; with ``scales`` [N] they are what ``weight`` is, rounded."""
    scales: Tensor

    def product(self, rows: Tensor, scales: Tensor) -> Tensor:
        """Rows [R, K] in 8 bits times ``scales`` [R], times the weights: [R, N]."""
        raise NotImplementedError

    def refresh(self) -> None:
        """See `Derived.refresh`."""
        with torch.no_grad():
            for own, new in zip((self.rows, self.scales), self._rounded(self.weight), strict=True):
                own.copy_(new)

    def forward(self, inputs: Tensor) -> Tensor:
        rows, scales = self._rounded(inputs.reshape(-1, self.in_features))
        found = self.product(rows, scales).float()
        if self.bias is not None:
            found = found + self.bias.float()
        shape = (*inputs.shape[:-1], self.out_features)
        return found.view(shape).to(_dtype_of_results(inputs))

    def _rounded(self, wide: Tensor) -> tuple[Tensor, Tensor]:
        """Rows [R, K] in 8 bits, and their scales [R] float32."""
        wide = wide.float()
        scales = wide.abs().amax(1).clamp(min=LEAST) / self.largest
        scaled = (wide / scales[:, None]).clamp(-self.largest, self.largest)
        return (scaled if self.dtype.is_floating_point else scaled.round()).to(self.dtype), scales


class Int8Linear(Rowwise):
    """Products of int8, with exact sums. A CPU computes them in float32, no faster: the product of
    int8 that torch has for CPUs is many times slower on those without instructions for it."""

    dtype, largest = torch.int8, 127.0

    def product(self, rows: Tensor, scales: Tensor) -> Tensor:
        """See `Rowwise.product`."""
        if rows.is_cuda:
            missing = max(0, FEWEST_ROWS - len(rows))
            padded = F.pad(rows, (0, 0, 0, missing)) if missing else rows
            sums: Tensor = torch._int_mm(padded, self.rows.t())[: len(rows)]
        else:
            with torch.autocast("cpu", enabled=False):
                sums = rows.float() @ self.rows.float().t()
        return sums.float() * scales[:, None] * self.scales


class Fp8Linear(Rowwise):
    """Products of float8 with four bits of exponent."""

    dtype, largest = torch.float8_e4m3fn, 448.0

    def product(self, rows: Tensor, scales: Tensor) -> Tensor:
        """See `Rowwise.product`."""
        found: Tensor = torch._scaled_mm(
            rows,
            self.rows.t(),
            scale_a=scales[:, None],
            scale_b=self.scales[None],
            out_dtype=torch.bfloat16,
        )
        return found


KINDS: dict[str, type[Rowwise]] = {"int8": Int8Linear, "fp8": Fp8Linear}


def _flops(left: Sequence[int], right: Sequence[int], **_: object) -> int:
    """Of the product of two shapes."""
    return 2 * left[0] * left[1] * right[1]


FLOPS = {torch.ops.aten._int_mm: _flops}
"""What torch's counter of FLOPs does not know."""


def quantize(model: nn.Module, kind: str, device: torch.device) -> None:
    """Turn the linear layers of ``model`` whose sizes are multiples of 16 into those of ``kind``,
    "int8" or "fp8", in place. Raises ConfigError for a device without it, ModelError without such
    layers."""
    if kind == "fp8":
        _check_fp8(device)
    layers = [
        module
        for module in model.modules()
        if type(module) is nn.Linear
        and module.in_features % MULTIPLE == 0
        and module.out_features % MULTIPLE == 0
    ]
    if not layers:
        raise ModelError(
            f"scorer.quantize: got {kind!r} and a model without a torch.nn.Linear whose sizes are"
            f" multiples of {MULTIPLE}, allowed models that have one; set 'none'"
        )
    for layer in layers:
        # As torch's parametrize does it: names, hooks and tied weights stay.
        layer.__class__ = KINDS[kind]
        assert isinstance(layer, Rowwise)
        rows, scales = layer._rounded(layer.weight)
        layer.register_buffer("rows", rows, persistent=False)
        layer.register_buffer("scales", scales, persistent=False)


def _check_fp8(device: torch.device) -> None:
    cuda = device.type == "cuda"
    if not cuda or torch.cuda.get_device_capability(device) < FP8_CAPABILITY:
        got = torch.cuda.get_device_name(device) if cuda else "the CPU"
        raise ConfigError(
            f"scorer.quantize: got 'fp8' and scores from {got}, allowed on GPUs of capability 8.9"
            " or more; choose 'int8' or 'none', or another scorer.device"
        )


def _dtype_of_results(inputs: Tensor) -> torch.dtype:
    """As a linear layer has it: that of autocast, where it is on."""
    kind = inputs.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else inputs.dtype
