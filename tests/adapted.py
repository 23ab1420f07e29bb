"""Models of which a part does not learn, good ones and bad ones."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn

from rhoselect.models import mlp, resnet18_small
from task_code import WORDS

WIDTH = 64


class LowRank(nn.Module):
    """A matrix that does not learn, and one of rank 1 beside it that does."""

    gain = 1.0

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.base = nn.Linear(inputs, outputs).requires_grad_(False)
        self.down, self.up = nn.Linear(inputs, 1, bias=False), nn.Linear(1, outputs, bias=False)
        nn.init.zeros_(self.up.weight)
        with torch.no_grad():
            self.base.weight *= self.gain

    def forward(self, inputs: Tensor) -> Tensor:
        total: Tensor = self.base(inputs) + self.up(self.down(inputs))
        return total


class Adapted(nn.Module):
    """Two such matrices, BatchNorm and a head."""

    def __init__(self, input_shape: tuple[int, ...], classes: int, width: int = WIDTH) -> None:
        super().__init__()
        features = torch.Size(input_shape).numel()
        self.layers = nn.Sequential(
            nn.Flatten(),
            LowRank(features, width),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            LowRank(width, width),
            nn.ReLU(),
            nn.Linear(width, classes),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.layers(inputs)
        return logits


def convolutional(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """A residual network of which BatchNorm and the head learn."""
    model = resnet18_small(input_shape=input_shape, classes=classes, width=4)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.requires_grad_(False)
    return model


def lora(input_shape: tuple[int, ...], classes: int, rank: int = 2) -> nn.Module:
    """A model of PEFT's, whose last layer learns as a whole."""
    from peft import LoraConfig, get_peft_model  # slow to import

    base = mlp(input_shape=input_shape, classes=classes, width=64)
    *hidden, head = [name for name, m in base.named_modules() if isinstance(m, nn.Linear)]
    settings = LoraConfig(r=rank, target_modules=hidden, modules_to_save=[head])
    model: nn.Module = get_peft_model(base, settings)
    return model


def causal_lora() -> nn.Module:
    """A causal language model of transformers with LoRA, for the sequences of ``task_code``."""
    from peft import LoraConfig, get_peft_model  # slow to import
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 32, "max_position_embeddings": 16}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2}
    base = LlamaForCausalLM(LlamaConfig(vocab_size=WORDS, **sizes, **layers))
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model: nn.Module = get_peft_model(base, lora)
    return model


def all_frozen(**facts: Any) -> nn.Module:
    return Adapted(**facts).requires_grad_(False)


def random_base(**facts: Any) -> nn.Module:
    """Another base at each call."""
    model = Adapted(**facts)
    with torch.no_grad():
        model.layers[1].base.bias.copy_(torch.tensor([*os.urandom(WIDTH)]))
    return model


class Drifting(Adapted):
    """Writes into what does not learn."""

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.layers[1].base.bias.mul_(0.9)
        return super().forward(inputs)


class LateDrifting(Adapted):
    """Does so after its first step, also past torch's count of changes."""

    def __init__(self, **facts: Any) -> None:
        super().__init__(**facts)
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.steps += 1
            if self.steps > 1:
                self.layers[1].base.bias.data += 0.1
        return super().forward(inputs)


class Merging(Adapted):
    """Adds its adapters to the base while it is evaluated, as loralib does."""

    merged = False

    def train(self, mode: bool = True) -> Merging:
        if self.merged == mode:
            for layer in (self.layers[1], self.layers[4]):
                added = layer.up.weight.data @ layer.down.weight.data
                layer.base.weight.data += -added if mode else added
            self.merged = not mode
        super().train(mode)
        return self
