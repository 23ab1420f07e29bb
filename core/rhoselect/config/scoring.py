"""The sections of how scores, and float32 products, are computed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rhoselect.config.base import Section
from rhoselect.config.sections import ModelConfig, Scalar

Tf32 = Literal["convolutions", "all", "none"]


class ComputeConfig(Section):
    """How GPUs compute, in training and scoring."""

    tf32: Tf32 = Field(
        "convolutions",
        description="float32 operations on GPUs that use TF32, which is faster and less accurate:"
        " convolutions and recurrent layers, as torch does; all: matrix products, too",
    )


class ScorerConfig(Section):
    """How scores are computed. Part of the result: the same on every worker."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
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
    quantize: Literal["none", "int8", "fp8"] = Field(
        "none",
        description="products of linear layers whose sizes are multiples of 16 in 8 bits, with a"
        " scale for each row of activations and of weights; int8: no faster on a CPU; fp8: on GPUs"
        " of capability 8.9 or more; on an H200 int8 .4 to 1.2 and fp8 .6 to 1 times"
        " the rate of bf16, fp8 with compile 1.6",
    )
    compile: bool = Field(
        False,
        description="torch.compile of the forward, once for each shape of a chunk: needs a C++"
        " compiler, and Triton on GPUs; other last bits; on an H200 1.3 to 2.9 times the rate",
    )
    graph: bool = Field(
        False,
        description="a CUDA graph of the forward, captured once for each shape of a chunk: 4 times"
        " the rate where a CPU launches kernels too slowly, as those of small networks; else none",
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
