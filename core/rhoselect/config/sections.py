"""The sections that results depend on, except for the keys in ``tree.FREE``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self
from urllib.parse import parse_qsl, urlsplit

from pydantic import Field, model_validator

from rhoselect.config.base import Place, Section, cache_home

Scalar = bool | int | float | str


class DataConfig(Section):
    """The data set: a folder made by ``rhoctl data import``, on disk or in an object store, or a
    torch Dataset; and the order in which its points become candidates."""

    path: Place | None = Field(
        None,
        description="folder of Arrow shards and manifest.json, or its URI (s3://, gs://, hdfs://),"
        " whose credentials come from the environment",
    )
    dataset: str | None = Field(
        None,
        description="'module:factory' of torch data sets: factory(split=…, **args) is called with"
        " train, holdout and test, gives a map-style Dataset of examples as the task takes them,"
        " and raises KeyError for a holdout that it does not have",
    )
    args: dict[str, Scalar] = Field(default_factory=dict, description="keywords for dataset")
    order: Literal["shuffled", "streamed"] = Field(
        "shuffled",
        description="order of candidates: all points shuffled, or groups of shards in turn",
    )
    stream_blocks: int = Field(8, ge=1, description="shards shuffled together in order 'streamed'")
    resident: Literal["", "device"] = Field(
        "",
        description="'device': each process that reads holds all of split train in the memory of"
        " its device; raw points on disk only",
    )
    cache_dir: Place | None = Field(
        None, description="folder for fetched shards and mapped tables; ~/.cache/rhoselect if unset"
    )
    cache_bytes: int = Field(
        32 << 30, ge=1, description="most bytes of fetched shards; a node's processes share them"
    )
    timeout_s: float = Field(
        120.0, gt=0, description="seconds without data from the store after which a run fails"
    )

    @property
    def remote(self) -> bool:
        """Whether shards are fetched from a store."""
        return self.path is not None and "://" in self.path

    @property
    def cache_folder(self) -> Path:
        """``cache_dir``, or its default."""
        return cache_home() if self.cache_dir is None else Path(self.cache_dir)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.dataset is None):
            raise ValueError("set exactly one of data.path and data.dataset")
        if self.dataset is not None and self.order == "streamed":
            raise ValueError(
                "data.order: got 'streamed', allowed 'shuffled' for data.dataset, which has no"
                " shards; import the data"
            )
        if self.resident and (self.remote or self.dataset is not None):
            raise ValueError("data.resident: got 'device', allowed for a data.path on disk; set ''")
        if self.remote and (secret := _secret_in(str(self.path))):
            raise ValueError(
                f"data.path: got a URI with {secret}, allowed none that holds a secret; set"
                " credentials in the environment, as in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        return self


class AugmentConfig(Section):
    """Views of images that are scored and trained on, another one each epoch; evaluation and
    irreducible losses see the images as they are."""

    crop_padding: int = Field(
        0, ge=0, le=512, description="black pixels on each side before a random crop; 0 is off"
    )
    flip: bool = Field(False, description="flip horizontally with probability 1/2")


class TaskConfig(Section):
    """What is learnt: how examples become a batch, each point's loss, and what is measured."""

    name: str = Field(
        "classification", description="a built-in name or 'module:Class', called as Class(**args)"
    )
    args: dict[str, Scalar] = Field(default_factory=dict, description="keywords for the class")


class ModelConfig(Section):
    """The target model: a factory called as factory(**args), for built-in tasks with the keywords
    input_shape and classes, too."""

    factory: str = Field("rhoselect.models:mlp", description="'module:factory'")
    args: dict[str, Scalar] = Field(default_factory=dict, description="keywords for factory")
    weights: Place | None = Field(
        None, description="file of initial weights: .safetensors, or a state dict saved by torch"
    )
    weights_head: bool = Field(
        True, description="false: the last layer keeps its own initial weights, whatever the file's"
    )


class IlConfig(Section):
    """The irreducible-loss table, or the model itself, both made by ``rhoctl il fit``."""

    table: Place | None = Field(None, description="Parquet file; needed by functions that use IL")
    overlap: Literal["forbid", "allow"] = Field(
        "forbid", description="'allow' accepts an IL model trained on points of the train split"
    )
    weights: Place | None = Field(
        None,
        description="safetensors file made by 'rhoctl il fit --weights-out'; needed by functions"
        " that evaluate the IL model during the run, such as 'updated_reducible_loss'",
    )
    update_lr_factor: float = Field(
        0.01,
        ge=0,
        description="the IL model of il.weights also trains on each batch, with the learning rate"
        " times this factor; 0: it does not train",
    )


class SelectionConfig(Section):
    """Which candidates become a batch (Algorithm 1)."""

    function: str = Field("reducible_loss", description="a built-in name or 'module:object'")
    n_b: int = Field(32, ge=1, description="points trained on per step")
    n_B: int = Field(320, ge=1, description="candidates drawn per step")
    chunk: int = Field(32, ge=1, description="candidates scored at once; divides n_B")
    lag: int = Field(
        0, ge=0, description="age in steps of the weights that score; 0 is Algorithm 1"
    )
    audit_every: int = Field(
        0, ge=0, description="steps between audits of stale ranks; 0: no audits"
    )
    rescore: Literal["trainer", "scorers"] = Field(
        "trainer",
        description="who re-scores a shortlist: the trainer alone, or the scorers and the trainer;"
        " the result is the same",
    )
    shortlist: int = Field(
        0,
        ge=0,
        description="k: re-score the best k n_b points with the newest weights; 0: 1 if scores are"
        " fresh, else 5",
    )
    temperature: float = Field(
        1.0, ge=0, description="Gumbel noise on stale scores when shortlist > 1"
    )
    tokens: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of a batch's tokens that are trained on: those whose loss exceeds the"
        " one in il.table the most; 1: all",
    )
    max_tokens: int = Field(
        0,
        ge=0,
        description="most tokens of a batch: of the n_b best points as many as have no more, one at"
        " least; 0: any number",
    )
    bn: Literal["auto", "running", "batch"] = Field(
        "auto",
        description="BatchNorm statistics when scoring: running, or of the batch (the chunk); auto:"
        " of the batch, and running ones, for evaluation and final weights, estimated from"
        " candidates instead of selected points",
    )

    @property
    def scoring_bn(self) -> Literal["running", "batch"]:
        """The BatchNorm statistics of a replica that scores."""
        return "batch" if self.bn == "auto" else self.bn

    @model_validator(mode="after")
    def _sizes(self) -> Self:
        if self.n_b > self.n_B:
            raise ValueError(
                f"selection.n_b: got {self.n_b}, allowed at most selection.n_B = {self.n_B};"
                " lower n_b or raise n_B"
            )
        if self.n_B % self.chunk:
            raise ValueError(
                f"selection.chunk: got {self.chunk}, allowed a divisor of selection.n_B ="
                f" {self.n_B}; change one of the two"
            )
        if self.shortlist * self.n_b > self.n_B:
            raise ValueError(
                f"selection.shortlist: got {self.shortlist}, allowed at most n_B / n_b ="
                f" {self.n_B // self.n_b}; a shortlist cannot exceed its window"
            )
        return self


def _secret_in(uri: str) -> str | None:
    """The part of a URI that looks like a secret, described without showing the secret; or None."""
    parts = urlsplit(uri)
    if parts.password is not None or (parts.username is not None and parts.scheme == "s3"):
        return "a user and password before '@'"
    words = ("key", "secret", "token", "password", "credential", "signature")
    for name, _ in parse_qsl(parts.query, keep_blank_values=True):
        if any(word in name.lower() for word in words):
            return f"the option {name!r}"
    return None
