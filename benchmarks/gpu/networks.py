"""The networks of the check in plain torch: a GPU image need not have timm or torchvision.

Each is also a factory for ``model.factory``. Their weights are random.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rhoselect.models import resnet50 as resnet50_small


def resnet50(*, input_shape: tuple[int, ...], classes: int, width: int = 64) -> nn.Module:
    """ResNet-50 as for ImageNet: a 7x7 stem of stride 2 and a max-pool."""
    model = resnet50_small(input_shape=input_shape, classes=classes, width=width)
    convolution = nn.Conv2d(input_shape[0], width, 7, 2, 3, bias=False)
    model.stem = nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    return model


class Attention(nn.Module):
    """Self-attention of ``heads`` queries, which share ``groups`` keys and values."""

    def __init__(self, width: int, heads: int, groups: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.groups, self.causal = heads, groups, causal
        self.size = width // heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * groups * self.size, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[C, T, D] to [C, T, D]."""
        points, tokens, width = x.shape
        query = self.query(x).view(points, tokens, self.heads, self.size).transpose(1, 2)
        both = self.key_value(x).view(points, tokens, 2, self.groups, self.size)
        key, value = both.permute(2, 0, 3, 1, 4)  # each [C, groups, T, D / heads]
        if self.groups != self.heads:
            copies = self.heads // self.groups
            key, value = (each.repeat_interleave(copies, 1) for each in (key, value))
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        mixed: Tensor = self.out(seen.transpose(1, 2).reshape(points, tokens, width))
        return mixed


class Gated(nn.Module):
    """The perceptron of Llama: SiLU of one half times the other."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width, 2 * hidden, bias=False)
        self.contract = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.expand(x).chunk(2, -1)
        y: Tensor = self.contract(F.silu(gate) * value)
        return y


class Block(nn.Module):
    """Attention and a perceptron, each over a norm and added to its input."""

    def __init__(self, attention: nn.Module, perceptron: nn.Module, norms: list[nn.Module]) -> None:
        super().__init__()
        self.attention, self.perceptron = attention, perceptron
        self.norm1, self.norm2 = norms

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        y: Tensor = x + self.perceptron(self.norm2(x))
        return y


class Transformer(nn.Module):
    """Images by patches, or token ids, to logits [C, K] off the last place."""

    def __init__(
        self, embed: nn.Module, blocks: list[nn.Module], norm: nn.Module, width: int, classes: int
    ) -> None:
        super().__init__()
        self.embed, self.blocks = embed, nn.Sequential(*blocks)
        self.norm, self.head = norm, nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.embed(x)
        if y.ndim == 4:  # [C, D, H, W] of patches
            y = y.flatten(2).transpose(1, 2)
        logits: Tensor = self.head(self.norm(self.blocks(y))[:, -1])
        return logits


def vit(
    *,
    input_shape: tuple[int, ...],
    classes: int,
    width: int = 768,
    heads: int = 12,
    layers: int = 12,
    patch: int = 16,
) -> nn.Module:
    """A vision transformer, ViT-B/16 by default; without positions, which cost nothing."""
    blocks: list[nn.Module] = []
    for _ in range(layers):
        perceptron = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        norms: list[nn.Module] = [nn.LayerNorm(width), nn.LayerNorm(width)]
        blocks.append(Block(Attention(width, heads, heads, False), perceptron, norms))
    embed = nn.Conv2d(input_shape[0], width, patch, patch)
    return Transformer(embed, blocks, nn.LayerNorm(width), width, classes)


def llama(
    *,
    input_shape: tuple[int, ...],
    classes: int,
    width: int = 2048,
    heads: int = 32,
    groups: int = 8,
    layers: int = 16,
    hidden: int = 8192,
    vocabulary: int = 128_256,
) -> nn.Module:
    """The shape of Llama-3.2-1B by default, as a classifier; without rotary positions."""
    blocks: list[nn.Module] = []
    for _ in range(layers):
        norms: list[nn.Module] = [nn.RMSNorm(width), nn.RMSNorm(width)]
        attention = Attention(width, heads, groups, True)
        blocks.append(Block(attention, Gated(width, hidden), norms))
    embed = nn.Embedding(vocabulary, width)
    return Transformer(embed, blocks, nn.RMSNorm(width), width, classes)


def inputs_of(shape: tuple[int, ...], points: int, device: torch.device, vocabulary: int) -> Tensor:
    """Random images [C, *shape], or token ids [C, T] where the shape is [T]."""
    if len(shape) == 1:
        return torch.randint(1, vocabulary, (points, *shape), device=device)
    return torch.randn(points, *shape, device=device)
