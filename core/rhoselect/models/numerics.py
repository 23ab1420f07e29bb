"""How a replica computes, as one value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

from rhoselect.config.scoring import ScorerConfig
from rhoselect.errors import ConfigError
from rhoselect.selection.interface import Needs

BatchNormMode = Literal["running", "batch"]
Cast = Literal["autocast", "all"]
Quantize = Literal["none", "int8", "fp8"]


@dataclass(frozen=True)
class Numerics:
    """How a replica computes. Each field changes the last bits of its losses.

    ``precision``: "fp32", "bf16" or "fp16". Linear and convolution weights are held in this dtype
    and everything else in float32, under autocast: bit for bit what autocast computes from float32
    weights, without casting them at every forward. With ``cast`` "all" so are all parameters of two
    or more dimensions, such as embeddings, and forwards differ from plain autocast. ``bn``:
    BatchNorm with "running" statistics, or with those of the scored "batch"; the latter owns no
    running statistics at all, so scoring cannot touch them. ``channels_last`` lays images and
    convolution weights out by pixel, which is faster. ``fold_batchnorm`` merges each BatchNorm into
    the convolution before it and needs "running". ``quantize``: see ``rowwise``; ``compile``: see
    ``compiling``; ``graph``: see ``captured``.
    """

    precision: str
    bn: BatchNormMode = "running"
    channels_last: bool = False
    fold_batchnorm: bool = False
    cast: Cast = "autocast"
    quantize: Quantize = "none"
    compile: bool = False
    graph: bool = False

    @classmethod
    def of(cls, scorer: ScorerConfig, bn: BatchNormMode) -> Self:
        """Those that a configuration asks for."""
        return cls(
            scorer.precision,
            bn,
            scorer.channels_last,
            scorer.fold_batchnorm,
            scorer.cast,
            scorer.quantize,
            scorer.compile,
            scorer.graph,
        )

    def check(self, needs: Needs) -> None:
        """Raise ConfigError for a score function that looks into a forward which runs as one."""
        for name in ("compile", "graph"):
            if getattr(self, name) and (needs.features or needs.passes):
                raise ConfigError(
                    f"scorer.{name}: got true with a selection.function that uses last-layer"
                    " features or stochastic passes, allowed false: it looks into the forward"
                )
