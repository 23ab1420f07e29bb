"""Convolutions that have taken in the BatchNorm behind them: a pass over the activations less.

With running statistics BatchNorm is a scale and a shift a channel, which a convolution can do by
the way (Jacob et al. 2018, "Quantization and training of neural networks", section 3.2). The last
bits differ from those of the two one after the other.
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from rhoselect.errors import ModelError
from rhoselect.importing import one_line
from rhoselect.models.held import Derived


@dataclass(frozen=True)
class _Pair:
    """A convolution and the BatchNorm behind it; ``weight`` and ``bias`` are those of one that does
    what both do."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d
    weight: Tensor
    bias: Tensor

    @property
    def offset(self) -> Tensor:
        """The convolution's own bias."""
        bias = self.conv.bias
        return torch.zeros_like(self.bias) if bias is None else bias


class Folded(nn.Module, Derived):
    """What ``model``, which is in evaluation mode, computes, with folded convolutions.

    It shares the other layers with the model. Raises ModelError for a model that cannot be traced.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        try:
            self._graph = fx.symbolic_trace(model)
        except Exception as error:
            raise ModelError(
                f"scorer.fold_batchnorm: this model cannot be traced ({one_line(error)}), allowed"
                " one whose forward has no branches on values; set the key to false"
            ) from None
        self._pairs = list(self._fold())
        self._graph.recompile()
        self.refresh()

    def refresh(self) -> None:
        """See `Derived.refresh`. A GPU's host starts one kernel for all layers where it can: layer
        by layer it would start some 400 for a ResNet-50."""
        pairs, norms = self._pairs, [pair.norm for pair in self._pairs]
        if not pairs:
            return
        with torch.no_grad():
            means = [_given(norm.running_mean) for norm in norms]
            variances = [_given(norm.running_var) for norm in norms]
            inverse = torch._foreach_rsqrt(torch._foreach_add(variances, [n.eps for n in norms]))
            gains = torch._foreach_mul(inverse, [norm.weight for norm in norms])
            biases = torch._foreach_sub([pair.offset.float() for pair in pairs], means)
            torch._foreach_mul_(biases, gains)
            torch._foreach_add_(biases, [norm.bias for norm in norms])
            columns = [each[:, None, None, None] for each in gains]
            weights = torch._foreach_mul([p.conv.weight.float() for p in pairs], columns)
            torch._foreach_copy_([pair.weight for pair in pairs], weights)
            torch._foreach_copy_([pair.bias for pair in pairs], biases)

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self._graph(inputs)
        return output

    def _fold(self) -> list[_Pair]:
        """Replace every convolution that only a BatchNorm follows, and leave that out."""
        graph, modules = self._graph.graph, dict(self._graph.named_modules())
        uses = Counter(node.target for node in graph.nodes if node.op == "call_module")
        pairs = []
        for node in list(graph.nodes):
            before = node.args[0] if node.args else None
            if not isinstance(before, fx.Node) or len(before.users) > 1:
                continue
            if {node.op, before.op} != {"call_module"} or uses[before.target] > 1:
                continue
            conv, norm = modules[str(before.target)], modules[str(node.target)]
            if not isinstance(conv, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d):
                continue
            if not (norm.affine and norm.track_running_stats):
                continue
            merged = copy.deepcopy(conv)
            if merged.bias is None:
                zeros = merged.weight.new_zeros(merged.out_channels)
                merged.bias = nn.Parameter(zeros, requires_grad=False)
            self._graph.set_submodule(str(before.target), merged)
            node.replace_all_uses_with(before)
            graph.erase_node(node)
            pairs.append(_Pair(conv, norm, merged.weight, merged.bias))
        return pairs


def _given(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor
