"""Classifiers of token ids."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rhoselect.errors import ModelError
from rhoselect.models.extras import library
from rhoselect.models.shapes import check_tokens


class Block(nn.Module):
    """Self-attention and a two-layer perceptron, each over LayerNorm and added to its input."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        """[C, T, D] to [C, T, D]; ``visible`` [C, 1, 1, T] bool: tokens that may be attended to."""
        points, tokens, width = x.shape
        projected = self.queries_keys_values(self.norm1(x))  # [C, T, 3 D]
        split = projected.view(points, tokens, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4)  # each [C, heads, T, D / heads]
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        x = x + self.dropout(self.mix(seen.transpose(1, 2).reshape(points, tokens, width)))
        y: Tensor = self.dropout(self.contract(F.gelu(self.expand(self.norm2(x)))))
        return x + y


class TextTransformer(nn.Module):
    """Token ids [C, T] int64, 0 = padding, to logits [C, K], read off a class token in front.

    That token is never padding, so that even an empty text has something to attend to.
    """

    def __init__(
        self,
        tokens: int,
        classes: int,
        vocabulary: int,
        width: int,
        heads: int,
        layers: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=0)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, tokens + 1, width))
        nn.init.normal_(self.embedding.weight[1:], std=0.02)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        try:
            embedded = self.embedding(tokens)
        except IndexError:
            raise ModelError(
                f"text_transformer: got token ids from {int(tokens.min())} to {int(tokens.max())},"
                f" allowed 0 to {self.embedding.num_embeddings - 1}; set model.args.vocabulary"
            ) from None
        first = self.class_token.expand(len(tokens), -1, -1)
        x = torch.cat([first, embedded], 1) + self.positions  # [C, T + 1, D]
        visible = F.pad(tokens != 0, (1, 0), value=True)[:, None, None, :]
        for block in self.blocks:
            x = block(x, visible)
        logits: Tensor = self.head(self.norm(x[:, 0]))
        return logits


def text_transformer(
    *,
    input_shape: tuple[int, ...],
    classes: int,
    vocabulary: int,
    width: int = 128,
    heads: int = 4,
    layers: int = 2,
    dropout: float = 0.0,
) -> nn.Module:
    """A small transformer encoder (Vaswani et al. 2017; LayerNorm first) over [T] token ids.

    Ids run from 0, padding, to ``vocabulary`` - 1; ``width`` D is a multiple of ``heads``.
    """
    check_tokens(input_shape)
    if width % heads:
        raise ValueError(f"width: got {width}, allowed a multiple of heads = {heads}")
    return TextTransformer(input_shape[0], classes, vocabulary, width, heads, layers, dropout)


ALBERT_DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "classifier_dropout_prob",
)


def albert(
    *,
    input_shape: tuple[int, ...],
    classes: int,
    vocabulary: int = 30_000,
    embedding: int = 128,
    width: int = 768,
    heads: int = 12,
    layers: int = 12,
    hidden: int = 3072,
    dropout: float = 0.0,
) -> nn.Module:
    """ALBERT (Lan et al. 2020) of the library transformers (extra "text"); defaults: base, v2.

    Token ids [C, T] int64, 0 = padding. Weights have the library's names, so that a state dict of
    its AlbertForSequenceClassification can be loaded (``model.weights``).
    """
    check_tokens(input_shape)
    transformers = library("transformers", "text")

    class Albert(transformers.AlbertForSequenceClassification):  # type: ignore[misc, name-defined]
        def forward(self, tokens: Tensor) -> Tensor:
            found = super().forward(input_ids=tokens, attention_mask=(tokens != 0).long())
            logits: Tensor = found.logits
            return logits

    config = transformers.AlbertConfig(
        vocab_size=vocabulary,
        embedding_size=embedding,
        hidden_size=width,
        num_attention_heads=heads,
        num_hidden_layers=layers,
        intermediate_size=hidden,
        max_position_embeddings=max(512, input_shape[0]),
        hidden_act="gelu_new",
        num_labels=classes,
        pad_token_id=0,
        **dict.fromkeys(ALBERT_DROPOUTS, dropout),
    )
    return Albert(config)
