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
from torch.nn.utils.fusion import fuse_conv_bn_weights

from rhoselect.errors import ModelError
from rhoselect.importing import one_line
from rhoselect.models.held import Derived


@dataclass(frozen=True)
class _Pair:
    """``merged`` does what ``conv`` and then ``norm`` do."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d
    merged: nn.Conv2d


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
        """See `Derived.refresh`."""
        with torch.no_grad():
            for pair in self._pairs:
                conv, norm, merged = pair.conv, pair.norm, pair.merged
                assert norm.running_mean is not None and norm.running_var is not None
                weight, shift = fuse_conv_bn_weights(
                    conv.weight.float(),
                    None if conv.bias is None else conv.bias.float(),
                    norm.running_mean,
                    norm.running_var,
                    norm.eps,
                    norm.weight,
                    norm.bias,
                )
                assert merged.bias is not None
                merged.weight.copy_(weight)
                merged.bias.copy_(shift)

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
            merged = copy.deepcopy(conv)
            if merged.bias is None:
                zeros = merged.weight.new_zeros(merged.out_channels)
                merged.bias = nn.Parameter(zeros, requires_grad=False)
            self._graph.set_submodule(str(before.target), merged)
            node.replace_all_uses_with(before)
            graph.erase_node(node)
            pairs.append(_Pair(conv, norm, merged))
        return pairs
