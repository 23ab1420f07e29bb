"""The section of the scorers, on which results depend as on the others."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rhoselect.config.base import Section
from rhoselect.config.sections import ModelConfig, Scalar

ScoringPrecision = Literal["auto", "fp32", "bf16", "fp16"]


class ScorerConfig(Section):
    """How scores are computed. Part of the result: the same on every worker."""

    precision: ScoringPrecision = Field(
        "auto",
        description="autocast dtype of the scoring forward; auto: bf16 where the hardware has it"
        " (GPUs of other machines are assumed to), else fp32",
    )
    cast: Literal["autocast", "all"] = Field(
        "autocast",
        description="weights held, and sent, in that dtype: those that autocast casts (of linear"
        " layers and convolutions), or all of two or more dimensions: less to send for embeddings"
        " and experts, with scores that differ by rounding",
    )
    channels_last: bool = Field(
        False,
        description="store images and convolutions by pixel: faster, with different last bits",
    )
    fold_batchnorm: bool = Field(
        False,
        description="merge each BatchNorm into the convolution before it; needs selection.bn ="
        " 'running': faster, with different last bits",
    )
    threads: int = Field(1, ge=1, le=1024, description="CPU threads of one scorer")
    prefetch: int = Field(
        2, ge=1, le=1024, description="tickets claimed and read ahead of their weights"
    )
    device: str = Field(
        "auto",
        description="'auto', 'cpu', 'cuda' (the GPUs after the trainer's, in turn) or 'cuda:N'; the"
        " trainer scores on its own GPU",
    )
    proxy: str = Field(
        "",
        description="'module:factory' of a smaller network that scores in place of the target: it"
        " learns from the same batches, and its weights alone are sent; '': the target scores",
    )
    proxy_args: dict[str, Scalar] = Field(
        default_factory=dict, description="keywords for the factory of proxy"
    )
    proxy_lr_factor: float = Field(
        1.0, gt=0, description="the proxy's learning rate is trainer.lr times this"
    )

    @property
    def proxy_model(self) -> ModelConfig | None:
        """The proxy as a model of its own; None without one."""
        return ModelConfig(factory=self.proxy, args=self.proxy_args) if self.proxy else None
